"""Checks a machine with a GPU and prints one table: parity, speed, memory, a resume.

    bash launch/gpu_check.sh                     # installs, sets the settings for GPUs, runs it
    python -m benchmarks.gpu_check --dry_run     # tiny models, on the CPU

Each check is a process of its own, so that one that runs out of memory ends alone and the memory it
reports is its own. All that are left when the ten minutes are over are marked as not run.

    parity    loss and gradient of the tiny model on CPU and GPU, float32 at the highest precision
    b32 ...   the step on random data in bfloat16, remat=full: images/s, MFU, the peak of memory in
              use beside what the compiler says of the same program, tuned on this GPU
    plan      `mova_jax.plan` of the step of b32 as it is without a GPU: to compare with that peak
    resume    a run stopped by SIGTERM and started again, compared with one that was not stopped
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mova_jax.utils.progress_bar import bar_of

BUDGET_S = 600.0
GIB = 2**30
TIMED = 10  # steps
TOKENS = 248
# Videos of 8 frames that take about half of a card of 24 and of 80 GB.
STEPS = {"b32": (32, 128), "b16": (16, 64), "l14": (4, 16)}
LARGE_CARD = 40 * GIB
PRECISION = {"dtype": "bfloat16", "remat": "full"}
# Of the run that is stopped: a model of one layer on pictures of 16 pixels.
RUN_FLAGS = {
    "model.vision.image_size": 16,
    "model.vision.patch_size": 8,
    "model.vision.layers": 1,
    "model.text.layers": 1,
    "data.train_videos": 32,
    "data.eval_videos": 8,
    "train.batch_size": 8,
    "train.steps": 200,  # so many that a GPU is not done before the signal
    "train.log_every": 1,
    "train.checkpoint_every": 50,
    "eval.batch_size": 8,
    "eval.splits": ("test",),
}


def parity() -> dict[str, Any]:
    """Loss and gradient norm of the same first step on the CPU and on the first accelerator."""
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    found = [_first_step([device]) for device in (jax.devices("cpu")[0], jax.devices()[0])]
    worst = max(abs(found[0][name] / found[1][name] - 1) for name in found[0])
    return {
        "result": "ok" if worst < 1e-4 else "DIFFERS",
        "figures": f"loss and gradient norm: relative difference at most {worst:.1e}",
    }


def _first_step(devices: list[Any]) -> dict[str, float]:
    from benchmarks.train_step import random_batch
    from configs.base import get_config
    from mova_jax.config import from_config_dict
    from mova_jax.parallel import mesh as mesh_lib
    from mova_jax.parallel import sharding
    from mova_jax.training.state import make_train_spec
    from mova_jax.training.step import make_train_step

    made = get_config("model=tiny,batch=4")
    made.model.text.vocab_size = 1024
    config = from_config_dict(made)
    mesh = mesh_lib.make_mesh(devices=devices)
    spec = make_train_spec(config, mesh)
    batch = sharding.put_batch(mesh, random_batch(config, 48))
    _, metrics = make_train_step(spec, mesh)(spec.initial(), batch)
    return {name: float(metrics[name]) for name in ("loss", "grad_norm")}


def step(model: str, dry_run: bool) -> dict[str, Any]:
    """Times the train step of a model of 8 frames a video on the first device."""
    import jax
    import numpy as np

    from benchmarks.train_step import random_batch
    from configs.base import get_config
    from mova_jax.config import from_config_dict
    from mova_jax.cost import chips
    from mova_jax.cost.flops import model_flops
    from mova_jax.parallel import mesh as mesh_lib
    from mova_jax.parallel import sharding
    from mova_jax.planning import compile as compile_lib
    from mova_jax.training.state import make_train_spec

    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    videos, tokens = (2, 48) if dry_run else (STEPS[model][limit > LARGE_CARD], TOKENS)
    made = get_config(f"{_model(model, dry_run)},batch={videos}")
    made.model.text.vocab_size = 49408
    made.model.update(PRECISION)
    config = from_config_dict(made)

    planned = compile_lib.trace(config, [device], tokens)
    start = time.perf_counter()
    compiled = planned.traced.lower().compile()
    compile_s = time.perf_counter() - start
    memory = compiled.memory_analysis()
    plan = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    plan += memory.output_size_in_bytes - memory.alias_size_in_bytes

    mesh = mesh_lib.make_mesh(devices=[device])
    state = make_train_spec(config, mesh).initial()
    batch = sharding.put_batch(mesh, random_batch(config, tokens, planned.parts))
    times = []
    for _ in range(2 if dry_run else TIMED + 2):
        start = time.perf_counter()
        state, _ = compiled(state, batch)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[-TIMED:] if dry_run else times[2:]))

    chip = chips.of_kind(device.device_kind)
    needed = model_flops(config, tokens, planned.frozen, parts=planned.parts)
    flops = sum(part.total for part in needed.values())
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    mfu = f"{flops / seconds / chip.peak_flops:.1%}" if chip else "chip not in cost/chips.py"
    used = f"{peak / GIB:.2f}" if peak else "unknown"
    return {
        "result": "ok",
        "figures": f"batch {videos} x 8 frames, {tokens} tokens: {seconds * 1e3:.1f} ms a step, "
        f"{videos * 8 / seconds:,.0f} images/s, MFU {mfu}, peak {used} GiB, plan "
        f"{plan / GIB:.2f} GiB, compiled in {compile_s:.0f} s",
    }


def plan(dry_run: bool) -> dict[str, Any]:
    """Plans the step of B/32 as on a machine without the GPU."""
    from mova_jax.cost import chips

    chip = None if dry_run else chips.of_kind(_nvidia_smi("name")[0])
    if not (chip or dry_run):
        return {"result": "ok", "figures": "chip not in cost/chips.py"}
    videos = 2 if dry_run else STEPS["b32"][chip.hbm_usable > LARGE_CARD]
    tokens = 48 if dry_run else TOKENS
    command = [sys.executable, "-m", "mova_jax.plan", "--json", "--cache=", f"--tokens={tokens}"]
    command += [f"--config=configs/base.py:{_model('b32', dry_run)},batch={videos}"]
    command += [f"--topology={chip.name if chip else 'cpu'}:1"]
    command += [f"--config.model.{key}={value}" for key, value in PRECISION.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    made = json.loads(done.stdout)
    figures = f"{made['topology']}: {made['memory']['total'] / GIB:.2f} GiB"
    if "roofline" in made:
        figures += f", at least {made['roofline']['step_seconds'] * 1e3:.1f} ms a step"
    return {"result": "ok", "figures": figures}


def _model(name: str, dry_run: bool) -> str:
    return f"model={'tiny' if dry_run else name},frames=8"


def _nvidia_smi(fields: str) -> list[str]:
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.check_output(query, text=True).splitlines()


def resume() -> dict[str, Any]:
    """Stops a run by SIGTERM, starts it again, and compares its end with a run left alone."""
    from mova_jax.utils.metric_log import METRICS_FILE, read_metrics

    def last(workdir: Path) -> float:
        rows = [row for row in read_metrics(workdir / METRICS_FILE) if "train/loss" in row]
        return rows[-1]["train/loss"]

    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder) / "whole", Path(folder) / "stopped"
        _run(whole).wait()
        process = _run(stopped)
        log = stopped / METRICS_FILE
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        codes = [process.wait(), _run(stopped).wait()]
        first, second = last(whole), last(stopped)
    same = "the same loss, bit for bit" if first == second else f"loss {first} and {second}"
    ok = codes == [143, 0] and abs(first / second - 1) < 1e-3
    return {"result": "ok" if ok else "FAILED", "figures": f"exit codes {codes}; {same}"}


def _run(workdir: Path) -> subprocess.Popen:
    keys = [f"--config.{key}={value}" for key, value in RUN_FLAGS.items()]
    base = [sys.executable, "-m", "mova_jax.main", "--config=configs/base.py"]
    return subprocess.Popen(
        [*base, f"--workdir={workdir}", *keys], stdout=sys.stderr, stderr=sys.stderr
    )


CHECKS = ("parity", "b32", "plan", "b16", "l14", "resume")


def check(name: str, dry_run: bool) -> dict[str, Any]:
    """Runs one check in this process."""
    if name in STEPS:
        return step(name, dry_run)
    return plan(dry_run) if name == "plan" else {"parity": parity, "resume": resume}[name]()


def check_apart(name: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Runs one check in a process of its own, for at most so many seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--only", name]
    command += ["--dry_run"] * dry_run
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if dry_run else {})
    if name == "parity" and not dry_run:
        environment["JAX_PLATFORMS"] = "cuda,cpu"
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return {"result": "NOT FINISHED", "figures": f"after {seconds:.0f} s"}
        lines = done.stdout.decode().splitlines()
        if done.returncode == 0 and lines:
            return json.loads(lines[-1])
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()] or ["nothing said"]
    return {"result": "FAILED", "figures": f"exit code {done.returncode}: {said[-1][:200]}"}


def table(made: dict[str, dict[str, Any]], about: list[str]) -> str:
    """The Markdown to paste: what the machine is, then a line a check."""
    lines = [*about, "", "| check | result | figures |", "|---|---|---|"]
    for name, found in made.items():
        figures = found["figures"].replace("|", "/")
        lines.append(f"| {name} | {found['result']} | {figures} |")
    return "\n".join(lines)


def machine(dry_run: bool) -> list[str]:
    """The GPU, its driver, and the versions of the packages."""
    from mova_jax.planning.compile import versions

    gpus = "DRY RUN on a CPU: no figure here is one of a GPU"
    if not dry_run:
        gpus = "; ".join(_nvidia_smi("name,driver_version,memory.total"))
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return [gpus, f"Python {platform.python_version()}, {packages}"]


def main() -> int:
    """Runs the checks and prints the table; 1 when one of them is not ok."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry_run", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", choices=CHECKS, help="one check, in this process, as JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(check(args.only, args.dry_run)))
        return 0
    began, made = time.monotonic(), {}
    about = machine(args.dry_run)
    for name in bar_of("checks", len(CHECKS), CHECKS, unit="check"):
        left = BUDGET_S - (time.monotonic() - began)
        if left > 0:
            made[name] = check_apart(name, args.dry_run, left)
        else:
            made[name] = {"result": "NOT RUN", "figures": "the ten minutes are over"}
    print(table(made, about))
    return 0 if all(found["result"] == "ok" for found in made.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
