"""The summaries that a run prints when it starts and when it is complete."""

import jax

from mova_jax.evaluation.leak import CHANCE
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.report.run_metrics import gallery_description
from mova_jax.training.datasets import image_batch_size, image_steps
from mova_jax.training.setup import RunContext
from mova_jax.training.state import TrainState
from mova_jax.training.workdir import REPORT, place_of
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics
from mova_jax.utils.trees import parameter_names


def start_summary(context: RunContext, state: TrainState) -> str:
    """Model, data, batch, mesh and workdir of a run that is about to start."""
    config, mesh = context.config, context.mesh
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    per_device = config.train.batch_size // sharding.batch_shards(mesh)
    return "\n".join(
        [
            f"Training {parameters:,} parameters, objective {config.objective}, "
            f"seed {config.seed}, for {config.train.steps} steps",
            f"  data     {context.folder}: {', '.join(context.splits)}",
            *_data_lines(context),
            f"  batch    {config.train.batch_size} videos of {config.data.frames} frames over all "
            f"devices, {per_device} on each",
            f"  mesh     {mesh_lib.describe(mesh)}",
            *_state_lines(mesh, state),
            f"  workdir  {place_of(context.workdir)}",
        ]
    )


def _data_lines(context: RunContext) -> list[str]:
    """The mixture and the image-caption steps, where there are any."""
    config, lines = context.config, []
    if config.data.mixture:
        shares = ", ".join(f"{name} ({weight:g})" for name, weight in config.data.mixture)
        lines.append(f"  trains   on {shares}")
    if steps := image_steps(config):
        images = image_batch_size(config, context.folder)
        lines.append(f"  warm-up  {steps} steps on {images} single frames, each with one sentence")
    return lines


def _state_lines(mesh: jax.sharding.Mesh, state: TrainState) -> list[str]:
    """The size of the state on a device, and the dimensions that could not be split."""
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    local = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    lines = [f"  state    {total / 1e6:,.1f} MB, {local / 1e6:,.1f} MB on each device"]
    if whole := sharding.indivisible_dimensions(mesh, parameter_names(state.params)):
        largest = max(whole, key=whole.get)
        lines.append(f"  whole    {len(whole)} sizes that do not divide, such as {largest}")
    return lines


def final_summary(context: RunContext) -> str:
    """The main results of each tested split, read from the metric log."""
    metrics, lines = last_metrics(context.workdir / METRICS_FILE), []
    for split in context.config.eval.splits:
        if f"{split}/t2v/r1" in metrics:
            prefix = f"{split}/"
            found = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
            gallery = gallery_description(found["gallery"], found.get("gallery_captions"))
            lines.append(f"{split}, {gallery}, seed {context.config.seed}")
            lines += _split_lines(found)
    return "\n".join([*lines, f"Look at {place_of(context.workdir)}/{REPORT}"])


def _split_lines(found: dict[str, float]) -> list[str]:
    """The results of one split: `found` has its metrics without the split's name."""
    lines = [f"  R@1 by chance            {100 / found['gallery']:5.1f} %"]
    for score in ("global", "modular", "blend"):
        if f"{score}/t2v/r1" in found:
            t2v, v2t = found[f"{score}/t2v/r1"], found[f"{score}/v2t/r1"]
            lines.append(f"  R@1 by the {score:8} score T2V {t2v:5.1f} %, V2T {v2t:5.1f} %")
    for score in ("frame", "modular"):
        if f"grounding/{score}/hit" in found:
            hit, chance = (found[f"grounding/{score}/{name}"] for name in ("hit", "chance"))
            label = f"best frame in its event, {score:7} score"
            lines.append(f"  {label} {hit:.1%} (a random frame {chance:.1%})")
    if "leak/own_masks_auc" in found:
        leak = found["leak/own_masks_auc"]
        lines.append(f"  leak of identity by the masks {leak:.1%} (chance {CHANCE:.0%})")
    return lines
