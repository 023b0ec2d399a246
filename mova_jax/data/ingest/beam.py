"""`prepare` on a cluster, with Apache Beam; records and shards are the same as on one machine.

    python -m mova_jax.prepare --input gs://B/clips/captions.jsonl --output gs://B/shards \\
        --runner=DataflowRunner --beam=--project=P --beam=--region=R --beam=--temp_location=gs://B/tmp

One pipeline makes the records, a second one the shards, with the functions that a single machine
uses. They communicate through the output folder, so a failed pipeline can be resumed like any other
call. Tasks are written there too, because a pipeline itself carries little (10 MB on Dataflow).
Every machine needs this package and access to the videos and the output folder.
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
    options: DecodeOptions,
    pipeline_options: Sequence[str],
) -> tuple[dict[str, ItemResult], ShardPlan]:
    """Makes all records and shards that do not exist yet.

    Args:
        tasks: of all items, in order.
        known: results of the items that are done, by key.
        output: the output folder.
        options: how videos become records.
        pipeline_options: as on Beam's command line, `--runner=...` among them.

    Returns:
        The result of each key, and the plan of the shards.

    Raises:
        ShardError: when a pipeline fails, or its workers do not see the output folder.
    """
    partial_output = PartialOutput(output)
    todo = [task for task in tasks if task.cache_key not in known]
    chunks = [
        [to_json(task) for task in todo[start : start + _CHUNK]]
        for start in range(0, len(todo), _CHUNK)
    ]
    work = functools.partial(run_task, partial_output=partial_output, options=options)
    _run("decode", chunks, _Decode(work), output, pipeline_options)
    done = {task.cache_key for task in todo} & partial_output.keys()
    results = known | partial_output.retry_results() | partial_output.results(done)
    plan = ShardPlan()
    for key, item in tasks:
        if key not in results:
            raise ShardError(
                f"The pipeline ended without a word on {item.id!r} in {output}: every worker "
                "has to see the output; give a folder that all share, or a URL such as gs://..."
            )
        if size := results[key].size:
            plan.add(item.split, key, size)
    shards = [[keys] for split in plan.shards.values() for keys in split]
    _run("pack", shards, partial_output.pack, output, pipeline_options)
    return results, plan


class _Decode:
    """Makes the record of a task that is given as JSON. Can be pickled."""

    def __init__(self, work: Callable[[Task], ItemResult]):
        self._work = work

    def __call__(self, values: list) -> None:
        self._work(from_json(values))


def _run(name: str, chunks: list[list], work: Callable, output: Folder, options) -> None:
    """Calls `work` on every entry of every chunk, in a pipeline."""
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
    except Exception as error:  # every runner raises its own
        raise ShardError(f"The Beam pipeline {name!r} failed: {str(error)[:1000]}") from error


def _read(output: Folder, name: str, number: int) -> list:
    return json.loads(output.read(_file(name, number)))


def _work_on(work: Callable, entry) -> None:
    work(entry)  # the result is in the output folder


def _file(name: str, number: int) -> str:
    return f"{_WORK}/{name}-{number:06d}.json"
