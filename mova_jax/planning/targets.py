"""The devices that a plan is made for: a TPU slice, GPUs, simulated CPUs, or this machine.

v5e:16x16          a slice of 256 chips; v4, v5e, v5p, v6e, tpu7x
v5e:16x16*2        two such slices, joined by the data-center network
h100:8             a node of eight GPUs; l4, a100, h100, h200
h100:2x8           two such nodes, joined by a network
cpu:8              eight simulated CPU devices
local              what JAX finds on this machine
"""

import dataclasses
import math
import os
import re
from importlib import util
from typing import Any

from mova_jax.cost.chips import CHIPS, Chip, of_kind
from mova_jax.planning import gpu

LOCAL = "local"
_FORM = re.compile(r"(?P<name>[a-z0-9]+):(?P<shape>\d+(?:x\d+){0,2})(?:\*(?P<slices>[1-9]\d*))?")
# Without these, libtpu looks for the metadata server of a TPU VM and logs many lines when there is
# none.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_ID": "0",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # nothing runs, so two plans may run at once
}
INSTALL = (
    "TPU topologies need libtpu, which is not installed: pip install -r requirements-tpu.txt "
    "(0.7 GB; no TPU is needed). Without it: --topology=cpu:8 or --topology=local"
)


class TopologyError(ValueError):
    """A topology name that is wrong, or that needs something which is not installed."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Named devices; JAX is not imported before `devices` is called."""

    name: str
    platform: str  # tpu | gpu | cpu | local
    chip: Chip | None
    shape: tuple[int, ...]  # chips along each axis; of GPUs (nodes, GPUs a node)
    slices: int

    @property
    def chips(self) -> int:
        """Chips in all slices; 0 for `local`, where only JAX knows."""
        return math.prod(self.shape) * self.slices if self.shape else 0

    @property
    def compiler_options(self) -> dict[str, bool]:
        """XLA's options for devices that are not here."""
        return gpu.COMPILER_OPTIONS if self.platform == "gpu" else {}


def parse(name: str) -> Topology:
    """Parses a topology name; the module docstring lists the forms.

    Raises:
        TopologyError: for a name of another form, chip or shape.
    """
    if name == LOCAL:
        return Topology(name, LOCAL, None, (), 1)
    match = _FORM.fullmatch(name)
    if not match or match["name"] not in ("cpu", *CHIPS):
        tpus, gpus = (
            ", ".join(chip.name for chip in CHIPS.values() if chip.is_gpu == wanted)
            for wanted in (False, True)
        )
        raise TopologyError(
            f"--topology: got {name!r}, expected CHIP:SHAPE such as v5e:16x16 or v5p:4x4x4 "
            f"({tpus}), CHIP:SHAPE*SLICES, GPUs such as h100:8 or h100:2x8 ({gpus}), cpu:8, or "
            "local"
        )
    shape = tuple(int(n) for n in match["shape"].split("x"))
    slices = int(match["slices"] or 1)
    if match["name"] == "cpu":
        if len(shape) > 1 or slices > 1 or not shape[0]:
            raise TopologyError(f"--topology: got {name!r}, expected a number of devices: cpu:8")
        return Topology(name, "cpu", None, shape, 1)
    chip = CHIPS[match["name"]]
    if chip.is_gpu:
        if len(shape) > 2 or slices > 1 or not all(shape):
            raise TopologyError(
                f"--topology: got {name!r}, expected GPUs of a node, or nodes x GPUs: "
                f"{chip.name}:8, {chip.name}:2x8"
            )
        return Topology(name, "gpu", chip, (1, *shape)[-2:], 1)
    if len(shape) != chip.torus_axes or not all(shape):
        example = "x".join(["4"] * chip.torus_axes)
        raise TopologyError(
            f"--topology: got {name!r}, but {chip.name} has {chip.torus_axes} axes, as in "
            f"{chip.name}:{example}"
        )
    return Topology(name, "tpu", chip, shape, slices)


def prepare_environment(topology: Topology, environment: dict[str, str] | None = None) -> None:
    """Sets the environment variables that JAX and libtpu read on import.

    Args:
        topology: from `parse`.
        environment: changed in place; None: the environment of this process.

    Raises:
        TopologyError: when a compiler is needed and not installed.
    """
    environment = os.environ if environment is None else environment
    if topology.platform == LOCAL:
        return
    # The program is compiled and never run, so a local accelerator stays free.
    environment["JAX_PLATFORMS"] = "cpu"
    if topology.platform == "cpu":
        count = f"--xla_force_host_platform_device_count={topology.shape[0]}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {count}".strip()
        return
    if topology.platform == "gpu":
        if not gpu.is_installed():
            raise TopologyError(gpu.INSTALL)
        return
    if util.find_spec("libtpu") is None:
        raise TopologyError(INSTALL)
    environment.update(_TPU_ENVIRONMENT)


def devices(topology: Topology) -> list[Any]:
    """The JAX devices; those of TPU and GPU topologies exist only for the compiler.

    Raises:
        TopologyError: when the compiler or this machine has no such devices.
    """
    if topology.platform == "gpu":
        return gpu.devices(topology.chip, *topology.shape)
    import jax
    from jax.experimental import topologies

    if topology.platform != "tpu":
        found = jax.devices()
        if topology.shape and len(found) < topology.shape[0]:
            raise TopologyError(
                f"{topology.name} needs {topology.shape[0]} devices, but JAX was started with "
                f"{len(found)}"
            )
        return found[: topology.shape[0]] if topology.shape else found
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device
    if topology.chips // topology.slices == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    try:
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
        )
    except Exception as error:  # libtpu raises several types
        raise TopologyError(f"libtpu has no topology {name}: {error}") from error


def chip_of(topology: Topology, found: list[Any]) -> Chip | None:
    """The chip of the devices; None when `CHIPS` does not list it, as for CPUs."""
    return topology.chip or of_kind(found[0].device_kind)


def local_shape(chip: Chip, found: list[Any]) -> tuple[int, ...]:
    """Chips along each torus axis of the local devices.

    Args:
        chip: what the devices are.
        found: the devices, with `coords` where the chip has links to neighbours.
    """
    if not chip.torus_axes:
        return (len(found) // chip.devices,)
    axes = zip(*(device.coords[: chip.torus_axes] for device in found), strict=True)
    return tuple(max(places) - min(places) + 1 for places in axes)
