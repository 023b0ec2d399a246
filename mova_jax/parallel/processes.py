"""Multi-process helpers: start, main-process logging, barriers, agreement on stop flags.

Every process takes every step, so a decision that one of them took alone (to stop, to skip a split)
would leave the others hanging. A run of one process needs no special case.
"""

import functools
import re

import jax
import numpy as np
from jax.experimental import multihost_utils

from mova_jax.parallel.mesh import MeshError, all_devices
from mova_jax.parallel.sharding import device_sharding, replicated

LOST = 75  # exit code when another process of the run is gone (EX_TEMPFAIL): start again
_HEARTBEAT_TIMEOUT_S = 30  # a process that is silent for so long counts as lost


def start_processes(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins this process to the others of its run; call it before any other use of JAX.

    On Cloud TPU, GKE and Slurm JAX finds the others by itself, and a process that is alone stays
    alone. Elsewhere the three arguments say where they are.

    Args:
        coordinator: `host:port` of process 0, the same for all; '' looks for a cluster.
        processes: number of processes.
        process: index of this one, from 0.

    Raises:
        MeshError: when only some of the three are given, they contradict each other, or JAX has no
            devices.
    """
    given = bool(coordinator), processes > 0, process >= 0
    if any(given) and not (all(given) and process < processes):
        raise MeshError(
            f"got coordinator={coordinator!r}, processes={processes}, process={process}; expected "
            "host:port, a number of processes and this one's number below it, or none of the three"
        )
    # JAX's own service would catch SIGTERM and only record it; the loop has a flag of its own.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = {"heartbeat_timeout_seconds": _HEARTBEAT_TIMEOUT_S}
    if coordinator:
        jax.distributed.initialize(coordinator, processes, process, **timeout)
    else:
        try:
            jax.distributed.initialize(**timeout)
        except ValueError as error:
            if "coordinator_address" not in str(error):  # JAX's error outside a cluster
                raise
    all_devices()  # a platform that is not there is said before anything is made


def is_main() -> bool:
    """Whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def log_main(*lines: str) -> None:
    """Prints in the main process only."""
    if is_main():
        print(*lines, sep="\n", flush=True)


def barrier(name: str) -> None:
    """Returns when every process of the run has called it; an error of a missing one has `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class AnyProcessFlag:
    """A flag that any process may raise, and on which all act at the same step."""

    def __init__(self, mesh: jax.sharding.Mesh):
        """A flag of the processes of this mesh."""
        self._mesh = mesh
        self._pending: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Whether any process passed True; with several processes, to the previous call.

        All processes must call it equally often. The reduction is queued behind the running step
        and read at the next call, so that the host does not wait for it.
        """
        if jax.process_count() == 1:
            return flag
        before, self._pending = self._pending, _any_process(self._mesh, flag)
        return before is not None and bool(before)


def _any_process(mesh: jax.sharding.Mesh, flag: bool) -> jax.Array:
    rows = np.full(len(mesh.local_devices), flag)
    flags = jax.make_array_from_process_local_data(device_sharding(mesh), rows)
    return _any(mesh)(flags)


@functools.cache
def _any(mesh: jax.sharding.Mesh):
    return jax.jit(lambda flags: flags.any(), out_shardings=replicated(mesh))


# Words in the errors of collectives, barriers and heartbeats when a process is gone.
_SIGNS = re.compile("gloo|unavailable|deadline_exceeded|aborted|barrier|heartbeat|unhealthy", re.I)


def lost_process(error: BaseException) -> str:
    """The message for an error that the end of another process caused; '' for other errors."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return ""
    text = str(error)
    if not _SIGNS.search(text):
        return ""
    return (
        f"another process of the run ended or cannot be reached ({text.splitlines()[0][:200]}). "
        "See the output of the others for the cause, and start all of them again: they go on from "
        "what was saved."
    )
