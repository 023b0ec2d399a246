"""The workdir of a run, which holds its config and its tokenizer from the start.

WORKDIR/config.json               written when the run starts; a restart has to agree with it
WORKDIR/environment.json          variables that change figures (`utils/environment.py`)
WORKDIR/checkpoints/tokenizer/    a copy: the embeddings are only valid with this tokenizer
WORKDIR/metrics.jsonl  tensorboard/  checkpoints/  plots/  report.html
WORKDIR/tracker_id                of the run in an experiment tracker, if it has one
WORKDIR/ranks/SPLIT.npz           the rank of every query of the final evaluation

A workdir may be in a bucket, gs://BUCKET/RUN. Orbax writes the checkpoints there; every process has
a copy of its own of the rest, fetched when the run starts:

    with open_workdir("gs://bucket/run") as (folder, publish):
        ...                              # `folder` is a workdir like any other
        publish()                        # uploads what has changed in it

The main process uploads its copy before each save, so that the metrics that a checkpoint goes with
are in the bucket before it is. An object appears when it is complete. The copy is deleted at the
end, and that of a killed process by the next one.
"""

import atexit
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.data.storage import Folder, cache_no_listings, escapes, is_url
from mova_jax.data.tokenizer import Tokenizer, copy_tokenizer, is_tokenizer
from mova_jax.parallel.processes import is_main
from mova_jax.utils import atomic
from mova_jax.utils.lock import living_folder

FOLDER = "checkpoints"
SAVES = (f"{FOLDER}/last", f"{FOLDER}/best")
CONFIG = "config.json"
RANKS = "ranks"
REPORT = "report.html"
_COMMITTED = "commit_success.txt"  # Orbax's, in a save at a URL, where nothing is renamed
_PREFIX = f"mova_jax-workdir-{os.getuid()}-"
# URLs of the workdirs that folders are copies of. Kept here, for a file in a workdir that somebody
# else made could send the checkpoints of this run anywhere.
_urls: dict[Path, str] = {}

# Keys that may change at a restart: they set the speed of a run or what it prints, and change its
# numbers only by the order of sums.
RESUMABLE_KEYS = (
    "data.cache",
    "data.worker_processes",
    "train.checkpoint_every",
    "train.microbatch",
    "eval.batch_size",
    "log.tracker",
    "model.remat",
    "model.attention",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)


class RunError(Exception):
    """A run cannot start or resume; the message says what to do."""


def check(workdir: str | os.PathLike, config: Config) -> None:
    """Checks that the workdir is empty or belongs to a run of this config.

    Args:
        workdir: may be absent.
        config: of the run; `RESUMABLE_KEYS` may change at a restart, and a vocabulary size of 0
            agrees with any.

    Raises:
        RunError: names the keys in which the run of the workdir differs.
    """
    path = Path(workdir) / CONFIG
    if not path.exists():
        return
    try:
        found = config_lib.from_json(path.read_text())
    except ValueError as error:
        raise RunError(
            f"{place_of(workdir)}/{CONFIG} is not the configuration of a run of this version: "
            f"{error}\n"
            "Choose another --workdir."
        ) from error
    free = (*RESUMABLE_KEYS, "" if config.model.text.vocab_size else "model.text.vocab_size")
    lines = [
        f"\n  {name}: {old!r} there, {new!r} now"
        for name, (old, new) in config_lib.difference(config, found).items()
        if name not in free
    ]
    if lines:
        raise RunError(
            f"{place_of(workdir)} holds a run of another configuration:{''.join(lines)}\n"
            "Choose another --workdir, or start with the configuration of that run."
        )


def claim(workdir: str | os.PathLike, config: Config) -> None:
    """Writes `config.json` into a workdir, which is made when there is none.

    Raises:
        RunError: see `check`.
    """
    check(workdir, config)
    atomic.write_text(Path(workdir) / CONFIG, config_lib.to_json(config))


def tokenizer_folder(workdir: str | os.PathLike) -> Path:
    """The folder of a run's copy of its tokenizer."""
    return Path(workdir) / FOLDER / "tokenizer"


def save_tokenizer(workdir: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """Copies the tokenizer to the checkpoints, or checks that the copy is the same.

    Raises:
        RunError: the run was started with another tokenizer.
    """
    folder = tokenizer_folder(workdir)
    if not is_tokenizer(folder):
        copy_tokenizer(tokenizer.folder, folder)
        return
    probe = "The quick brown fox, 1234 times; it's over."
    saved = Tokenizer(folder, tokenizer.max_tokens)
    same_ids = list(saved.encode(probe).ids) == list(tokenizer.encode(probe).ids)
    if saved.vocab_size != tokenizer.vocab_size or not same_ids:
        raise RunError(
            f"the tokenizer of {tokenizer.folder} ({tokenizer.vocab_size} tokens) is not the one "
            f"that this run was started with ({folder}, {saved.vocab_size} tokens): the shards "
            "were made again. Choose another --workdir, or bring back the old tokenizer."
        )


def is_started(workdir: str | os.PathLike) -> bool:
    """Whether the run of this workdir has a checkpoint to resume from."""
    return bool(complete_saves(checkpoints_folder(workdir) / "last"))


def complete_saves(folder: Path | epath.Path) -> list[Path | epath.Path]:
    """The complete saves of a folder, by step."""
    if not folder.exists():
        return []
    saves = (path for path in folder.iterdir() if path.name.isdecimal())
    found = sorted(saves, key=lambda path: int(path.name))
    return [path for path in found if not is_url(folder) or (path / _COMMITTED).exists()]


def place_of(workdir: str | os.PathLike) -> str:
    """Where a workdir is: its path, or the URL that it is a copy of (`open_workdir`)."""
    return _urls.get(Path(workdir).resolve()) or os.fspath(workdir)


def checkpoints_folder(workdir: str | os.PathLike) -> Path | epath.Path:
    """The folder of a workdir's checkpoints, which may be at a URL."""
    place = place_of(Path(workdir).resolve())
    return (epath.Path if is_url(place) else Path)(place) / FOLDER


@contextlib.contextmanager
def open_workdir(workdir: str | os.PathLike) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A workdir as a folder of this machine, and a function that uploads what has changed.

    Args:
        workdir: a folder, which is taken as it is and never uploaded, or a URL.

    Raises:
        RunError: the bucket cannot be read or written.
    """
    if not is_url(workdir):
        yield Path(workdir), lambda: None
        return
    with living_folder(tempfile.gettempdir(), _PREFIX) as place:
        copy = _Copy(os.fspath(workdir), place)
        try:
            yield copy.folder, copy.publish
        except BaseException:
            with contextlib.suppress(RunError):  # the first error is the one to be told
                copy.publish()
            raise
        copy.publish()


def local_copy(path: str | os.PathLike) -> Path:
    """The path of a model, or of a copy of one at a URL; the copy lives as long as the process.

    Raises:
        RunError: the URL cannot be read, or nothing is there.
    """
    if not is_url(path):
        return Path(path)
    held = contextlib.ExitStack()
    atexit.register(held.close)
    copy = _Copy(os.fspath(path), held.enter_context(living_folder(tempfile.gettempdir(), _PREFIX)))
    if not copy.files:
        raise RunError(f"There is nothing at {path}: expected the workdir of a run, or an export")
    return copy.folder


class _Copy:
    """All of a workdir in a bucket but its checkpoints, in a folder of this machine."""

    def __init__(self, url: str, place: Path):
        cache_no_listings()
        self._url = url.rstrip("/")
        self.folder = place / self._url.rpartition("/")[2]
        self.folder.mkdir()
        with self._errors("read"):
            self._bucket = Folder(self._url)
            self.files = [name for name in self._bucket.stamps() if _is_copied(name)]
            for name in self.files:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._bucket.fetch(name, self.folder / name)
        _urls[self.folder.resolve()] = self._url
        self._known = self._stamps()

    def publish(self) -> None:
        """Uploads the files that have changed, when this is the main process."""
        if not is_main():
            return
        for name, stamp in self._stamps().items():
            if self._known.get(name) != stamp:
                try:
                    content = (self.folder / name).read_bytes()
                except FileNotFoundError:
                    continue
                with self._errors("written"), self._bucket.writing(name) as path:
                    path.write_bytes(content)
                self._known[name] = stamp

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file; those that are written aside are left out."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".partial"):
                with contextlib.suppress(FileNotFoundError):  # a tracker deletes files of its own
                    stat = path.stat()
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = stat.st_size, stat.st_mtime_ns
        return found

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._url} cannot be {action}: {error}") from error


def _is_copied(name: str) -> bool:
    """Whether an object is a file of the workdir, and no checkpoint or mark of a folder."""
    saved = any(name.startswith(f"{folder}/") for folder in SAVES)
    return not saved and not name.endswith("/") and not escapes(name)
