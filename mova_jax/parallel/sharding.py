"""Which arrays are sharded over which mesh axes: the only file that names mesh axes.

Models name logical axes (`batch`, `width`, `heads`, `mlp`); `LOGICAL` maps each to mesh axes, and
`PARAMETERS` gives the logical axes of every parameter. Models are written for the global batch;
the compiler partitions them.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mova_jax.config import Config, Model
from mova_jax.models import activation_axes
from mova_jax.models.attention import PLATFORMS
from mova_jax.models.pallas_attention import HEADS, takes_heads
from mova_jax.parallel.mesh import AXES, MeshError, describe
from mova_jax.typing import Batch, HostFrames

DATA, FSDP, TENSOR = AXES

# `outer_batch` is a batch axis that is not sharded among devices that share parameters.
LOGICAL = {
    "batch": (DATA, FSDP),
    "outer_batch": DATA,
    "width": FSDP,
    "heads": TENSOR,
    "mlp": TENSOR,
}

# (regex over the end of a parameter's name, logical axes of its last dimensions). The dimension
# before them, that of stacked layers, is not sharded: a scan over layers gathers one at a time.
PARAMETERS = (
    (r"(qkv|key_value)/kernel", ("width", None, "heads", None)),
    (r"(readers/\d+|tokens)/query/kernel", ("width", "heads", None)),
    (r"(attention|frames|tokens|readers/\d+)/out/kernel", ("heads", None, "width")),
    (r"mlp/up/kernel", ("width", "mlp")),
    (r"mlp/down/kernel", ("mlp", "width")),
    (r"(vision|text)/projection/kernel|[tc]mn/out/kernel", ("width", None)),
    (r"vision/patch_embedding/kernel|tmn/project/kernel", (None, "width")),
    (r"[tc]mn/(query|query_frame|key)/kernel", (None, "width")),
    (r"token_embedding", (None, "width")),
    # Vectors, and tables of a few hundred rows, are too small to be worth a message each.
    (r"bias|scale|class_embedding|positions(_frozen)?|(modular_)?logit_scale|log_sharpness", ()),
)


# -- the batch


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices; those on `tensor` share the same rows."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL["batch"]))


def fields_sharding(mesh: Mesh, microbatch: int = 0) -> Batch:
    """`batch_sharding` of each field; with microbatches the frames are in pinned host memory."""
    rows = batch_sharding(mesh)
    fields = Batch(*(rows for _ in dataclasses.fields(Batch)))
    if not microbatch:
        return fields
    spec = PartitionSpec(None, LOGICAL["batch"])
    offloaded = HostFrames(NamedSharding(mesh, spec, memory_kind="pinned_host"))
    return dataclasses.replace(fields, frames=offloaded)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def device_sharding(mesh: Mesh) -> NamedSharding:
    """One row on each device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch."""
    return _devices(mesh, "batch")


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises MeshError when a global batch does not divide over the mesh."""
    size = batch_shards(mesh)
    if batch_size % size:
        raise MeshError(
            f"{name} is {batch_size} over {size} devices: choose a multiple of {size}, or a "
            "smaller config.mesh.data or config.mesh.fsdp"
        )


def check_run(mesh: Mesh, config: Config) -> None:
    """Raises MeshError for batches or a form of attention that the mesh cannot take."""
    check_batches(mesh, config)
    check_attention(mesh, config.model)


def check_batches(mesh: Mesh, config: Config) -> None:
    """Raises MeshError when a batch of training does not divide over the mesh.

    Not checked: batches of images, which are multiples of `train.batch_size`, and those of an
    evaluation, which are padded.
    """
    for name in ("batch_size", "microbatch"):
        check_batch_size(mesh, getattr(config.train, name), f"train.{name}")


def check_attention(mesh: Mesh, model: Model) -> None:
    """Raises MeshError where the devices cannot compute the form of attention of the model."""
    form = model.attention
    platform, names = mesh.devices.flat[0].platform, PLATFORMS[form]
    if names and platform not in names:
        raise MeshError(
            f"model.attention = {form!r} is a kernel for {names[0]}, and the devices are of the "
            f"platform {platform}: set it to 'xla'"
        )
    for name, tower in (("vision", model.vision), ("text", model.text)):
        heads, width = tower.heads // mesh.shape["tensor"], tower.width // tower.heads
        if form == "pallas" and not takes_heads(heads, width):
            raise MeshError(
                f"model.attention = 'pallas' takes {HEADS}: model.{name} has {heads} heads of "
                f"{width} on a device. Set it to 'xla', or change mesh.tensor"
            )


def process_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count) of the part of each global batch that this process reads.

    Processes that are joined by `tensor` read the same part.

    Raises:
        MeshError: when the processes' parts overlap without being equal.
    """
    rows: dict[int, set[int]] = {}
    for shard, devices in enumerate(mesh.devices.reshape(batch_shards(mesh), -1)):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(shard)
    parts = sorted({tuple(sorted(shards)) for shards in rows.values()})
    if sum(map(len, parts)) != batch_shards(mesh) or len(set(map(len, parts))) != 1:
        raise MeshError(
            f"the processes of the mesh {describe(mesh)} share some of their rows and not others: "
            "choose a config.mesh.tensor that divides the devices of a process"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def put_batch(mesh: Mesh, arrays: dict[str, np.ndarray], microbatch: int = 0) -> Batch:
    """Makes a global batch on the devices from the rows of each process.

    Args:
        mesh: from `make_mesh`.
        arrays: the fields of `Batch`, this process's rows of each.
        microbatch: `config.train.microbatch`; unless 0, the frames are offloaded to host memory.
    """
    if microbatch:
        frames = arrays["frames"]
        microbatches = len(frames) * process_share(mesh)[1] // microbatch
        s, r, *row = HostFrames.shape(frames.shape, microbatches)
        frames = HostFrames(frames.reshape(r, s, *row).swapaxes(0, 1))
        arrays = arrays | {"frames": frames}
    put = jax.make_array_from_process_local_data
    return jax.tree.map(put, fields_sharding(mesh, microbatch), Batch(**arrays))


def jit_host_arrays(function: Callable[..., Any], inputs: Sequence[Any], output: NamedSharding):
    """`jax.jit` of a function whose arguments may be NumPy arrays, equal in all processes.

    Args:
        function: of trees of arrays.
        inputs: a sharding, or a tree of them, for each argument; arguments with a tree of
            shardings are on the devices already.
        output: sharding of all results.
    """
    compiled = jax.jit(function, in_shardings=tuple(inputs), out_shardings=output)
    if jax.process_count() == 1:
        return compiled

    def put(tree, sharding):
        # With several processes jit accepts NumPy arrays only where they are replicated.
        if not isinstance(sharding, NamedSharding):
            return tree
        return jax.tree.map(
            lambda leaf: (
                leaf
                if isinstance(leaf, jax.Array)
                else jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
            ),
            tree,
        )

    return lambda *trees: compiled(*map(put, trees, inputs))


# -- parameters and the state


def logical_axes(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter's last dimensions.

    Args:
        name: such as `vision/blocks/blocks/mlp/up/kernel`; a prefix, as the state of an optimizer
            has, makes no difference.

    Raises:
        MeshError: when no rule matches.
    """
    for pattern, axes in PARAMETERS:
        if re.fullmatch(rf"(.*/)?({pattern})", name):
            return axes
    raise MeshError(
        f"no rule of mova_jax/parallel/sharding.py says how {name!r} is sharded: add one to "
        "PARAMETERS"
    )


def state_sharding(mesh: Mesh, abstract: Any) -> Any:
    """Shardings of parameters, and of moments and averages, which have the parameters' names.

    A dimension that its mesh axis does not divide is not sharded.

    Args:
        mesh: from `make_mesh`.
        abstract: any tree of arrays or shapes; scalars are replicated, other leaves go by name.

    Returns:
        The same tree of shardings.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _parameter_spec(mesh, name, leaf.shape)[0])

    return jax.tree_util.tree_map_with_path(place, abstract)


def indivisible_dimensions(mesh: Mesh, parameters: dict[str, Any]) -> dict[str, int]:
    """{description: size} of parameters that a rule would shard but whose size does not divide."""
    return {
        f"{name}, {axis} {size} over {_devices(mesh, axis)} devices": math.prod(leaf.shape)
        for name, leaf in parameters.items()
        for axis, size in _parameter_spec(mesh, name, leaf.shape)[1]
    }


def _parameter_spec(mesh: Mesh, name: str, shape: tuple[int, ...]):
    """`_spec` of a parameter."""
    axes = logical_axes(name) if shape else ()
    return _spec(mesh, shape, (None,) * (len(shape) - len(axes)) + axes)


def _spec(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...]):
    """The PartitionSpec of an array, and (logical axis, size) of what its axis does not divide."""
    spec, indivisible = [], []
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % _devices(mesh, axis):
            indivisible.append((axis, size))
            axis = None
        spec.append(LOGICAL[axis] if axis else None)
    return PartitionSpec(*spec), indivisible


def _devices(mesh: Mesh, axis: str) -> int:
    """Number of devices that a logical axis is sharded over."""
    names = LOGICAL[axis]
    return math.prod(mesh.shape[name] for name in ((names,) if type(names) is str else names))


# -- activations


@contextlib.contextmanager
def activation_sharding(mesh: Mesh) -> Iterator[None]:
    """While tracing inside, `models/activation_axes.py` shards activations over the mesh."""

    def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        if jax.sharding.get_abstract_mesh().manual_axes:
            return x  # inside shard_map, where an array is one replica's rows
        return jax.lax.with_sharding_constraint(
            x, NamedSharding(mesh, _spec(mesh, x.shape, axes)[0])
        )

    def run(function, arrays, axes, out):
        if jax.sharding.get_abstract_mesh().manual_axes:
            return function(*arrays)
        inputs = [_spec(mesh, x.shape, names)[0] for x, names in zip(arrays, axes, strict=True)]
        result = _spec(mesh, jax.eval_shape(function, *arrays).shape, out)[0]
        # Kernels do not say which axes their results vary over.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=tuple(inputs), out_specs=result, check_vma=False
        )
        return mapped(*arrays)

    with activation_axes.sharding_rules(activation_axes.Rules(constrain, run)):
        yield
