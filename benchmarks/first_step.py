r"""Seconds from the start of a run to its first step, without and with JAX's compilation cache.

    python -m benchmarks.first_step
    python -m benchmarks.first_step --config=configs/base.py:model=b32,batch=2,frames=2 \
        --config.data.train_videos=64 --config.data.eval_videos=8

Each round starts `python -m mova_jax.main` twice, in two workdirs and with one cache
(JAX_COMPILATION_CACHE_DIR) that is empty at first, and kills the run when the metrics of step 1 are
written. The data are made before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mova_jax.config import ConfigFlags
from mova_jax.training.datasets import open_data
from mova_jax.utils.metric_log import METRICS_FILE


def seconds_to_first_step(workdir: Path, programs: Path, flags: list[str]) -> float:
    """Starts a run and kills it after its first step.

    Raises:
        RuntimeError: the run ended before its first step.
    """
    command = [sys.executable, "-m", "mova_jax.main", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    metrics, start = workdir / METRICS_FILE, time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *flags], env=environment, **quiet) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(process.stderr.read().decode()[-500:])
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default="configs/base.py")
    args, others = parser.parse_known_args()
    flags = [f"--config={args.config}", *others]
    open_data(ConfigFlags.take(flags)[0].load())
    found = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            programs = Path(folder, "programs")
            found.append([seconds_to_first_step(w, programs, flags) for w in (first, second)])
    cold, warm = np.array(found).T
    print(f"{' '.join(flags)}, {args.rounds} rounds, {os.cpu_count()} cores")
    for name, values in (("empty cache", cold), ("with the cache", warm), ("ratio", cold / warm)):
        print(f"{name:16}{np.median(values):7.1f}  ({values.min():.1f} to {values.max():.1f})")


if __name__ == "__main__":
    main()
