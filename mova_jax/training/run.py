"""A run from its config to its report: the work of `python -m mova_jax.main`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mova_jax.config import Config, flatten
from mova_jax.data.pipeline.dataset import TrainIterator
from mova_jax.parallel.processes import barrier, is_main, log_main
from mova_jax.training.bad_records import BadRecords
from mova_jax.training.checkpoint import abstract_state
from mova_jax.training.datasets import image_steps
from mova_jax.training.final_evaluation import evaluate_splits
from mova_jax.training.init_weights import with_weights
from mova_jax.training.loop import Loop, StopSignal
from mova_jax.training.profiler import Trace
from mova_jax.training.progress import Progress
from mova_jax.training.setup import RunContext, build_context
from mova_jax.training.state import TrainState
from mova_jax.training.step import make_train_step
from mova_jax.training.summary import final_summary, start_summary
from mova_jax.training.term_gradients import make_term_gradients
from mova_jax.training.utilization import Utilization
from mova_jax.training.workdir import REPORT, RunError, open_workdir, place_of
from mova_jax.utils.metric_log import MetricWriter
from mova_jax.utils.trackers import Tracker, open_tracker

TIMELINES = 4  # videos that the report draws


def run(config: Config, workdir: str | os.PathLike, profile_steps: tuple[int, int] = (0, 0)) -> int:
    """Trains, evaluates and reports; resumes where an earlier call stopped.

    Args:
        config: of the run; `model.text.vocab_size` 0 takes the tokenizer's.
        workdir: of the run, see `training/workdir.py`; all its processes share it. May be in a
            bucket (gs://).
        profile_steps: first and last step to trace, from 1; (0, 0) for none.

    Returns:
        The exit code: 0 when the run is complete, 128 + number of the signal that stopped it.

    Raises:
        RunError, ShardError, CheckpointError, TrackerError: what is wrong and what to do.
    """
    if profile_steps[0] > config.train.steps:
        raise RunError(
            f"--profile_steps begins at step {profile_steps[0]}, but train.steps is "
            f"{config.train.steps}: name steps that are taken"
        )
    with open_workdir(workdir) as (folder, publish):
        context = build_context(config, folder, profile_steps, publish)
        try:
            code = _train_and_finish(context)
        except BaseException:
            if jax.process_count() == 1:  # several would wait for processes that are gone
                context.checkpoints.close()
            raise
        context.checkpoints.close()
    return code


def _train_and_finish(context: RunContext) -> int:
    """Does what is left of the run; returns the exit code."""
    if _is_complete(context):
        log_main(f"The run in {place_of(context.workdir)} is complete.\n\n{final_summary(context)}")
        return 0
    with _tracking(context) as tracker:
        return _go_on(context, tracker)


@contextlib.contextmanager
def _tracking(context: RunContext) -> Iterator[Tracker | None]:
    """The tracker of `log.tracker`, on the main process."""
    config, tracker = context.config, None
    if is_main():
        tracker = open_tracker(config.log.tracker, context.workdir, flatten(config))
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.finish()


def _go_on(context: RunContext, tracker: Tracker | None) -> int:
    steps, stop = context.config.train.steps, StopSignal()
    with stop.caught():
        if context.checkpoints.last_step != steps:
            _train(context, stop, tracker)
    # After the last step the processes no longer agree on stop signals: one of several ignores
    # its own, for the others finish too.
    alone = jax.process_count() == 1
    if context.checkpoints.last_step != steps or (stop.requested and alone):
        log_main(
            f"Stopped after step {context.checkpoints.last_step} of {steps}; "
            "the same command goes on from there."
        )
        return 128 + stop.number
    _finish(context, tracker)
    log_main(f"\nThe run is complete.\n\n{final_summary(context)}")
    return 0


def _is_complete(context: RunContext) -> bool:
    done = context.checkpoints.last_step == context.config.train.steps
    return done and (context.workdir / REPORT).exists()


def _train(context: RunContext, stop: StopSignal, tracker: Tracker | None) -> None:
    """Steps from the last checkpoint, or from the beginning, to the end or a signal."""
    config, start = context.config, context.checkpoints.last_step
    with contextlib.closing(iter(context.batches)) as batches:
        state = _start_or_resume(context, batches)
        writer = MetricWriter(context.workdir, resume_step=start, tracker=tracker)
        progress = Progress(
            config.train.steps,
            start or 0,
            warmup_steps=image_steps(config),
            started=context.started,
        )
        trace = Trace(context.workdir, *context.profile_steps) if is_main() else Trace()
        warn = progress.message if is_main() else _print_error
        with writer, progress, contextlib.closing(trace):
            loop = Loop(
                config,
                context.mesh,
                make_train_step(context.spec, context.mesh),
                batches,
                checkpoints=context.checkpoints,
                writer=writer,
                progress=progress,
                evaluate=_validation(context),
                name_videos=context.batches.record_ids,
                term_gradients=make_term_gradients(context.spec, context.mesh),
                trace=trace,
                utilization=Utilization(context.spec, context.mesh),
                bad_records=BadRecords(context.batches.place_of, warn),
            )
            loop.run(state, stop)


def _start_or_resume(context: RunContext, batches: TrainIterator) -> TrainState:
    """A new state, or that of the last checkpoint with `batches` moved to its step."""
    start = context.checkpoints.last_step
    if start is None:
        batches.start_prefetch()  # batches are read while the state is made
        state = with_weights(context.spec, context.spec.initial(), context.init_weights)
        log_main(start_summary(context, state))
        return state
    saved = context.checkpoints.restore_last(abstract_state(context.spec, context.mesh))
    batches.set_state(saved.data)
    steps, place = context.config.train.steps, place_of(context.workdir)
    log_main(f"Going on from step {start} of {steps} in {place}")
    return saved.state


def _validation(context: RunContext) -> Callable[[Any], dict[str, float]] | None:
    """A function from parameters to validation metrics; None without a validation split."""
    if "validation" not in context.splits:
        log_main("There is no validation split: the last checkpoint is the one that is tested.")
        return None
    return lambda params: context.evaluator.evaluate(params, "validation")


def _print_error(text: str) -> None:
    """For processes other than the main one, whose progress bar prints nothing."""
    print(text, file=sys.stderr, flush=True)


def _finish(context: RunContext, tracker: Tracker | None) -> None:
    """Tests the best checkpoint, writes its metrics and the report."""
    # Imported here: matplotlib takes 0.2 s, and no step needs it.
    from mova_jax.report.report import write_report

    config, checkpoints = context.config, context.checkpoints
    like = abstract_state(context.spec, context.mesh)
    has_best = checkpoints.best_step is not None
    saved = checkpoints.restore_best(like) if has_best else checkpoints.restore_last(like)
    params, weight = saved.state.weights, saved.record.get("blend_weight", 1.0)
    splits = [split for split in config.eval.splits if split in context.splits]
    for split in sorted({*config.eval.splits} - {*splits}):
        log_main(f"There is no split {split} in {context.folder}: it is not evaluated.")
    evaluate_splits(
        context.evaluator,
        params,
        splits,
        context.workdir,
        blend_weight=weight,
        step=config.train.steps,
        checkpoint_step=int(saved.state.step),
        tracker=tracker,
    )
    shown = (splits or ["validation"])[0]
    timelines = []
    if shown in context.splits:
        timelines = context.evaluator.timelines(params, shown, TIMELINES)
    if is_main():
        write_report(context.workdir, timelines)
    barrier("the report is written")
