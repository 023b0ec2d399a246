"""Initialises modules that CLIP lacks from CLIP weights.

In: converted parameters, or a reader of the tensors. Out: parameters of the `head` (from the text
tower, as CLIP4Clip's seqTransf) and of the `cmn` (from SmartCLIP's mask network).
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
    """Starts the seq_transformer head from the text tower's first blocks and positions.

    CLIP4Clip starts its seqTransf head so.

    Args:
        ours: the text tower's parameters.
        table: text positions `[r w]` of the weights, before they are stretched.
        like: shapes of our parameters by name.
        report: gets a line for each part of the head.

    Returns:
        The `head/...` parameters that could be started. A head of another width or with another
        number of attention heads keeps its random values.
    """
    blocks = {
        name: f"text{name.removeprefix('head')}" for name in like if name.startswith("head/blocks/")
    }
    if not blocks:
        return {}
    head: dict[str, np.ndarray] = {}
    if all(text in ours and _starts_with(ours[text], like[name]) for name, text in blocks.items()):
        head = {name: ours[text][: like[name][0]].copy() for name, text in blocks.items()}
        report.changes.append("head/blocks started from the first text blocks, as in CLIP4Clip")
    else:
        report.changes.append(
            "head/blocks keep their random start: text blocks of their width and heads, which "
            "CLIP4Clip starts them from, are not there"
        )
    # The table before the stretch, as CLIP4Clip has it; the stretched one where that is too short.
    stretched = [ours[n] for n in ("text/positions_frozen", "text/positions") if n in ours]
    tables = [t for t in (table, np.concatenate(stretched) if stretched else None) if t is not None]
    shape = like["head/positions"]
    fitting = [rows[: shape[0]] for rows in tables if _starts_with(rows, shape)]
    if fitting:
        head["head/positions"] = fitting[0].copy()
        report.changes.append("head/positions started from the first text positions")
    return head


def _starts_with(value: np.ndarray, shape: Shape) -> bool:
    """Whether the first `shape[0]` rows of an array have that shape."""
    return len(value) >= shape[0] and value.shape[1:] == shape[1:]


def start_mask_network(
    reader: TensorReader, like: Mapping[str, Shape], init_bias: float
) -> dict[str, np.ndarray]:
    """Starts the concept mask network from SmartCLIP's mask network, with the same logits.

    Both run one block over a caption's tokens y and pool them: SmartCLIP by softmax(y a) with a
    trained vector a, ours by softmax(y q / sqrt(w)) with q = kernel * part + bias, followed by an
    output map. So kernel = 0, bias = a sqrt(w), and the output map is the identity. SmartCLIP's
    bias is the same for all tokens, and the softmax ignores it. The two differ on padding, which
    SmartCLIP reads and ours does not.

    Args:
        reader: with the `mask_net.` tensors.
        like: shapes of our parameters by name.
        init_bias: `config.model.masks.init_bias`, which our network adds to its logits.

    Returns:
        The `cmn/...` parameters; none where the two networks do not fit.
    """
    report = reader.report
    if "cmn/query/bias" not in like:
        report.changes.append("mask_net is not used: the model has no concept mask network")
        reader.ignore("mask_net.")
        return {}
    problems = _misfits(like, init_bias)
    if problems:
        report.problems += problems
        reader.ignore("mask_net.")
        return {}
    width = like["cmn/out/kernel"][0]
    ours = reader.take_table(clip_names.MASK_NETWORK, like)
    vector = reader.take(f"{_POOL}.weight", (1, width), "cmn/query/bias")
    reader.ignore(f"{_POOL}.bias")
    if vector is None:
        return ours
    report.changes.append(
        "cmn started as SmartCLIP's mask network: at first its masks depend on the caption alone"
    )
    zero = ("cmn/query/kernel", "cmn/query_frame/kernel", "cmn/out/bias")
    ours |= {name: np.zeros(like[name], np.float32) for name in zero if name in like}
    ours["cmn/query/bias"] = vector[0] * np.float32(math.sqrt(width))
    ours["cmn/out/kernel"] = np.eye(width, dtype=np.float32)
    return ours


def _misfits(like: Mapping[str, Shape], init_bias: float) -> list[str]:
    """Reasons why our concept mask network cannot have SmartCLIP's logits."""
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
