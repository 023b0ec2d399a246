"""A run from its configuration to its report: what `python -m mova_jax.main` calls."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mova_jax import mesh as mesh_lib
from mova_jax.config import Config
from mova_jax.data import pipeline, shards, storyboard
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.report import write_report
from mova_jax.training import workdir as workdir_lib
from mova_jax.training.checkpoint import Checkpoints, abstract_state
from mova_jax.training.initial import initial_weights, vocabulary_folder, with_weights
from mova_jax.training.loop import Loop, StopSignal
from mova_jax.training.progress import METRICS_FILE, MetricWriter, Progress, read_metrics
from mova_jax.training.state import Recipe, make_recipe
from mova_jax.training.step import make_train_step
from mova_jax.training.workdir import RunError
from mova_jax.weights.files import WeightsError

STORYBOARD = "storyboard"
STORYBOARD_SEED = 1  # of the data, the same for every `config.seed`: galleries stay comparable


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the parts of a run share."""

    config: Config
    workdir: Path
    folder: Path  # of the shards
    splits: tuple[str, ...]
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    recipe: Recipe
    evaluator: Evaluator
    checkpoints: Checkpoints
    batches: pipeline.TrainDataset
    initial: dict[str, np.ndarray]  # parameters by name that a new run does not draw


def run(config: Config, workdir: str | os.PathLike) -> int:
    """Trains, evaluates and reports; goes on where an earlier call stopped.

    Args:
        config: of the run; `model.text.vocab_size` 0 takes the tokenizer's.
        workdir: of the run, see `training/workdir.py`.

    Returns:
        The exit code: 0 when the run is complete, 128 + number of the signal that stopped it.

    Raises:
        RunError, ShardError, CheckpointError: what is wrong and what to do.
    """
    setup = set_up(config, workdir)
    try:
        if _is_complete(setup):
            print(f"The run in {setup.workdir} is complete.\n\n{_summary(setup)}")
            return 0
        stop = StopSignal()
        with stop.caught():
            if setup.checkpoints.last_step != setup.config.train.steps:
                _train(setup, stop)
        if stop.requested:
            print(
                f"Stopped after step {setup.checkpoints.last_step} of {config.train.steps}; "
                "the same command goes on from there."
            )
            return 128 + stop.number
        _finish(setup)
        print(f"\nThe run is complete.\n\n{_summary(setup)}")
        return 0
    finally:
        setup.checkpoints.close()


def set_up(config: Config, workdir: str | os.PathLike) -> Setup:
    """Data, tokenizer, model and checkpoints of a run; makes the embedded data when asked for."""
    workdir = Path(workdir)
    workdir_lib.check(workdir, config)  # before anything that takes time
    folder = open_data(config)
    splits = tuple(shards.read_manifest(folder).splits)
    if "train" not in splits:
        raise RunError(
            f"{folder} has the splits {', '.join(splits)}, but none named train: name one in the "
            "JSONL, or let python -m mova_jax.prepare --splits share the videos out"
        )
    try:
        vocabulary = vocabulary_folder(config, folder / storyboard.TOKENIZER, workdir)
        tokenizer = Tokenizer(vocabulary, config.model.text.context)
        config = _with_vocabulary(config, tokenizer)
        mesh = mesh_lib.make_mesh(config.mesh.data)
        mesh_lib.check_batch_size(mesh, config.train.batch_size, "train.batch_size")
        mesh_lib.check_batch_size(mesh, config.train.microbatch, "train.microbatch")
        if image_steps(config):
            size = _image_batch_size(config, folder)
            mesh_lib.check_batch_size(mesh, size, "train.image_batch_size")
        mesh_lib.check_batch_size(mesh, config.eval.batch_size, "eval.batch_size")
        recipe = make_recipe(config, mesh_lib.replicated(mesh))
        batches = _batches(config, folder, tokenizer)
        initial = initial_weights(config, recipe, workdir)
    except WeightsError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise RunError(str(error)) from error
    workdir_lib.claim(workdir, config)
    workdir_lib.keep_tokenizer(workdir, tokenizer)
    return Setup(
        config,
        workdir,
        folder,
        splits,
        tokenizer,
        mesh,
        recipe,
        Evaluator(recipe, mesh, folder, tokenizer),
        Checkpoints(workdir, config),
        batches,
        initial,
    )


def open_data(config: Config) -> Path:
    """The folder of shards that `data.source` names; Storyboard is made when it is not there."""
    data, size = config.data, config.model.vision.image_size
    if data.source != STORYBOARD:
        return Path(data.source)
    counts = dict.fromkeys(storyboard.SPLITS, data.eval_videos) | {"train": data.train_videos}
    # One folder a setting: two runs of different settings must not replace each other's data.
    name = f"{STORYBOARD}-{data.train_videos}-{data.eval_videos}-{size}px"
    return storyboard.ensure(
        Path(data.cache) / name,
        STORYBOARD_SEED,
        counts,
        workers=os.cpu_count() or 1,
        image_size=size,
    )


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


def _is_complete(setup: Setup) -> bool:
    done = setup.checkpoints.last_step == setup.config.train.steps
    return done and (setup.workdir / workdir_lib.REPORT).exists()


def _train(setup: Setup, stop: StopSignal) -> None:
    """Steps from the last checkpoint, or from the beginning, to the end or a signal."""
    config, checkpoints = setup.config, setup.checkpoints
    batches = iter(setup.batches)
    start = checkpoints.last_step
    if start is None:
        state = with_weights(setup.recipe.initial(), setup.initial)
        _tell_start(setup, state)
    else:
        like = abstract_state(setup.recipe, mesh_lib.replicated(setup.mesh))
        saved = checkpoints.restore_last(like)
        state = saved.state
        batches.set_state(saved.data)
        print(f"Going on from step {start} of {config.train.steps} in {setup.workdir}")
    writer = MetricWriter(setup.workdir, resume_step=start)
    progress = Progress(config.train.steps, start or 0, warmup_steps=image_steps(config))
    with writer, progress:
        loop = Loop(
            config,
            setup.mesh,
            make_train_step(setup.recipe, setup.mesh),
            batches,
            checkpoints=checkpoints,
            writer=writer,
            progress=progress,
            evaluate=_validation(setup),
            name_videos=lambda ids: pipeline.record_ids(setup.folder, "train", ids),
        )
        try:
            loop.run(state, stop)
        finally:
            batches.close()


def _batches(config: Config, folder: Path, tokenizer: Tokenizer) -> pipeline.TrainDataset:
    """The training batches of this process."""
    return pipeline.train_dataset(
        folder,
        "train",
        tokenizer,
        pipeline.settings_of(config, config.data.frames),
        seed=config.seed,
        batch_size=config.train.batch_size // jax.process_count(),
        image_steps=image_steps(config),
        image_batch_size=_image_batch_size(config, folder) // jax.process_count(),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def image_steps(config: Config) -> int:
    """How many of the first steps are on image-caption data."""
    return round(config.train.image_share * config.train.steps)


def _image_batch_size(config: Config, folder: Path) -> int:
    """Frames in a step on images: a multiple of the batch size that the train split can fill."""
    size = config.train.batch_size
    videos = shards.read_manifest(folder).splits["train"].videos
    return config.train.image_batch_size or size * max(1, min(4, videos // size))


def _validation(setup: Setup):
    """Parameters to validation figures, None without a validation split."""
    if "validation" not in setup.splits:
        print("There is no validation split: the last checkpoint is the one that is tested.")
        return None
    return lambda params: setup.evaluator.evaluate(params, "validation")


def _tell_start(setup: Setup, state: Any) -> None:
    """What is about to run, for the first lines of a log."""
    config, mesh = setup.config, setup.mesh
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = mesh.devices.size
    warmup = ""
    if steps := image_steps(config):
        images = _image_batch_size(config, setup.folder)
        warmup = f"  warm-up  {steps} steps on {images} single frames, each with one sentence\n"
    print(
        f"Training {parameters:,} parameters, objective {config.objective}, seed {config.seed}, "
        f"for {config.train.steps} steps\n"
        f"  data     {setup.folder}: {', '.join(setup.splits)}\n"
        f"{warmup}"
        f"  batch    {config.train.batch_size} videos of {config.data.frames} frames, "
        f"{config.train.batch_size // devices} on each of {devices} "
        f"{mesh.devices.flat[0].device_kind} device(s)\n"
        f"  workdir  {setup.workdir}"
    )


def _finish(setup: Setup) -> None:
    """Tests the best checkpoint, writes the figures and the report."""
    config, checkpoints = setup.config, setup.checkpoints
    like = abstract_state(setup.recipe, mesh_lib.replicated(setup.mesh))
    is_best = checkpoints.best_step is not None
    saved = checkpoints.restore_best(like) if is_best else checkpoints.restore_last(like)
    weight = saved.record.get("blend_weight", 1.0)
    params = saved.state.params
    tested = [split for split in config.eval.splits if split in setup.splits]
    for split in sorted({*config.eval.splits} - {*tested}):
        print(f"There is no split {split} in {setup.folder}: it is not evaluated.")
    measured = _measured(setup)
    with MetricWriter(setup.workdir, resume_step=config.train.steps) as writer:
        for split in (split for split in tested if split not in measured):
            print(f"Evaluating on {split} with the checkpoint of step {int(saved.state.step)}")
            figures = setup.evaluator.evaluate(params, split, weight, interval=True)
            figures["checkpoint_step"] = float(saved.state.step)
            writer.write(config.train.steps, {f"{split}/{k}": v for k, v in figures.items()})
    shown = (tested or ["validation"])[0]
    drawn = []
    if config.eval.timelines and shown in setup.splits:
        drawn = setup.evaluator.timelines(params, shown, config.eval.timelines)
    write_report(setup.workdir, drawn)


def _measured(setup: Setup) -> set[str]:
    """Splits that were tested before the run was stopped: their figures stand already."""
    rows = read_metrics(setup.workdir / METRICS_FILE)
    names = {name for row in rows if row["step"] == setup.config.train.steps for name in row}
    return {split for split in setup.config.eval.splits if f"{split}/checkpoint_step" in names}


def _summary(setup: Setup) -> str:
    """The figures that people look for first."""
    metrics: dict[str, float] = {}
    for row in read_metrics(setup.workdir / METRICS_FILE):
        metrics |= row
    lines = []
    for split in setup.config.eval.splits:
        if f"{split}/t2v/r1" in metrics:
            prefix = f"{split}/"
            found = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
            lines.append(f"{split}, {found['gallery']:.0f} videos, seed {setup.config.seed}")
            lines += _split_summary(found)
    return "\n".join([*lines, f"Look at {setup.workdir / workdir_lib.REPORT}"])


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
