"""Several processes that train together: who speaks, and how they come to the same decision.

A run of one process is the case of one voter. Every process takes every step, so a decision that
one of them makes alone (to stop, to skip a split) would leave the others waiting for it for ever.
"""

import jax
from jax.experimental import multihost_utils

LOST = 75  # exit code when another process of the run is gone (EX_TEMPFAIL): start again


def is_main() -> bool:
    """Whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def say(*lines: str) -> None:
    """Prints in the main process only."""
    if is_main():
        print(*lines, sep="\n", flush=True)


def meet(name: str) -> None:
    """Returns when every process of the run is here; `name` is told when one does not come."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def lost_process(error: BaseException) -> str:
    """What to say of an error that another process's end caused, '' for any other error."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return ""
    text = str(error)
    if not any(sign in text for sign in ("Gloo", "gloo", "UNAVAILABLE", "heartbeat", "ABORTED")):
        return ""
    return (
        f"another process of the run ended or cannot be reached ({text.splitlines()[0][:200]}). "
        "See the output of the others for the cause, and start all of them again: the run goes on "
        "from its last checkpoint."
    )
