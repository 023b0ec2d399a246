"""A run from its configuration to its report: what `python -m mova_jax.main` calls."""

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np

from mova_jax.config import Config
from mova_jax.data import sources
from mova_jax.data.pipeline import dataset as pipeline
from mova_jax.data.storyboard import generate as storyboard
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel.processes import barrier, is_main, log_main
from mova_jax.training import workdir as workdir_lib
from mova_jax.training.bad_records import BadRecords
from mova_jax.training.checkpoint import Checkpoints, abstract_state
from mova_jax.training.datasets import image_batch_size, image_steps, open_data, train_batches
from mova_jax.training.init_weights import init_weights, vocabulary_folder, with_weights
from mova_jax.training.kept import KeptPrograms
from mova_jax.training.loop import Loop, StopSignal
from mova_jax.training.profiler import Trace
from mova_jax.training.progress import Progress
from mova_jax.training.state import TrainSpec, TrainState, make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.training.utilization import Utilization
from mova_jax.training.workdir import RunError
from mova_jax.utils.metric_log import METRICS_FILE, MetricWriter, read_metrics
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.files import WeightsError


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What the parts of a run share."""

    config: Config
    workdir: Path
    folder: Path | str  # of the shards, or the name of a TFDS data set
    splits: tuple[str, ...]
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    spec: TrainSpec
    evaluator: Evaluator
    checkpoints: Checkpoints
    batches: pipeline.TrainDataset
    initial: dict[str, np.ndarray]  # parameters by name that a new run does not draw
    started: float  # when the process began, by `time.monotonic`
    profile_steps: tuple[int, int]  # first and last step to trace, (0, 0) for none


def run(config: Config, workdir: str | os.PathLike, profile_steps: tuple[int, int] = (0, 0)) -> int:
    """Trains, evaluates and reports; goes on where an earlier call stopped.

    Args:
        config: of the run; `model.text.vocab_size` 0 takes the tokenizer's.
        workdir: of the run, see `training/workdir.py`; one that all its processes share.
        profile_steps: first and last step to trace, from 1; (0, 0) for none.

    Returns:
        The exit code: 0 when the run is complete, 128 + number of the signal that stopped it.

    Raises:
        RunError, ShardError, CheckpointError: what is wrong and what to do.
    """
    if profile_steps[0] > config.train.steps:
        raise RunError(
            f"--profile_steps begins at step {profile_steps[0]}, but train.steps is "
            f"{config.train.steps}: name steps that are taken"
        )
    context = build_context(config, workdir, profile_steps)
    try:
        code = _carry_out(context)
    except BaseException:
        if jax.process_count() == 1:  # of several, closing would wait for those that may be gone
            context.checkpoints.close()
        raise
    context.checkpoints.close()
    return code


def _carry_out(context: RunContext) -> int:
    """`run` without its beginning and end."""
    if _is_complete(context):
        log_main(f"The run in {context.workdir} is complete.\n\n{_summary(context)}")
        return 0
    steps, stop = context.config.train.steps, StopSignal()
    with stop.caught():
        if context.checkpoints.last_step != steps:
            _train(context, stop)
    # Behind the last step a request is one process's own: the others finish, and so does this one.
    alone = jax.process_count() == 1
    if context.checkpoints.last_step != steps or (stop.requested and alone):
        log_main(
            f"Stopped after step {context.checkpoints.last_step} of {steps}; "
            "the same command goes on from there."
        )
        return 128 + stop.number
    _finish(context)
    log_main(f"\nThe run is complete.\n\n{_summary(context)}")
    return 0


def _warn(text: str) -> None:
    """For what the main process does not know of."""
    print(text, file=sys.stderr, flush=True)


def build_context(
    config: Config, workdir: str | os.PathLike, profile_steps: tuple[int, int] = (0, 0)
) -> RunContext:
    """Data, tokenizer, model and checkpoints of a run; makes the embedded data when asked for."""
    started, workdir = time.monotonic(), Path(workdir)
    keep_programs(config)
    workdir_lib.check(workdir, config)  # before anything that takes time
    folder = open_data(config)
    splits = tuple(sources.splits_of(folder))
    if "train" not in splits and not config.data.mixture:
        raise RunError(
            f"{folder} has the splits {', '.join(splits)}, but none named train: name one in the "
            "JSONL, or let python -m mova_jax.prepare --splits share the videos out"
        )
    if sources.is_tfds(folder) and not config.init_from:
        raise RunError(
            f"{folder} has no tokenizer: give init=CLIP, a folder of initial weights with theirs, "
            "or make SHARDS data.source and name it in data.mixture"
        )
    try:
        vocabulary = vocabulary_folder(config, Path(folder, storyboard.TOKENIZER), workdir)
        tokenizer = Tokenizer(vocabulary, config.model.text.context)
        config = _with_vocabulary(config, tokenizer)
        mesh = mesh_lib.make_mesh(config.mesh)
        mesh_lib.check_batches(mesh, config)
        spec = make_train_spec(config, mesh)
        batches = train_batches(config, folder, tokenizer, mesh)
        initial = init_weights(config, spec, workdir)
    except WeightsError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise RunError(str(error)) from error
    if is_main():
        workdir_lib.claim(workdir, config)
        workdir_lib.keep_tokenizer(workdir, tokenizer)
    barrier("the workdir is claimed")
    return RunContext(
        config,
        workdir,
        folder,
        splits,
        tokenizer,
        mesh,
        spec,
        Evaluator(spec, mesh, folder, tokenizer),
        Checkpoints(workdir, config),
        batches,
        initial,
        started,
        profile_steps,
    )


def keep_programs(config: Config) -> None:
    """Keeps compiled programs beside the data, so that the next start need not compile them.

    Whoever set JAX_COMPILATION_CACHE_DIR, or JAX's flag, is left alone.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.data.cache) / "programs"))


def _with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The configuration with the tokenizer's vocabulary, where it names none."""
    named = config.model.text.vocab_size
    if named and named < tokenizer.vocab_size:
        raise ValueError(
            f"model.text.vocab_size is {named}, but the tokenizer in {tokenizer.folder} has "
            f"{tokenizer.vocab_size} tokens: set it to at least that, or to 0"
        )
    text = dataclasses.replace(config.model.text, vocab_size=named or tokenizer.vocab_size)
    model = dataclasses.replace(config.model, text=text)
    return dataclasses.replace(config, model=model)


def _is_complete(context: RunContext) -> bool:
    done = context.checkpoints.last_step == context.config.train.steps
    return done and (context.workdir / workdir_lib.REPORT).exists()


def _train(context: RunContext, stop: StopSignal) -> None:
    """Steps from the last checkpoint, or from the beginning, to the end or a signal."""
    config, start = context.config, context.checkpoints.last_step
    with contextlib.closing(iter(context.batches)) as batches:
        kept = KeptPrograms.bundle_from_run(config, context.mesh)
        state = _begin(context, batches, kept)
        writer = MetricWriter(context.workdir, resume_step=start)
        progress = Progress(
            config.train.steps,
            start or 0,
            warmup_steps=image_steps(config),
            started=context.started,
        )
        trace = Trace(context.workdir, *context.profile_steps) if is_main() else Trace()
        with writer, progress, contextlib.closing(trace):
            loop = Loop(
                config,
                context.mesh,
                kept.train_step(make_train_step(context.spec, context.mesh), context.spec),
                batches,
                checkpoints=context.checkpoints,
                writer=writer,
                progress=progress,
                evaluate=_validation(context),
                name_videos=context.batches.record_ids,
                trace=trace,
                utilization=Utilization(context.spec, context.mesh),
                bad_records=BadRecords(
                    context.batches.place_of, progress.message if is_main() else _warn
                ),
            )
            loop.run(state, stop)


def _begin(context: RunContext, batches: pipeline.TrainIterator, kept: KeptPrograms) -> TrainState:
    """The state to go on from, and the batches at its step."""
    start = context.checkpoints.last_step
    if start is None:
        batches.start_prefetch()  # while the state is made
        state = with_weights(context.spec, kept.initial(context.spec), context.initial)
        _tell_start(context, state)
        return state
    saved = context.checkpoints.restore_last(abstract_state(context.spec, context.mesh))
    batches.set_state(saved.data)
    log_main(f"Going on from step {start} of {context.config.train.steps} in {context.workdir}")
    return saved.state


def _validation(context: RunContext):
    """Parameters to validation figures, None without a validation split."""
    if "validation" not in context.splits:
        log_main("There is no validation split: the last checkpoint is the one that is tested.")
        return None
    return lambda params: context.evaluator.evaluate(params, "validation")


def _tell_start(context: RunContext, state: TrainState) -> None:
    """What is about to run, for the first lines of a log."""
    config, mesh = context.config, context.mesh
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shards = mesh_lib.batch_shards(mesh)
    warmup = mixture = ""
    if config.data.mixture:
        shares = ", ".join(f"{name} ({weight:g})" for name, weight in config.data.mixture)
        mixture = f"  trains   on {shares}\n"
    if steps := image_steps(config):
        images = image_batch_size(config, context.folder)
        warmup = f"  warm-up  {steps} steps on {images} single frames, each with one sentence\n"
    log_main(
        f"Training {parameters:,} parameters, objective {config.objective}, seed {config.seed}, "
        f"for {config.train.steps} steps\n"
        f"  data     {context.folder}: {', '.join(context.splits)}\n"
        f"{mixture}{warmup}"
        f"  batch    {config.train.batch_size} videos of {config.data.frames} frames over all "
        f"devices, {config.train.batch_size // shards} on each\n"
        f"  mesh     {mesh_lib.describe(mesh)}\n"
        f"{_state_lines(mesh, state)}"
        f"  workdir  {context.workdir}"
    )


def _state_lines(mesh: jax.sharding.Mesh, state: TrainState) -> str:
    """How much of the state a device holds, and what could not be split."""
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    lines = f"  state    {total / 1e6:,.1f} MB, {own / 1e6:,.1f} MB on each device\n"
    if whole := mesh_lib.whole_dimensions(mesh, parameter_names(state.params)):
        largest = max(whole, key=lambda line: whole[line])
        lines += f"  whole    {len(whole)} sizes that do not divide, such as {largest}\n"
    return lines


def _finish(context: RunContext) -> None:
    """Tests the best checkpoint, writes the figures and the report."""
    # Imported here, for it brings matplotlib (0.2 s), which no step needs.
    from mova_jax.report.report import write_report

    config, checkpoints = context.config, context.checkpoints
    like = abstract_state(context.spec, context.mesh)
    is_best = checkpoints.best_step is not None
    saved = checkpoints.restore_best(like) if is_best else checkpoints.restore_last(like)
    weight = saved.record.get("blend_weight", 1.0)
    params = saved.state.weights
    tested = [split for split in config.eval.splits if split in context.splits]
    for split in sorted({*config.eval.splits} - {*tested}):
        log_main(f"There is no split {split} in {context.folder}: it is not evaluated.")
    measured = _measured(context)
    barrier("the splits to test are known")  # before the main process writes more figures
    with MetricWriter(context.workdir, resume_step=config.train.steps) as writer:
        for split in (split for split in tested if split not in measured):
            log_main(f"Evaluating on {split} with the checkpoint of step {int(saved.state.step)}")
            figures = context.evaluator.evaluate(params, split, weight, interval=True)
            figures["checkpoint_step"] = float(saved.state.step)
            writer.write(config.train.steps, {f"{split}/{k}": v for k, v in figures.items()})
    shown = (tested or ["validation"])[0]
    drawn = []
    if config.eval.timelines and shown in context.splits:
        drawn = context.evaluator.timelines(params, shown, config.eval.timelines)
    if is_main():
        write_report(context.workdir, drawn)
    barrier("the report is written")


def _measured(context: RunContext) -> set[str]:
    """Splits that were tested before the run was stopped: their figures stand already."""
    rows = read_metrics(context.workdir / METRICS_FILE)
    names = {name for row in rows if row["step"] == context.config.train.steps for name in row}
    return {split for split in context.config.eval.splits if f"{split}/checkpoint_step" in names}


def _summary(context: RunContext) -> str:
    """The figures that people look for first."""
    from mova_jax.report.run_metrics import gallery_description  # brings matplotlib too

    metrics: dict[str, float] = {}
    for row in read_metrics(context.workdir / METRICS_FILE):
        metrics |= row
    lines = []
    for split in context.config.eval.splits:
        if f"{split}/t2v/r1" in metrics:
            prefix = f"{split}/"
            found = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
            searched = gallery_description(found["gallery"], found.get("gallery_captions"))
            lines.append(f"{split}, {searched}, seed {context.config.seed}")
            lines += _split_summary(found)
    return "\n".join([*lines, f"Look at {context.workdir / workdir_lib.REPORT}"])


def _split_summary(found: dict[str, float]) -> list[str]:
    """Lines on one split, from its figures."""
    lines = [f"  R@1 by chance            {100 / found['gallery']:5.1f} %"]
    for score in ("global", "modular", "blend"):
        if f"{score}/t2v/r1" in found:
            t2v, v2t = found[f"{score}/t2v/r1"], found[f"{score}/v2t/r1"]
            lines.append(f"  R@1 by the {score:8} score T2V {t2v:5.1f} %, V2T {v2t:5.1f} %")
    for kind in ("frame", "modular"):
        if f"grounding/{kind}/hit" in found:
            hit, chance = found[f"grounding/{kind}/hit"], found[f"grounding/{kind}/chance"]
            lines.append(
                f"  best frame in its event, {kind:7} score {hit:.1%} (a random frame {chance:.1%})"
            )
    if "leak/own_masks" in found:
        leak, chance = found["leak/own_masks"], found["leak/chance"]
        lines.append(f"  leak of identity by the masks {leak:.1%} (chance {chance:.1%})")
    return lines
