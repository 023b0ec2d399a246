"""What a run reads from the environment, and `config.json` does not know.

WORKDIR/environment.json    the variables that change figures, as they were when the run started

Some variables of JAX and XLA change the last bits of figures, or random numbers: a run keeps and
says them, and says when a restart has others. A few would make another program of it, or forbid
what it does: they are refused.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mova_jax.utils import atomic

FILE = "environment.json"

FIGURES = (
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_RANDOM_SEED_OFFSET",
    "JAX_SOFTMAX_CUSTOM_JVP",
    "JAX_THREEFRY_PARTITIONABLE",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)
_OFF = ("", "0", "false", "off", "no", "n", "f")
_REFUSED = {  # and the values that change nothing
    "JAX_DISABLE_JIT": _OFF,
    "JAX_ENABLE_X64": _OFF,
    "JAX_NO_EXECUTION": _OFF,
    "JAX_NO_TRACING": _OFF,
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
    "JAX_NUMPY_RANK_PROMOTION": ("allow", "warn"),
    "JAX_TRANSFER_GUARD": ("allow", "log"),
}


def refused(environment: Mapping[str, str] = os.environ) -> str:
    """The message for variables under which a run is another program; '' without any."""
    found = {
        name: environment[name]
        for name, harmless in _REFUSED.items()
        if name in environment and environment[name].lower() not in harmless
    }
    if not found:
        return ""
    there = ", ".join(f"{name}={value}" for name, value in found.items())
    return (
        f"the environment has {there}, which would make another program of the run, or forbid what "
        f"it does: unset {' '.join(found)}"
    )


def record(workdir: str | os.PathLike, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Keeps the variables that change figures, or compares them with those of the run's start.

    Args:
        workdir: of the run; written to when it has no record.
        environment: of this process, the main one.

    Returns:
        Lines to print: the variables of a new run, the differences of a restart.

    Raises:
        ValueError: the record is damaged.
    """
    path, now = Path(workdir) / FILE, {n: environment[n] for n in FIGURES if n in environment}
    if not path.exists():
        atomic.write_text(path, json.dumps(now, indent=2) + "\n")
        return [f"{name}={value} may change figures; kept in {path}" for name, value in now.items()]
    try:
        then = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and the variables of this start are kept"
        ) from error
    return [
        f"{name} was {then.get(name, 'not set')!r} when the run started and is "
        f"{now.get(name, 'not set')!r} now: its figures are no longer those of one run"
        for name in FIGURES
        if then.get(name) != now.get(name)
    ]
