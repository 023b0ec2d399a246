"""Names of CLIP's tensors in the layouts that it is published in, and how each becomes one of ours.

A `Table` has one `Entry` per tensor: our name, their name, the kind of change. It is read in both
directions. `parameter_slices` lists every tensor that a model of given shapes needs.

Our names are those of `mova_jax.utils.trees.parameter_names`; blocks are stacked on a leading axis.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
_ALL = slice(None)


class Kind(NamedTuple):
    """How arrays of one kind change between their layout and ours."""

    shape: Callable[[Shape], Shape]  # their shape, from ours
    ours: Callable[[np.ndarray, Shape], np.ndarray]  # our array, from theirs and our shape
    theirs: Callable[[np.ndarray], np.ndarray]  # their array, from ours


def _patch_size(shape: Shape) -> int:
    return math.isqrt(shape[0] // 3)


KINDS = {
    "same": Kind(lambda s: s, lambda x, s: x, lambda y: y),
    # A bias over heads [n e], or over query, key and value [3 n e], as one vector.
    "flat": Kind(lambda s: (math.prod(s),), lambda x, s: x.reshape(s), lambda y: y.reshape(-1)),
    # PyTorch's [out in] as our [in ...out].
    "linear": Kind(
        lambda s: (math.prod(s[1:]), s[0]),
        lambda x, s: x.T.reshape(s),
        lambda y: y.reshape(len(y), -1).T,
    ),
    # The same for the output map of an attention, whose input has the axes [n e].
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


class Entry(NamedTuple):
    """A line of a table: a tensor of theirs, and the parameter of ours that it fills."""

    ours: str
    theirs: str
    kind: str  # a key of `KINDS`
    index: tuple = ()  # into our array, where it fills a part: one of query, key and value


class ParameterSlice(NamedTuple):
    """One tensor of theirs, and the slice of a parameter of ours that it fills."""

    ours: str
    index: tuple  # into our array: the block of a stack, then the index of the entry
    theirs: str
    kind: Kind


class Table(NamedTuple):
    """A layout's names."""

    stacks: tuple[tuple[str, str], ...]  # our stack of blocks, theirs
    block: tuple[Entry, ...]  # names within a block
    tensors: tuple[Entry, ...] = ()  # outside of the stacks
    image_positions: str = ""
    text_positions: str = ""


def parameter_slices(table: Table, like: Mapping[str, Shape]) -> Iterator[ParameterSlice]:
    """Every tensor that a table expects for a model, except the position tables.

    Args:
        table: of the layout.
        like: shapes of our parameters by name; the number of blocks is read from them.
    """
    for entry in table.tensors:
        yield ParameterSlice(entry.ours, (), entry.theirs, KINDS[entry.kind])
    for our_stack, their_stack in table.stacks:
        for i in range(like[f"{our_stack}/norm_mlp/scale"][0]):
            for entry in table.block:
                ours, theirs = f"{our_stack}/{entry.ours}", f"{their_stack}.{i}.{entry.theirs}"
                yield ParameterSlice(ours, (i, *entry.index), theirs, KINDS[entry.kind])


def slice_shape(shape: Shape, index: tuple) -> Shape:
    """Shape of `array[index]` of an array of that shape."""
    return np.broadcast_to(np.float32(0), shape)[index].shape


def _norm(ours: str, theirs: str) -> tuple[Entry, ...]:
    """A layer norm's two tensors."""
    return (
        Entry(f"{ours}/scale", f"{theirs}.weight", "same"),
        Entry(f"{ours}/bias", f"{theirs}.bias", "same"),
    )


# transformers' CLIPModel: query, key and value are tensors of their own.
HUGGINGFACE = Table(
    tensors=(
        Entry(
            "vision/patch_embedding/kernel",
            "vision_model.embeddings.patch_embedding.weight",
            "patches",
        ),
        Entry("vision/class_embedding", "vision_model.embeddings.class_embedding", "same"),
        *_norm("vision/norm_pre", "vision_model.pre_layrnorm"),  # spelled so
        *_norm("vision/norm_post", "vision_model.post_layernorm"),
        Entry("vision/projection/kernel", "visual_projection.weight", "linear"),
        Entry("text/token_embedding", "text_model.embeddings.token_embedding.weight", "same"),
        *_norm("text/norm_final", "text_model.final_layer_norm"),
        Entry("text/projection/kernel", "text_projection.weight", "linear"),
        Entry("logit_scale", "logit_scale", "same"),  # the logarithm, as in every layout
    ),
    stacks=(
        ("vision/blocks/blocks", "vision_model.encoder.layers"),
        ("text/blocks/blocks", "text_model.encoder.layers"),
    ),
    block=(
        *_norm("norm_attention", "layer_norm1"),
        *(
            Entry("attention/qkv/kernel", f"self_attn.{x}_proj.weight", "linear", (_ALL, i))
            for i, x in enumerate("qkv")
        ),
        *(
            Entry("attention/qkv/bias", f"self_attn.{x}_proj.bias", "flat", (i,))
            for i, x in enumerate("qkv")
        ),
        Entry("attention/out/kernel", "self_attn.out_proj.weight", "from_heads"),
        Entry("attention/out/bias", "self_attn.out_proj.bias", "same"),
        *_norm("norm_mlp", "layer_norm2"),
        Entry("mlp/up/kernel", "mlp.fc1.weight", "linear"),
        Entry("mlp/up/bias", "mlp.fc1.bias", "same"),
        Entry("mlp/down/kernel", "mlp.fc2.weight", "linear"),
        Entry("mlp/down/bias", "mlp.fc2.bias", "same"),
    ),
    image_positions="vision_model.embeddings.position_embedding.weight",
    text_positions="text_model.embeddings.position_embedding.weight",
)

# The block of OpenAI's CLIP and of the code that derives from it.
_OPENAI_BLOCK = (
    *_norm("norm_attention", "ln_1"),
    Entry("attention/qkv/kernel", "attn.in_proj_weight", "linear"),
    Entry("attention/qkv/bias", "attn.in_proj_bias", "flat"),
    Entry("attention/out/kernel", "attn.out_proj.weight", "from_heads"),
    Entry("attention/out/bias", "attn.out_proj.bias", "same"),
    *_norm("norm_mlp", "ln_2"),
    Entry("mlp/up/kernel", "mlp.c_fc.weight", "linear"),
    Entry("mlp/up/bias", "mlp.c_fc.bias", "same"),
    Entry("mlp/down/kernel", "mlp.c_proj.weight", "linear"),
    Entry("mlp/down/bias", "mlp.c_proj.bias", "same"),
)


def openai_table(names: Collection[str]) -> Table:
    """The table of OpenAI's names, in the variant that a file has.

    open_clip's CustomTextCLIP has the text tower under `text.`, and its text projection may be a
    linear layer. All others have the bare names, and projections that are not transposed.

    Args:
        names: of the file's tensors.
    """
    text = "text." if any(name.startswith("text.transformer.") for name in names) else ""
    projection = f"{text}text_projection"
    linear = f"{projection}.weight" in names
    return Table(
        tensors=(
            Entry("vision/patch_embedding/kernel", "visual.conv1.weight", "patches"),
            Entry("vision/class_embedding", "visual.class_embedding", "same"),
            *_norm("vision/norm_pre", "visual.ln_pre"),
            *_norm("vision/norm_post", "visual.ln_post"),
            Entry("vision/projection/kernel", "visual.proj", "same"),
            Entry("text/token_embedding", f"{text}token_embedding.weight", "same"),
            *_norm("text/norm_final", f"{text}ln_final"),
            Entry("text/projection/kernel", f"{projection}.weight", "linear")
            if linear
            else Entry("text/projection/kernel", projection, "same"),
            Entry("logit_scale", "logit_scale", "same"),
        ),
        stacks=(
            ("vision/blocks/blocks", "visual.transformer.resblocks"),
            ("text/blocks/blocks", f"{text}transformer.resblocks"),
        ),
        block=_OPENAI_BLOCK,
        image_positions="visual.positional_embedding",
        text_positions=f"{text}positional_embedding",
    )


# The transformer block of SmartCLIP's mask network; `warm_start.py` converts its pooling.
MASK_NETWORK = Table(stacks=(("cmn/blocks/blocks", "mask_net.resblocks"),), block=_OPENAI_BLOCK)
