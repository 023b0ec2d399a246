"""Starts for modules of ours that a CLIP has not, from what it has.

In: parameters that were converted, or tensors still to be taken. Out: parameters of the `head` (as
CLIP4Clip starts its seqTransf) and of the `cmn` (from SmartCLIP's mask network).
"""

import math
from collections.abc import Mapping

import numpy as np

from mova_jax.weights import clip_names
from mova_jax.weights.clip_names import Shape
from mova_jax.weights.conversion import Report, TensorReader

_POOL = "mask_net.attn_pool.attention"  # SmartCLIP's linear map of w to 1 that weights tokens


def start_head(
    ours: Mapping[str, np.ndarray],
    table: np.ndarray | None,
    like: Mapping[str, Shape],
    report: Report,
) -> dict[str, np.ndarray]:
    """CLIP4Clip's start of its seqTransf head: the text tower's first blocks and positions.

    Args:
        ours: the text tower's parameters.
        table: `[r w]`, the text positions of the source, before they are stretched.
        like: shapes of our parameters by name.
        report: told what was started, and what was not.

    Returns:
        The `head/...` parameters that have a start. A head of another width, or with other heads of
        attention, keeps its random one.
    """
    blocks = {
        name: f"text{name.removeprefix('head')}" for name in like if name.startswith("head/blocks/")
    }
    if not blocks:
        return {}
    head: dict[str, np.ndarray] = {}
    if all(text in ours and _holds(ours[text], like[name]) for name, text in blocks.items()):
        head = {name: ours[text][: like[name][0]].copy() for name, text in blocks.items()}
        report.changed.append("head/blocks started from the first text blocks, as in CLIP4Clip")
    else:
        report.changed.append(
            "head/blocks keep their random start: text blocks of their width and heads, which "
            "CLIP4Clip starts them from, are not there"
        )
    # The source's own table, as CLIP4Clip does; after the stretch there are more rows, if need be.
    stretched = [ours[n] for n in ("text/positions_frozen", "text/positions") if n in ours]
    tables = [t for t in (table, np.concatenate(stretched) if stretched else None) if t is not None]
    shape = like["head/positions"]
    fitting = [rows[: shape[0]] for rows in tables if _holds(rows, shape)]
    if fitting:
        head["head/positions"] = fitting[0].copy()
        report.changed.append("head/positions started from the first text positions")
    return head


def _holds(value: np.ndarray, shape: Shape) -> bool:
    """Whether the first rows of an array have that shape."""
    return len(value) >= shape[0] and value.shape[1:] == shape[1:]


def start_mask_network(
    source: TensorReader, like: Mapping[str, Shape], init_bias: float
) -> dict[str, np.ndarray]:
    """SmartCLIP's mask network as a concept mask network that gives the same logits.

    Both run one block over a caption's tokens y and pool them: theirs by softmax(y a) with a
    trained vector a, ours by softmax(y q / sqrt(w)) with q = kernel * part + bias, and an output
    map behind it. So kernel = 0, bias = a sqrt(w), and the output map is the identity. Their bias
    is the same for all tokens and falls out of the softmax. They differ on padding, which theirs
    reads and ours does not.

    Args:
        source: with the `mask_net.` tensors.
        like: shapes of our parameters by name.
        init_bias: `config.model.masks.init_bias`, which our network adds to its logits.

    Returns:
        The `cmn/...` parameters; none where the two networks do not fit.
    """
    report = source.report
    if "cmn/query/bias" not in like:
        report.changed.append("mask_net is not used: the model has no concept mask network")
        source.drop("mask_net.")
        return {}
    problems = _misfits(like, init_bias)
    if problems:
        report.problems += problems
        source.drop("mask_net.")
        return {}
    width = like["cmn/out/kernel"][0]
    ours = source.copy(clip_names.MASK_NETWORK, like)
    vector = source.take(f"{_POOL}.weight", (1, width), "cmn/query/bias")
    source.drop(f"{_POOL}.bias")
    if vector is None:
        return ours
    report.changed.append(
        "cmn started as SmartCLIP's mask network: at first its masks depend on the caption alone"
    )
    zero = ("cmn/query/kernel", "cmn/query_frame/kernel", "cmn/out/bias")
    ours |= {name: np.zeros(like[name], np.float32) for name in zero if name in like}
    ours["cmn/query/bias"] = vector[0] * np.float32(math.sqrt(width))
    ours["cmn/out/kernel"] = np.eye(width, dtype=np.float32)
    return ours


def _misfits(like: Mapping[str, Shape], init_bias: float) -> list[str]:
    """Why SmartCLIP's mask network cannot be our concept mask network."""
    width, dim = like["cmn/out/kernel"]
    problems = []
    if width != dim:
        problems.append(
            f"mask_net: its masks have the text tower's width {width}, but model.embed_dim is "
            f"{dim}; expected the same, or model.cmn.kind=none"
        )
    if init_bias:
        problems.append(
            f"mask_net: model.masks.init_bias {init_bias} would be added to its logits; expected 0"
        )
    return problems
