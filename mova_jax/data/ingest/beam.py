"""`prepare` under Apache Beam: the same records and shards, made on the machines of a cluster.

    python -m mova_jax.prepare --input gs://B/clips/captions.jsonl --output gs://B/shards \\
        --runner=DataflowRunner --beam=--project=P --beam=--region=R --beam=--temp_location=gs://B/tmp

Two pipelines, one over videos, one over shards, of the functions that a single machine runs. They
hand over through the output folder, so a pipeline that failed is gone on with like any other call.
The work is written there too, because what a pipeline may carry itself is small (10 MB on
Dataflow). Every machine needs this package and has to see the videos and the output folder.
"""

import functools
import json
from collections.abc import Callable, Sequence

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from mova_jax.data.ingest.partial_output import PARTIAL, ItemResult, PartialOutput, ShardPlan
from mova_jax.data.ingest.tasks import DecodeOptions, Task, from_json, run_task, to_json
from mova_jax.data.shards import ShardError, reraise_as_shard_error
from mova_jax.data.storage import Folder

_WORK = f"{PARTIAL}/work"
_CHUNK = 64  # tasks in a file


def decode_and_pack(
    tasks: Sequence[Task],
    known: dict[str, ItemResult],
    output: Folder,
    form: DecodeOptions,
    options: Sequence[str],
) -> tuple[dict[str, ItemResult], ShardPlan]:
    """Makes all records and shards that are not there.

    Args:
        tasks: of all items, in order.
        known: what became of those that are done.
        output: the output folder.
        form: how videos become records.
        options: of the pipelines, as on Beam's command line; `--runner=...` among them.

    Returns:
        What became of each key, and the plan of the shards.

    Raises:
        ShardError: when a pipeline fails, or its workers do not see the output folder.
    """
    partial = PartialOutput(output)
    todo = [task for task in tasks if task.key not in known]
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    work = functools.partial(run_task, partial=partial, form=form)
    _run(
        "decode",
        [[to_json(task) for task in chunk] for chunk in chunks],
        _Decode(work),
        output,
        options,
    )
    done = partial.outcomes({task.key for task in todo} & partial.keys())
    outcomes = known | partial.retry_results() | done
    plan = ShardPlan()
    for task in tasks:
        if task.key not in outcomes:
            raise ShardError(
                f"The pipeline ended without a word on {task.item.id!r} in {output}: every worker "
                "has to see the output; give a folder that all share, or a URL such as gs://..."
            )
        if size := outcomes[task.key].size:
            plan.add(task.item.split, task.key, size)
    shards = [keys for split in plan.shards.values() for keys in split]
    _run("pack", [[keys] for keys in shards], partial.pack, output, options)
    return outcomes, plan


class _Decode:
    """From the JSON of a task to a record in the output folder."""

    def __init__(self, work: Callable[[Task], ItemResult]):
        self._work = work

    def __call__(self, values: list) -> None:
        self._work(from_json(values))


def _run(name: str, chunks: list[list], work: Callable, output: Folder, options) -> None:
    """Calls `work` on every entry of every chunk, wherever there is room for it."""
    if not chunks:
        return
    with reraise_as_shard_error(f"The work cannot be written to {output}"):
        for number, chunk in enumerate(chunks):
            output.write(_file(name, number), json.dumps(chunk).encode())
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(range(len(chunks)))
                | apache_beam.FlatMap(functools.partial(_read, output, name))
                | apache_beam.Reshuffle()
                | name >> apache_beam.Map(functools.partial(_work_on, work))
            )
    except Exception as error:  # of each runner another kind
        raise ShardError(f"The Beam pipeline {name!r} failed: {str(error)[:1000]}") from error


def _read(output: Folder, name: str, number: int) -> list:
    return json.loads(output.read(_file(name, number)))


def _work_on(work: Callable, entry) -> None:
    work(entry)  # what it returns stands in the output folder


def _file(name: str, number: int) -> str:
    return f"{_WORK}/{name}-{number:06d}.json"
