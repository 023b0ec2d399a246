"""Work that a runner of Apache Beam spreads over machines; the only file that knows Beam.

    options = beam_options("FlinkRunner", ["--flink_master=HOST:8081"])
    run_pipeline("decode", tasks, work, Folder("gs://B/shards/.partial/work"), options)

Tasks are written to a folder, because a pipeline itself carries little (10 MB on Dataflow). Results
are what `work` writes where all machines see it, so a pipeline that failed can be resumed.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any

from mova_jax.data.storage import Folder

_CHUNK = 64  # tasks in a file


class PipelineError(Exception):
    """A pipeline that cannot run or failed; the message says why."""


def beam_options(runner: str, options: Sequence[str] = ()) -> list[str]:
    """The options of a pipeline, as on Beam's command line; none without a runner.

    Args:
        runner: `DirectRunner`, `DataflowRunner`, ...; empty when this machine does the work.
        options: of the runner, such as `--region=R`.

    Raises:
        PipelineError: Beam is needed and not installed, or there are options of no runner.
    """
    if not runner:
        if options:
            raise PipelineError("--beam has options of a runner: name one with --runner")
        return []
    if not importlib.util.find_spec("apache_beam"):
        raise PipelineError(
            "--runner needs Apache Beam: pip install -r requirements-beam.txt (docs/data.md)"
        )
    return [f"--runner={runner}", *options]


def run_pipeline(
    name: str,
    tasks: Sequence[Any],
    work: Callable[[Any], None],
    folder: Folder,
    options: Sequence[str],
) -> None:
    """Calls `work` on every task.

    Args:
        name: of the step, and of its files in the folder.
        tasks: values that JSON knows.
        work: can be pickled. A runner may call it again with the same task.
        folder: for the tasks; seen by all workers.
        options: from `beam_options`.

    Raises:
        PipelineError: the tasks cannot be written, or a worker failed.
    """
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    if not chunks:
        return
    try:
        for number, chunk in enumerate(chunks):
            folder.write(_file(name, number), json.dumps(chunk).encode())
    except OSError as error:
        raise PipelineError(f"The work cannot be written to {folder}: {error}") from error
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(range(len(chunks)))
                | apache_beam.FlatMap(functools.partial(_read, folder, name))
                | apache_beam.Reshuffle()
                | name >> apache_beam.Map(functools.partial(_work_on, work))
            )
    except Exception as error:  # every runner raises its own
        raise PipelineError(f"The Beam pipeline {name!r} failed: {str(error)[:1000]}") from error


def _read(folder: Folder, name: str, number: int) -> list:
    return json.loads(folder.read(_file(name, number)))


def _work_on(work: Callable, task) -> None:
    work(task)  # the result is where the work wrote it


def _file(name: str, number: int) -> str:
    return f"{name}-{number:06d}.json"
