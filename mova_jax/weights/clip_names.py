"""CLIP's tensors in the layouts they are published in: names, and how each becomes one of ours.

A table has one row a tensor: our name, their name, the kind of change. It is read in both ways.
`pieces` lays a table out for a model of given shapes: every tensor that is expected, by name.

Ours are names of `mova_jax.training.optim.parameter_names`; blocks lie stacked on a leading axis.
"""

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
Row = tuple[str, str, str]  # our name, their name, kind
_ALL = slice(None)


class Kind(NamedTuple):
    """How arrays of one kind change between their layout and ours."""

    shape: Callable[[Shape], Shape]  # of theirs, from that of ours
    ours: Callable[[np.ndarray, Shape], np.ndarray]  # from theirs and the shape wanted
    theirs: Callable[[np.ndarray], np.ndarray]  # from ours


def _patch_size(shape: Shape) -> int:
    return math.isqrt(shape[0] // 3)


KINDS = {
    "same": Kind(lambda s: s, lambda x, s: x, lambda y: y),
    # A bias over heads: [n e], or all of query, key and value [3 n e], as one vector.
    "flat": Kind(lambda s: (math.prod(s),), lambda x, s: x.reshape(s), lambda y: y.reshape(-1)),
    # PyTorch's [out in] as our [in ...out].
    "linear": Kind(
        lambda s: (math.prod(s[1:]), s[0]),
        lambda x, s: x.T.reshape(s),
        lambda y: y.reshape(len(y), -1).T,
    ),
    # The same for the map behind an attention, whose input has the axes [n e].
    "from_heads": Kind(
        lambda s: (s[-1], math.prod(s[:-1])),
        lambda x, s: x.T.reshape(s),
        lambda y: y.reshape(-1, y.shape[-1]).T,
    ),
    # A convolution [w 3 p p] as a dense map of patches [p * p * 3, w].
    "patches": Kind(
        lambda s: (s[1], 3, _patch_size(s), _patch_size(s)),
        lambda x, s: x.transpose(2, 3, 1, 0).reshape(s),
        lambda y: y.reshape(*2 * [_patch_size(y.shape)], 3, -1).transpose(3, 2, 0, 1),
    ),
}


class Piece(NamedTuple):
    """One tensor of theirs, and the part of a parameter of ours that it is."""

    ours: str
    index: tuple  # into our array: the block of a stack, one of query, key and value
    theirs: str
    kind: Kind


class Table(NamedTuple):
    """A layout's names."""

    tensors: tuple[Row, ...]
    stacks: tuple[tuple[str, str], ...]  # our stack of blocks, theirs
    block: tuple[
        tuple[str, tuple, str, str], ...
    ]  # our name, index behind the block's, theirs, kind
    image_positions: str
    text_positions: str


def pieces(table: Table, like: dict[str, Shape]) -> Iterator[Piece]:
    """Every tensor that a table expects for a model, but for the position tables.

    Args:
        table: of the layout.
        like: shapes of our parameters by name; they say how many blocks there are.
    """
    for ours, theirs, kind in table.tensors:
        yield Piece(ours, (), theirs, KINDS[kind])
    for our_stack, their_stack in table.stacks:
        for i in range(like[f"{our_stack}/norm_mlp/scale"][0]):
            for ours, index, theirs, kind in table.block:
                name = f"{their_stack}.{i}.{theirs}"
                yield Piece(f"{our_stack}/{ours}", (i, *index), name, KINDS[kind])


def part_shape(shape: Shape, index: tuple) -> Shape:
    """Shape of a part of an array."""
    return np.broadcast_to(np.float32(0), shape)[index].shape


def _norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """A layer norm's two tensors."""
    return (
        (f"{ours}/scale", f"{theirs}.weight", "same"),
        (f"{ours}/bias", f"{theirs}.bias", "same"),
    )


def _in_block(rows: tuple[Row, ...]) -> tuple[tuple[str, tuple, str, str], ...]:
    """Rows that take the whole of our array of a block."""
    return tuple((ours, (), theirs, kind) for ours, theirs, kind in rows)


# transformers' CLIPModel: query, key and value are tensors of their own.
HUGGINGFACE = Table(
    tensors=(
        (
            "vision/patch_embedding/kernel",
            "vision_model.embeddings.patch_embedding.weight",
            "patches",
        ),
        ("vision/class_embedding", "vision_model.embeddings.class_embedding", "same"),
        *_norm("vision/norm_pre", "vision_model.pre_layrnorm"),  # spelled so
        *_norm("vision/norm_post", "vision_model.post_layernorm"),
        ("vision/projection/kernel", "visual_projection.weight", "linear"),
        ("text/token_embedding", "text_model.embeddings.token_embedding.weight", "same"),
        *_norm("text/norm_final", "text_model.final_layer_norm"),
        ("text/projection/kernel", "text_projection.weight", "linear"),
        ("logit_scale", "logit_scale", "same"),  # its logarithm, as everywhere
    ),
    stacks=(
        ("vision/blocks/blocks", "vision_model.encoder.layers"),
        ("text/blocks/blocks", "text_model.encoder.layers"),
    ),
    block=(
        *_in_block(_norm("norm_attention", "layer_norm1")),
        *(
            ("attention/qkv/kernel", (_ALL, i), f"self_attn.{x}_proj.weight", "linear")
            for i, x in enumerate("qkv")
        ),
        *(
            ("attention/qkv/bias", (i,), f"self_attn.{x}_proj.bias", "flat")
            for i, x in enumerate("qkv")
        ),
        *_in_block(
            (
                ("attention/out/kernel", "self_attn.out_proj.weight", "from_heads"),
                ("attention/out/bias", "self_attn.out_proj.bias", "same"),
                *_norm("norm_mlp", "layer_norm2"),
                ("mlp/up/kernel", "mlp.fc1.weight", "linear"),
                ("mlp/up/bias", "mlp.fc1.bias", "same"),
                ("mlp/down/kernel", "mlp.fc2.weight", "linear"),
                ("mlp/down/bias", "mlp.fc2.bias", "same"),
            )
        ),
    ),
    image_positions="vision_model.embeddings.position_embedding.weight",
    text_positions="text_model.embeddings.position_embedding.weight",
)

# The block of OpenAI's CLIP and of all that was made from it.
_OPENAI_BLOCK = _in_block(
    (
        *_norm("norm_attention", "ln_1"),
        ("attention/qkv/kernel", "attn.in_proj_weight", "linear"),
        ("attention/qkv/bias", "attn.in_proj_bias", "flat"),
        ("attention/out/kernel", "attn.out_proj.weight", "from_heads"),
        ("attention/out/bias", "attn.out_proj.bias", "same"),
        *_norm("norm_mlp", "ln_2"),
        ("mlp/up/kernel", "mlp.c_fc.weight", "linear"),
        ("mlp/up/bias", "mlp.c_fc.bias", "same"),
        ("mlp/down/kernel", "mlp.c_proj.weight", "linear"),
        ("mlp/down/bias", "mlp.c_proj.bias", "same"),
    )
)


def openai_table(names: Collection[str]) -> Table:
    """The table of OpenAI's names, in the variant that a file has.

    open_clip's CustomTextCLIP has the text tower under `text.`, and its text projection may be a
    linear layer; everything else has the bare names and matrices that are not transposed.

    Args:
        names: of the file's tensors.
    """
    text = "text." if any(name.startswith("text.transformer.") for name in names) else ""
    projection = f"{text}text_projection"
    linear = f"{projection}.weight" in names
    return Table(
        tensors=(
            ("vision/patch_embedding/kernel", "visual.conv1.weight", "patches"),
            ("vision/class_embedding", "visual.class_embedding", "same"),
            *_norm("vision/norm_pre", "visual.ln_pre"),
            *_norm("vision/norm_post", "visual.ln_post"),
            ("vision/projection/kernel", "visual.proj", "same"),
            ("text/token_embedding", f"{text}token_embedding.weight", "same"),
            *_norm("text/norm_final", f"{text}ln_final"),
            (
                ("text/projection/kernel", f"{projection}.weight", "linear")
                if linear
                else ("text/projection/kernel", projection, "same")
            ),
            ("logit_scale", "logit_scale", "same"),
        ),
        stacks=(
            ("vision/blocks/blocks", "visual.transformer.resblocks"),
            ("text/blocks/blocks", f"{text}transformer.resblocks"),
        ),
        block=_OPENAI_BLOCK,
        image_positions="visual.positional_embedding",
        text_positions=f"{text}positional_embedding",
    )


# The transformer block of SmartCLIP's mask network; its pooling is no copy, and stands elsewhere.
MASK_NETWORK = Table(
    tensors=(),
    stacks=(("cmn/blocks/blocks", "mask_net.resblocks"),),
    block=_OPENAI_BLOCK,
    image_positions="",
    text_positions="",
)
