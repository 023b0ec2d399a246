"""Converts weights of the CLIP family to our parameters, and back to Hugging Face's CLIPModel.

In: tensors by the names of their file (`files.read_tensors`), shapes of our parameters by name.
Out: our arrays, and a report of what was not simply copied. One error lists all problems.

    layout = detect_layout(tensors)
    ours, report = to_flax(tensors, layout, like)

| layout | is |
|---|---|
| huggingface | transformers' CLIPModel |
| openai | OpenAI's own state dict |
| open_clip | the same names from open_clip, also with the text tower under `text.` |
| long_clip | OpenAI's names with two tables of 248 text positions |
| smartclip | Long-CLIP's names and a mask network, which our concept mask network starts from |
| mova_torch | our own export for PyTorch, which `torch_names.from_torch` reads |
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from mova_jax.weights import clip_names
from mova_jax.weights.clip_names import Shape
from mova_jax.weights.conversion import Report, TensorReader
from mova_jax.weights.files import WeightsError
from mova_jax.weights.positions import (
    UNSTRETCHED,
    resize_image_positions,
    stretch_positions,
)
from mova_jax.weights.warm_start import start_head, start_mask_network

LAYOUTS = ("huggingface", "openai", "open_clip", "long_clip", "smartclip")
TWO_TABLES = ("long_clip", "smartclip")  # of text positions, the first of which is not trained
OPENAI_CODE = ("openai", *TWO_TABLES)  # of OpenAI's code, which has QuickGELU and heads of 64


def detect_layout(names: Collection[str]) -> str:
    """The layout of tensors with these names.

    Raises:
        WeightsError: for a layout that cannot be read.
    """
    if any(name.startswith(("vision_model.", "text_model.")) for name in names):
        return "huggingface"
    if any(name.startswith("vision.blocks.") for name in names):
        return "mova_torch"
    if "visual.attnpool.positional_embedding" in names:
        raise WeightsError(["got a CLIP with a ResNet, expected one with a vision transformer"])
    if any(name.startswith(("visual.conv1.", "visual.transformer.")) for name in names):
        if any(name.startswith("mask_net.") for name in names):
            return "smartclip"
        if "positional_embedding_res" in names:
            return "long_clip"
        # open_clip has the same names, but only OpenAI's own files have this number as a tensor.
        return "openai" if "input_resolution" in names else "open_clip"
    some = ", ".join(sorted(names)[:5])
    known = ", ".join((*LAYOUTS, "mova_torch"))
    raise WeightsError([f"got tensors such as {some}; expected one of the layouts {known}"])


def to_flax(
    tensors: Mapping[str, np.ndarray],
    layout: str,
    like: Mapping[str, Shape],
    *,
    strict: bool = True,
    init_bias: float = 0.0,
) -> tuple[dict[str, np.ndarray], Report]:
    """Our parameters from tensors of another layout.

    Args:
        tensors: arrays by their names.
        layout: one of `LAYOUTS`, as `detect_layout` gives it.
        like: shapes of all of our parameters, by our names.
        strict: refuse tensors that are missing, unexpected or of another shape. Otherwise the
            report lists them, and the result lacks parameters without a fitting tensor.
        init_bias: `config.model.masks.init_bias`, which a mask network of SmartCLIP needs to be 0.

    Returns:
        float32 arrays by our names, without those that the layout has no tensor for (mostly mask
        networks), and the report.

    Raises:
        WeightsError: all problems at once.
    """
    if layout not in LAYOUTS:
        raise WeightsError([f"got the layout {layout!r}, expected one of {', '.join(LAYOUTS)}"])
    report = Report(layout)
    reader = TensorReader(tensors, report)
    table = clip_names.HUGGINGFACE if layout == "huggingface" else clip_names.openai_table(tensors)
    ours = reader.take_table(table, like)
    ours |= _image_positions(reader, table.image_positions, like)
    positions = _text_table(reader, table.text_positions, like)
    ours |= _text_positions(positions, like, report)
    ours |= start_head(ours, positions, like, report)
    if layout == "smartclip":
        ours |= start_mask_network(reader, like, init_bias)
    reader.finish()
    report.initial = sorted(set(like) - set(ours))
    if strict and report.problems:
        raise WeightsError(report.problems)
    return ours, report


def to_huggingface(ours: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The two towers as tensors of transformers' CLIPModel, bit for bit; inverts `to_flax`.

    Args:
        ours: all parameters by our names; mask networks and heads are left out.

    Returns:
        Arrays by CLIPModel's names.
    """
    table = clip_names.HUGGINGFACE
    like = {name: np.shape(value) for name, value in ours.items()}
    theirs = {
        part.theirs: part.kind.theirs(np.asarray(ours[part.ours])[part.index])
        for part in clip_names.parameter_slices(table, like)
    }
    theirs[table.image_positions] = ours["vision/positions"]
    frozen = [ours["text/positions_frozen"]] if "text/positions_frozen" in ours else []
    theirs[table.text_positions] = np.concatenate([*frozen, ours["text/positions"]])
    return {name: np.array(value, np.float32, order="C") for name, value in theirs.items()}


def _image_positions(
    reader: TensorReader, theirs: str, like: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """The vision tower's positions, resized to the grid of the frames."""
    name = "vision/positions"
    rows, width = like[name]
    positions = reader.take(theirs, (-1, width), name)
    if positions is None:
        return {}
    grid = math.isqrt(rows - 1)
    try:
        resized = resize_image_positions(positions, grid)
    except WeightsError as error:
        reader.report.problems += [f"{theirs}: {problem}" for problem in error.problems]
        return {}
    if len(positions) != rows:
        old = math.isqrt(len(positions) - 1)
        reader.report.changes.append(
            f"image positions resized from {old} x {old} to {grid} x {grid} patches (bicubic)"
        )
    return {name: resized}


def _text_table(reader: TensorReader, theirs: str, like: Mapping[str, Shape]) -> np.ndarray | None:
    """The text positions `[r w]` that the layout uses; two tables are joined to one."""
    name, width = "text/positions", like["text/positions"][1]
    positions = reader.take(theirs, (-1, width), name)
    if reader.report.layout not in TWO_TABLES:
        return positions
    rows = -1 if positions is None else len(positions)
    trained = reader.take(f"{theirs}_res", (rows, width), name)
    if positions is None or trained is None:
        return None
    if like.get("text/positions_frozen", (0,))[0] != UNSTRETCHED:
        reader.report.changes.append(
            f"Long-CLIP never trains its first {UNSTRETCHED} text positions: "
            f"model.text.frozen_positions={UNSTRETCHED} does the same"
        )
    return np.concatenate([positions[:UNSTRETCHED], trained[UNSTRETCHED:]])


def _text_positions(
    table: np.ndarray | None, like: Mapping[str, Shape], report: Report
) -> dict[str, np.ndarray]:
    """The text tower's positions, stretched to our context, in its one or two parameters."""
    if table is None:
        return {}
    frozen = like.get("text/positions_frozen", (0,))[0]
    context = frozen + like["text/positions"][0]
    try:
        stretched = stretch_positions(table, context)
    except WeightsError as error:
        report.problems += error.problems
        return {}
    if len(table) != context:
        report.changes.append(
            f"text positions stretched from {len(table)} to {context} (Long-CLIP's rule)"
        )
    parts = {"text/positions": stretched[frozen:]}
    return parts | ({"text/positions_frozen": stretched[:frozen]} if frozen else {})
