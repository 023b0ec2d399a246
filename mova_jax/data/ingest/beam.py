"""`prepare` on a cluster, with Apache Beam; records and shards are the same as on one machine.

    python -m mova_jax.prepare --input gs://B/clips/captions.jsonl --output gs://B/shards \\
        --runner=DataflowRunner --beam=--project=P --beam=--region=R --beam=--temp_location=gs://B/tmp

One pipeline makes the records, a second one the shards, with the functions that a single machine
uses. They communicate through the output folder, so a failed pipeline can be resumed like any other
call. Every machine needs this package and access to the videos and the output folder.
"""

import functools
from collections.abc import Callable, Sequence

from mova_jax.data import storage
from mova_jax.data.beam_pipeline import PipelineError, run_pipeline
from mova_jax.data.ingest.partial_output import PARTIAL, ItemResult, PartialOutput, ShardPlan
from mova_jax.data.ingest.tasks import DecodeOptions, Task, from_json, run_task, to_json
from mova_jax.data.shards import ShardError
from mova_jax.data.storage import Folder

_WORK = f"{PARTIAL}/work"


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
        pipeline_options: from `beam_options`.

    Returns:
        The result of each key, and the plan of the shards.

    Raises:
        ShardError: when a pipeline fails, or its workers do not see the output folder.
    """
    partial_output = PartialOutput(output)
    todo = [task for task in tasks if task.cache_key not in known]
    work = functools.partial(run_task, partial_output=partial_output, options=options)
    _run("decode", list(map(to_json, todo)), _Decode(work), output, pipeline_options)
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
    shards = [keys for split in plan.shards.values() for keys in split]
    _run("pack", shards, partial_output.pack, output, pipeline_options)
    return results, plan


class _Decode:
    """Makes the record of a task that is given as JSON. Can be pickled."""

    def __init__(self, work: Callable[[Task], ItemResult]):
        self._work = work

    def __call__(self, values: list) -> None:
        self._work(from_json(values))


def _run(name: str, tasks: list, work: Callable, output: Folder, options: Sequence[str]) -> None:
    try:
        run_pipeline(name, tasks, work, Folder(storage.join(output.path, _WORK)), options)
    except PipelineError as error:
        raise ShardError(str(error)) from error
