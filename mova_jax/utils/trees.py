"""Nested dicts of parameters: their leaves by name, and merging."""

import jax
from flax import traverse_util


def parameter_names(params) -> dict[str, jax.Array]:
    """`{"vision/blocks/mlp/up/kernel": array, ...}` in the order of the tree's leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def parameter_shapes(params) -> dict[str, tuple[int, ...]]:
    """`{'vision/blocks/mlp/up/kernel': (12, 768, 3072), ...}`, also of abstract parameters."""
    return {name: leaf.shape for name, leaf in parameter_names(params).items()}


def unflatten(values: dict[str, object], like):
    """The inverse of `parameter_names`: a tree of `like`'s structure from values by name."""
    structure = jax.tree_util.tree_structure(like)
    return jax.tree_util.tree_unflatten(structure, [values[n] for n in parameter_names(like)])


def merged(*parts: dict) -> dict:
    """Merges nested dicts; where several have a leaf, the last one counts."""
    flat = {}
    for part in parts:
        flat |= traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)
