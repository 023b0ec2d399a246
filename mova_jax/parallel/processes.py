"""Several processes that train together: who speaks, and how they come to the same decision.

A run of one process is the case of one voter. Every process takes every step, so a decision that
one of them makes alone (to stop, to skip a split) would leave the others waiting for it for ever.
"""

import re

import jax
from jax.experimental import multihost_utils

from mova_jax.parallel import mesh as mesh_lib

LOST = 75  # exit code when another process of the run is gone (EX_TEMPFAIL): start again


def is_main() -> bool:
    """Whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def log_main(*lines: str) -> None:
    """Prints in the main process only."""
    if is_main():
        print(*lines, sep="\n", flush=True)


def barrier(name: str) -> None:
    """Returns when every process of the run is here; `name` is told when one does not come."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class AnyProcessFlag:
    """A flag that any process may raise, and on which all act at the same step."""

    def __init__(self, mesh: jax.sharding.Mesh):
        """Asks the processes of this mesh."""
        self._mesh = mesh
        self._asked: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Whether any process had its flag up; with several, at the call before this one.

        All processes call it equally often. The answer of the last call is on its way while the
        devices work, so that asking costs no waiting.
        """
        if jax.process_count() == 1:
            return flag
        before, self._asked = self._asked, mesh_lib.any_process(self._mesh, flag)
        return before is not None and bool(before)


# How errors of collectives, of meetings and of JAX's own watch read when a process is gone.
_SIGNS = re.compile("gloo|unavailable|deadline_exceeded|aborted|barrier|heartbeat|unhealthy", re.I)


def lost_process(error: BaseException) -> str:
    """What to say of an error that another process's end caused, '' for any other error."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return ""
    text = str(error)
    if not _SIGNS.search(text):
        return ""
    return (
        f"another process of the run ended or cannot be reached ({text.splitlines()[0][:200]}). "
        "See the output of the others for the cause, and start all of them again: the run goes on "
        "from its last checkpoint."
    )
