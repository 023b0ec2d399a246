r"""Seconds of the commands: to the first step of a run, of `prepare` a clip, `evaluate` a pair.

    python -m benchmarks.commands [--rounds 3] [--clips 8 72]

Every figure is of fresh processes, from the shell's point of view. `prepare` and `evaluate` run at
two sizes; the line through both gives what a call costs by itself and what one more clip, or one
more pair of a video and its caption, adds. Clips are 10 s of drawn MPEG-4 at 320 x 240 and 25
frames a second, with three timed sentences each; the model is the base recipe's. JAX's compilation
cache is empty for the first of two runs and warm for the second, as in `benchmarks.first_step`;
`evaluate` is called once before it is measured, so that its cache is warm.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from benchmarks.first_step import seconds_to_first_step

SECONDS, RATE, HEIGHT, WIDTH = 10, 25, 240, 320
WORDS = ("a red square moves", "it grows", "it turns blue and leaves")


def write_clip(path: Path, seed: int) -> None:
    """A video of noise that drifts, in MPEG-4."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = np.kron(picture, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, axis=1))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_source(folder: Path, clips: int) -> Path:
    """A folder of clips with their `captions.jsonl`; four are for training, the others the test."""
    folder.mkdir()
    lines = []
    for number in range(clips + 4):
        write_clip(folder / f"{number}.mp4", number)
        captions = [
            {"text": f"{words} {number}", "start": 3 * i, "end": 3 * i + 3}
            for i, words in enumerate(WORDS)
        ]
        split = "train" if number < 4 else "test"
        lines.append({"video": f"{number}.mp4", "captions": captions, "split": split})
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def seconds_of(cache: Path, module: str, *arguments: str) -> float:
    """Wall seconds of `python -m mova_jax.MODULE` in a process of its own.

    Raises:
        RuntimeError: with the end of what it said, when it fails.
    """
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    command = [sys.executable, "-m", f"mova_jax.{module}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start


def measure(folder: Path, sizes: tuple[int, int]) -> dict[str, float]:
    """One round: seconds by what they are of."""
    prepared, asked, cache = {}, {}, folder / "programs"
    for size in sizes:
        source = write_source(folder / f"clips{size}", size)
        output = str(folder / f"shards{size}")
        prepared[size] = seconds_of(cache, "prepare", "--input", str(source), "--output", output)
    flags = [f"--config=configs/base.py:data={folder / f'shards{sizes[0]}'},batch=4"]
    runs = [seconds_to_first_step(folder / name, cache, flags) for name in ("cold", "warm")]
    run = folder / "run"
    short = ("--config.train.steps=2", "--config.optim.warmup_steps=1")
    seconds_of(cache, "main", f"--workdir={run}", *flags, *short)
    for size in (sizes[0], *sizes):
        data, output = f"{folder / f'shards{size}'}:test", str(folder / f"out{time.time_ns()}")
        arguments = ("--model", str(run), "--data", data, "--output", output)
        asked[size] = seconds_of(cache, "evaluate", *arguments)
    found = {"first step, empty cache": runs[0], "first step, warm cache": runs[1]}
    for name, times, what in (("prepare", prepared, "clip"), ("evaluate", asked, "pair")):
        each = (times[sizes[1]] - times[sizes[0]]) / (sizes[1] - sizes[0])
        found[f"`{name}`, a call by itself"] = times[sizes[0]] - sizes[0] * each
        found[f"`{name}`, a {what} more"] = each
    return found


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, nargs=2, default=(8, 72), help="two sizes of a test")
    args = parser.parse_args()
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder), tuple(args.clips)))
    print(
        f"{args.rounds} rounds, {os.cpu_count()} cores, {args.clips[0]} and {args.clips[1]} clips"
    )
    print("\n| what | seconds (range over rounds) |\n|---|---|")
    for name in rounds[0]:
        values = np.array([made[name] for made in rounds])
        print(f"| {name} | {np.median(values):.3g} ({values.min():.3g} to {values.max():.3g}) |")


if __name__ == "__main__":
    main()
