"""What the parsers of all commands, and their messages, have in common."""

import argparse
import errno
import shutil

SHARED_MEMORY = "/dev/shm"  # of Linux: where worker processes of Grain put their batches


def command_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser that shows its texts as they are written, and takes no abbreviated flags.

    Args:
        command: as it is typed, such as `python -m mova_jax.embed`.
        description: above the flags of `--help`.
        epilog: below them.
    """
    return argparse.ArgumentParser(
        command,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def local_path(text: str) -> str:
    """The type of a flag whose folder must be on a file system; `file:///x` is `/x`.

    Raises:
        argparse.ArgumentTypeError: for other URLs, which would become a local folder named `gs:`.
    """
    scheme, found, place = text.partition("://")
    if not found:
        return text
    if scheme == "file" and place.startswith("/"):
        return place
    raise argparse.ArgumentTypeError(
        f"got the URL {text}, expected a folder on this machine or a mounted one (file:///FOLDER, "
        "or a bucket mounted by gcsfuse or s3fs)"
    )


def file_error(error: OSError, place: str, shares_memory: bool = False) -> str:
    """The message for an error of the file system.

    Args:
        error: errors of a write have no name of the file.
        place: that the command writes to, for errors without a name.
        shares_memory: whether worker processes hand over batches through `SHARED_MEMORY`.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        shared, here = _free(SHARED_MEMORY), _free(place)
        unnamed = shares_memory and error.errno != errno.EDQUOT and not error.filename
        if unnamed and None not in (shared, here) and shared < here:
            return (
                f"no space is left in {SHARED_MEMORY}, through which worker processes hand over "
                "batches. Make it larger (of a container: --shm-size=2g), or start again with "
                "--config.data.worker_processes=0"
            )
        return (
            f"no space is left on the device of {error.filename or place}; what was finished "
            "before is whole. Make room and start again with the same command."
        )
    if error.filename:
        return f"{error.filename}: {error.strerror}; correct the path or its permissions"
    return str(error) if error.errno is None else f"{place}: {error.strerror}"


def _free(place: str) -> int | None:
    """Free bytes where a path is; None where that cannot be said."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def path_or_bucket(text: str) -> str:
    """The type of a flag whose folder may also be in a bucket of Google's, gs://BUCKET/FOLDER.

    Raises:
        argparse.ArgumentTypeError: for other URLs, to which Orbax writes no checkpoints.
    """
    bucket, _, name = text.removeprefix("gs://").partition("/")
    if text.startswith("gs://") and bucket and name.strip("/"):
        return text.rstrip("/")
    try:
        return local_path(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or gs://BUCKET/FOLDER") from None


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """The flags by which the processes of a command find each other (`parallel/processes.py`)."""
    add = parser.add_argument
    add("--coordinator", default="", help="host:port of process 0, where nothing else says it")
    add("--processes", type=int, default=0, help="number of processes, with --coordinator")
    add("--process", type=int, default=-1, help="number of this process from 0")


def add_runner_flags(parser: argparse.ArgumentParser, instead: str) -> None:
    """The flags of Apache Beam (`data/beam_pipeline.py`).

    Args:
        parser: of the command.
        instead: what the runner replaces, for the help.
    """
    add = parser.add_argument
    add("--runner", default="", metavar="RUNNER",
        help=f"of Apache Beam, {instead}: DirectRunner, DataflowRunner, FlinkRunner, "
        "SparkRunner")  # fmt: skip
    add("--beam", action="append", default=[], metavar="OPTION",
        help="of the runner, may be repeated: --beam=--project=P")  # fmt: skip
