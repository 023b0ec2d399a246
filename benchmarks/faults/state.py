"""The arrays of a run's checkpoints, read in a process of its own, as hashes.

python -m benchmarks.faults.state WORKDIR
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.faults.case import ROOT, environment


def state_digests(workdir: Path) -> dict[str, Any]:
    """Hashes of all arrays of the last checkpoint, its step and the state of its data iterator.

    Raises:
        RuntimeError: it cannot be read.
    """
    command = [sys.executable, "-m", "benchmarks.faults.state", str(workdir)]
    env = environment(workdir.parent)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the checkpoint of {workdir} cannot be read:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _read(workdir: Path) -> dict[str, Any]:
    import jax
    import numpy as np

    from mova_jax import config as config_lib
    from mova_jax.parallel.mesh import make_mesh
    from mova_jax.training.checkpoint import Checkpoints, abstract_state
    from mova_jax.training.state import make_train_spec

    config = config_lib.from_json((workdir / "config.json").read_text())
    mesh = make_mesh()
    checkpoints = Checkpoints(workdir, config)
    saved = checkpoints.restore_last(abstract_state(make_train_spec(config, mesh), mesh))
    best = checkpoints.best_step
    checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(saved.state)
    found = {
        f"checkpoint {jax.tree_util.keystr(path)}": hashlib.sha256(
            np.asarray(leaf).tobytes()
        ).hexdigest()
        for path, leaf in leaves
    }
    return found | {"data": saved.data, "best step": best}


if __name__ == "__main__":
    print(json.dumps(_read(Path(sys.argv[1]))))
