"""What the cases work on, made once by the commands themselves: videos, shards, a run, an index."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

from benchmarks.faults.case import ROOT, CommandResult, environment, run
from benchmarks.faults.fork_server import ForkServer
from mova_jax.utils import atomic

VIDEOS = 24
WORDS = ("cat", "dog", "train", "boat", "bird", "car", "horse", "child")
# The smallest run that has every part: steps, validation, checkpoints, test, report.
CONFIG = {
    "model.vision.image_size": 16,
    "model.vision.patch_size": 8,
    "model.vision.width": 16,
    "model.vision.layers": 1,
    "model.vision.heads": 2,
    "model.text.width": 16,
    "model.text.layers": 1,
    "model.text.heads": 2,
    "model.text.context": 32,
    "model.text.vocab_size": 0,
    "model.embed_dim": 8,
    "model.frame_positions": 8,
    "data.frames": 4,
    "data.parts": 2,
    "data.token_buckets": "(32,)",
    "eval.frames": 4,
    "eval.batch_size": 8,
    "eval.splits": "('test',)",
    "train.batch_size": 8,
    "train.image_share": 0.0,
    "train.log_every": 1,
    "train.checkpoint_every": 3,
    "train.eval_every": 12,
    "train.steps": 48,
    "optim.warmup_steps": 2,
}


@dataclasses.dataclass(frozen=True)
class Materials:
    """Folders that the cases read and never change, and how commands are started."""

    folder: Path
    env: Mapping[str, str]
    server: ForkServer

    @property
    def videos(self) -> Path:
        """Short videos and `captions.jsonl`."""
        return self.folder / "videos"

    @property
    def shards(self) -> Path:
        """Made of them by `prepare`."""
        return self.folder / "shards"

    @property
    def run(self) -> Path:
        """The workdir of a finished run on these shards."""
        return self.folder / "run"

    @property
    def index(self) -> Path:
        """Of the videos, by the model of the run."""
        return self.folder / "index"

    @property
    def export(self) -> Path:
        """Exports of the run: `pytorch` and `huggingface`."""
        return self.folder / "export"

    def call(self, name: str, argv: list, **options) -> CommandResult:
        """Runs a command of the package; its output is kept in `logs/NAME.log`."""
        log = self.folder / "logs" / f"{name}.log"
        if options:  # such as a variable that JAX reads when it is imported
            return run(argv, dict(self.env) | options.pop("env", {}), log, **options)
        return run(argv, self.env, log, server=self.server)


def train(workdir: Path | str, shards: Path | str, **changes) -> list[str]:
    """The command that trains; `changes` are keys with `__` for dots."""
    keys = CONFIG | {name.replace("__", "."): value for name, value in changes.items()}
    flags = [f"--config.{name}={value}" for name, value in keys.items()]
    config = f"--config=configs/base.py:data={shards}"
    return ["mova_jax.main", config, f"--workdir={workdir}", *flags]


def prepare(input: Path | str, output: Path | str, *more: str) -> list[str]:
    """The command that makes shards."""
    argv = ["mova_jax.prepare", "--input", input, "--output", output, "--short_side", "16"]
    return [*map(str, argv), "--fps", "4", "--vocab_size", "600", "--workers", "2", *more]


def make(folder: Path) -> Materials:
    """The materials in a folder; what is there is not made again.

    Raises:
        RuntimeError: a command of the package did not succeed on good input.
    """
    env = environment(folder)
    made = Materials(folder, env, ForkServer(env, ROOT))
    write_videos(made.videos)
    index = ["mova_jax.embed", "--model", made.run, "--videos", made.videos, "--index", made.index]
    formats = ["--to", "pytorch", "huggingface"]
    steps = {
        "shards": prepare(made.videos / "captions.jsonl", made.shards),
        "run": train(made.run, made.shards),
        "export": ["mova_jax.convert", "export", made.run, made.export, *formats],
        "index": index,
    }
    for name, argv in steps.items():
        done = folder / "done" / name
        if not done.exists():
            outcome = made.call(f"materials-{name}", argv)
            if outcome.code:
                raise RuntimeError(f"{name} could not be made:\n{outcome.output[-3000:]}")
            atomic.write_text(done, "")
    return made


def write_videos(folder: Path, count: int = VIDEOS) -> None:
    """Writes videos of two seconds, each of its own colours, and `captions.jsonl`."""
    if (folder / "captions.jsonl").exists():
        return
    lines = []
    for number in range(count):
        name, words = f"{number:02d}.mp4", (WORDS[number % 8], WORDS[number // 3 % 8])
        write_video(folder / name, number)
        text = f"A {words[0]} sits on a {words[1]}. It leaves at {number}."
        split = ("train", "train", "validation", "test")[number % 4] if number >= 8 else "train"
        lines.append(json.dumps({"video": name, "caption": text, "split": split}))
    atomic.write_text(folder / "captions.jsonl", "\n".join(lines) + "\n")


def write_video(path: Path, number: int, frames: int = 16, rate: int = 8) -> None:
    """Writes a small video, the same bytes for the same number."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            image = np.kron(rng.integers(0, 256, (2, 2, 3), np.uint8), np.ones((16, 16, 1), "u1"))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def without_paths(text: str, folder: Path) -> str:
    """A message with the folder of the case left out, so that tables do not depend on it."""
    text = text.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    return re.sub(r"\s+", " ", text.replace(str(folder), "."))
