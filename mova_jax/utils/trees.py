"""Trees of parameters: leaves by name, and nested dicts put together."""

import jax
from flax import traverse_util


def parameter_names(params) -> dict[str, jax.Array]:
    """`{'vision/blocks/mlp/up/kernel': array, ...}` in a fixed order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def unflatten(values: dict[str, object], like):
    """A tree of `like`'s structure from values by name, as `parameter_names` gives them."""
    structure = jax.tree_util.tree_structure(like)
    return jax.tree_util.tree_unflatten(structure, [values[n] for n in parameter_names(like)])


def merged(*parts: dict) -> dict:
    """Nested dicts as one; where several have a leaf, the last counts."""
    flat = {}
    for part in parts:
        flat |= traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)
