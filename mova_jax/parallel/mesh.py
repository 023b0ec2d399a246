"""Devices as a mesh, and what lies where on it: the only file that names mesh axes.

    data     splits the batch; slices of a pod that only a network joins are joined on this axis
    fsdp     splits the batch too, and with it parameters, optimizer state and average
    tensor   splits the heads and the MLP width inside a layer; its devices share their rows

Models name logical axes (`batch`, `width`, `heads`, `mlp`), a table here says on which mesh axis
each lies. Models are written for the global batch and know nothing of this: the compiler splits
them. Losses see every pair of the batch whatever the number of devices, through `MeshReplicaGroup`.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mova_jax.config import Config
from mova_jax.config import Mesh as MeshConfig
from mova_jax.models import layers
from mova_jax.typing import Batch, HostFrames

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")

# `group` is the batch as those see it that share the parameters among them, all of its rows.
LOGICAL = {
    "batch": (DATA, FSDP),
    "group": DATA,
    "width": FSDP,
    "heads": TENSOR,
    "mlp": TENSOR,
}

# (regex over the end of a parameter's name, logical axes of its last dimensions). Dimensions before
# them, those of stacked layers, are whole: a scan over layers gathers one layer at a time.
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
    (r"bias|scale|class_embedding|positions(_frozen)?|(modular_)?logit_scale", ()),
)


class MeshError(ValueError):
    """Devices or processes that do not fit; the message says what to do."""


_SILENT_S = 30  # after so long without a word a process counts as lost


def start_processes(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins this process to the others of its run; to be called before JAX is asked for anything.

    On Cloud TPU, GKE and Slurm JAX finds the others by itself, and a process that is alone stays
    alone. Elsewhere the three arguments say where they are.

    Args:
        coordinator: `host:port` of process 0, the same for all; '' looks for a cluster.
        processes: how many there are.
        process: number of this one, from 0.

    Raises:
        MeshError: when only some of the three are given, or they contradict each other.
    """
    given = bool(coordinator), processes > 0, process >= 0
    if any(given) and not (all(given) and process < processes):
        raise MeshError(
            f"got coordinator={coordinator!r}, processes={processes}, process={process}; expected "
            "host:port, a number of processes and this one's number below it, or none of the three"
        )
    # JAX's own service would swallow SIGTERM and only note it; the loop has a vote of its own.
    jax.config.update("jax_enable_preemption_service", False)
    beat = {"heartbeat_timeout_seconds": _SILENT_S}
    if coordinator:
        jax.distributed.initialize(coordinator, processes, process, **beat)
        return
    try:
        jax.distributed.initialize(**beat)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # that of a machine of no cluster
            raise


def make_mesh(
    sizes: MeshConfig | None = None,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of this run's devices, or of those of a machine that is not there.

    Args:
        sizes: `config.mesh`; takes the place of the next three.
        data: devices on the axis; one of the three may be -1, which takes what is left.
        fsdp: as `data`.
        tensor: as `data`.
        devices: of a topology; None takes all that there are. Of one process's devices some may
            stay unused.

    Raises:
        MeshError: when the sizes do not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    asked = (data, fsdp, tensor) if sizes is None else (sizes.data, sizes.fsdp, sizes.tensor)
    shape = _shape(asked, devices)
    if (used := math.prod(shape)) < len(devices):
        arranged = np.array(devices[:used]).reshape(shape)
    else:
        arranged = _arranged(devices, shape)
    return Mesh(arranged, AXES, axis_types=3 * (AxisType.Auto,))


def _shape(asked: tuple[int, int, int], devices: list) -> tuple[int, int, int]:
    """Sizes with -1 filled in."""
    named = math.prod(size for size in asked if size != -1)
    open_axes = asked.count(-1)
    fits = named > 0 and open_axes <= 1 and min(asked) >= -1 and 0 not in asked
    count = len(devices)
    fits = fits and (count % named == 0 if open_axes else named <= count)
    if fits and named < count and not open_axes:
        fits = len({device.process_index for device in devices}) == 1
    if not fits:
        text = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, asked, strict=True))
        raise MeshError(
            f"config.mesh is {text}, but there are {count} {devices[0].platform} device(s): "
            "choose sizes whose product that is; one of them may be -1, which takes what is left"
        )
    return tuple(count // named if size == -1 else size for size in asked)


def _arranged(devices: list, shape: tuple[int, int, int]) -> np.ndarray:
    """Devices `[data fsdp tensor]`: neighbours in the machine where that is quick."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = shape
    if data % slices:
        raise MeshError(
            f"config.mesh.data is {data}, but the devices are {slices} slices, which are joined by "
            f"that axis: choose a multiple of {slices}, or -1 with a smaller fsdp and tensor"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp, tensor), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def describe(mesh: Mesh) -> str:
    """`data 2 x fsdp 4 x tensor 1 of 8 TPU v5 lite device(s)`."""
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{sizes} of {mesh.size} {mesh.devices.flat[0].device_kind} device(s)"


# -- the batch


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over the devices, but for those that share their rows."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL["batch"]))


def fields_sharding(mesh: Mesh, microbatch: int = 0) -> Batch:
    """`batch_sharding` of each field; frames of a batch in microbatches wait on the host."""
    split = batch_sharding(mesh)
    placed = Batch(*(split for _ in dataclasses.fields(Batch)))
    if not microbatch:
        return placed
    spec = PartitionSpec(None, LOGICAL["batch"])
    offloaded = HostFrames(NamedSharding(mesh, spec, memory_kind="pinned_host"))
    return dataclasses.replace(placed, frames=offloaded)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return _devices(mesh, "batch")


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises MeshError when a global batch does not divide over the mesh."""
    size = batch_shards(mesh)
    if batch_size % size:
        raise MeshError(
            f"{name} is {batch_size} over {size} devices: choose a multiple of {size}, or a "
            "smaller config.mesh.data or config.mesh.fsdp"
        )


def check_batches(mesh: Mesh, config: Config) -> None:
    """Raises MeshError when what a run trains on at once does not divide over the mesh.

    A batch of images that the run chooses itself is a multiple of `train.batch_size`, and an
    evaluation fills up its own.
    """
    names = ["batch_size", "microbatch"] + ["image_batch_size"] * bool(config.train.image_share)
    for name in names:
        check_batch_size(mesh, getattr(config.train, name), f"train.{name}")


def on_devices(function: Callable[..., Any], inputs: Sequence[Any], output: Any):
    """`jax.jit` of a function whose arguments may be NumPy arrays that every process has whole.

    Args:
        function: of trees of arrays.
        inputs: a sharding, or a tree of them, for each argument.
        output: sharding of all results.
    """
    compiled = jax.jit(function, in_shardings=tuple(inputs), out_shardings=output)
    if jax.process_count() == 1:
        return compiled

    def place(tree, sharding):
        # With several processes jit takes NumPy arrays for what is whole everywhere only.
        return jax.tree.map(
            lambda leaf: (
                leaf
                if isinstance(leaf, jax.Array)
                else jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
            ),
            tree,
        )

    def call(*trees):
        one_each = (s if isinstance(s, NamedSharding) else None for s in inputs)
        return compiled(*(place(t, s) if s else t for t, s in zip(trees, one_each, strict=True)))

    return call


def any_process(mesh: Mesh, flag: bool) -> jax.Array:
    """Whether any process of the run has its flag up: a scalar on the devices, read it later.

    It is queued behind the work at hand, so that asking costs the host no waiting.
    """
    everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    rows = np.full(len(mesh.local_devices), flag)
    return _any(mesh)(jax.make_array_from_process_local_data(everywhere, rows))


@functools.cache
def _any(mesh: Mesh):
    return jax.jit(lambda votes: votes.any(), out_shardings=replicated(mesh))


def process_share(mesh: Mesh) -> tuple[int, int]:
    """Which part of each global batch this process reads: (number of the part, parts).

    A process without rows of its own shares the part of those that it is joined to by `tensor`.

    Raises:
        MeshError: when the devices of a process hold parts of the rows of others.
    """
    rows: dict[int, set[int]] = {}
    for shard, group in enumerate(mesh.devices.reshape(batch_shards(mesh), -1)):
        for device in group:
            rows.setdefault(device.process_index, set()).add(shard)
    parts = sorted({tuple(sorted(held)) for held in rows.values()})
    if sum(map(len, parts)) != batch_shards(mesh) or len(set(map(len, parts))) != 1:
        raise MeshError(
            f"the processes of the mesh {describe(mesh)} share some of their rows and not others: "
            "choose a config.mesh.tensor that divides the devices of a process"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def put_batch(mesh: Mesh, arrays: dict[str, np.ndarray], microbatch: int = 0) -> Batch:
    """This process's rows as part of a global batch on the devices.

    Args:
        mesh: from `make_mesh`.
        arrays: the fields of `Batch`, this process's rows of each.
        microbatch: `config.train.microbatch`; the frames then wait in the memory of the host.
    """
    if microbatch:
        frames = arrays["frames"]
        microbatches = len(frames) * process_share(mesh)[1] // microbatch
        s, r, *row = HostFrames.shape(frames.shape, microbatches)
        frames = HostFrames(frames.reshape(r, s, *row).swapaxes(0, 1))
        arrays = arrays | {"frames": frames}
    place = jax.make_array_from_process_local_data
    return jax.tree.map(place, fields_sharding(mesh, microbatch), Batch(**arrays))


# -- parameters, and what is kept of each


def logical_axes(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter's last dimensions.

    Args:
        name: such as `vision/blocks/blocks/mlp/up/kernel`; what stands before it, as in the state
            of an optimizer, does not matter.

    Raises:
        MeshError: when no rule is for it.
    """
    for pattern, axes in PARAMETERS:
        if re.fullmatch(rf"(.*/)?({pattern})", name):
            return axes
    raise MeshError(
        f"no rule of mova_jax/parallel/mesh.py says where {name!r} lies: add one to PARAMETERS"
    )


def state_sharding(mesh: Mesh, abstract: Any) -> Any:
    """Where each leaf lies, of parameters and of all that has their names: moments, an average.

    A dimension that its mesh axis does not divide stays whole.

    Args:
        mesh: from `make_mesh`.
        abstract: any tree of arrays or shapes; scalars are replicated, all else goes by its name.

    Returns:
        The same tree of shardings.
    """

    def place(path, leaf):
        spec, _ = _spec(mesh, jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, abstract)


def whole_dimensions(mesh: Mesh, parameters: dict[str, Any]) -> dict[str, int]:
    """Parameters that a rule would split but whose size does not divide: {what: their size}."""
    return {
        f"{name}, {axis} {size} over {_devices(mesh, axis)} devices": math.prod(leaf.shape)
        for name, leaf in parameters.items()
        for axis, size in _spec(mesh, name, leaf.shape)[1]
    }


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]):
    """`_split` of a parameter."""
    axes = logical_axes(name) if shape else ()
    return _split(mesh, shape, (None,) * (len(shape) - len(axes)) + axes)


def _split(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...]):
    """The placement of an array, and (logical axis, size) of what should be split but is not."""
    spec, whole = [], []
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % _devices(mesh, axis):
            whole.append((axis, size))
            axis = None
        spec.append(LOGICAL[axis] if axis else None)
    return PartitionSpec(*spec), whole


def _devices(mesh: Mesh, axis: str) -> int:
    """Over how many devices a logical axis is split."""
    names = LOGICAL[axis]
    return math.prod(mesh.shape[name] for name in ((names,) if type(names) is str else names))


@contextlib.contextmanager
def activation_sharding(mesh: Mesh) -> Iterator[None]:
    """Inside, `layers.laid_out` places activations on the mesh; to be entered while tracing."""

    def place(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        if jax.sharding.get_abstract_mesh().manual_axes:
            return x  # under shard_map a part of the batch is all that there is
        spec, _ = _split(mesh, x.shape, axes)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    with layers.sharding_rules(place):
        yield


# -- the losses


class MeshReplicaGroup:
    """The devices between which the batch is split, as the losses see them.

    What is not about the batch stays with the compiler. `mova_jax.losses.ring.OneParty` says what
    each method does, and stands in where there is only one.
    """

    def __init__(self, mesh: Mesh, axes: tuple[str, ...]):
        self._mesh, self._axes = mesh, axes
        self.size = math.prod(mesh.shape[axis] for axis in axes)
        # XLA's CPU runtime starts exchanges that do not depend on each other in any order, another
        # one on each device, and then they wait for each other for ever. There each is made to
        # depend on the one before it, and so is its backward pass.
        self._ordered = mesh.devices.flat[0].platform == "cpu"
        self._before: jax.Array | None = None

    def rank(self):
        """The number of this replica, from 0, in the order of the batch."""
        return jax.lax.axis_index(self._axes)

    def ring_shift(self, tree):
        """Hands a pytree to the next replica; what the one before had comes in."""
        ring = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.lax.ppermute(tree, self._axes, ring)

    def psum(self, tree):
        """The sum over all replicas."""
        return jax.lax.psum(_tied(tree) if self._ordered else tree, self._axes)

    def all_gather(self, tree):
        """The rows of all replicas, in the order of the batch: floats, for only they take turns."""

        def one(leaf):
            found = jax.lax.all_gather(self.in_turn(leaf), self._axes, tiled=True)
            self.done(found)
            return found

        return jax.tree.map(one, tree)

    def in_turn(self, tree):
        """What goes into an exchange, at the earliest after the exchange before it."""
        return tree if self._before is None else _added(tree, self._before)

    def done(self, tree):
        """What came out of an exchange."""
        if self._ordered:
            self._before = _nothing(tree)

    def pvary(self, tree):
        """Marks what is made alike everywhere as each replica's own: its gradients are summed."""
        return jax.lax.pcast(tree, self._axes, to="varying")

    def shard_map(self, fn, whole, split):
        """Runs `fn(whole, split)` at each replica; it returns what is the same everywhere."""

        def run(whole, split):
            self._before = None
            arguments = self.pvary(whole), split
            return fn(*(_tied(arguments) if self._ordered else arguments))

        return jax.shard_map(
            run,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), PartitionSpec(self._axes)),
            out_specs=PartitionSpec(),
            axis_names=set(self._axes),
        )(whole, split)


def _nothing(tree: Any) -> jax.Array:
    """A zero that depends on every float array of a tree, whatever is in it."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    firsts = [leaf.reshape(-1)[0].astype(jnp.float32) for leaf in floats]
    return 0.0 * sum(jnp.where(jnp.isfinite(first), first, 0.0) for first in firsts)


def _added(tree: Any, nothing: jax.Array) -> Any:
    return jax.tree.map(
        lambda x: x + nothing.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _tied(tree: Any) -> Any:
    """The tree, each float array of it depending on all of them, and so its gradients."""
    return _added(tree, _nothing(tree))


def replica_group(mesh: Mesh) -> MeshReplicaGroup | None:
    """What the losses need to know of a mesh; None where one device has the whole batch."""
    found = MeshReplicaGroup(mesh, LOGICAL["batch"])
    return found if found.size > 1 else None
