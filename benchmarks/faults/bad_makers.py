"""Makes bad input: each function returns one that writes files and gives the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.materials import Materials, prepare, train

WRONG, USAGE, SKIPPED = 1, 2, 3
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
LINE = {"video": "00.mp4", "caption": "A cat."}


class Bad(NamedTuple):
    """Something wrong: `make(materials, folder)` returns the command line, after making files."""

    given: str
    make: Callable[[Materials, Path], list]
    says: str  # what the message must have, a regular expression
    codes: tuple[int, ...] = (WRONG,)
    env: dict[str, str] = {}  # noqa: RUF012


def training(**changes) -> Callable:
    """Training with keys that are changed, `data` among them."""
    data = changes.pop("data", None)
    return lambda m, f: train(f / "run", data or m.shards, **changes)


def training_flags(*flags: str) -> Callable:
    """Training with further flags."""
    return lambda m, f: [*train(f / "run", m.shards), *flags]


def config_file(text: str) -> Callable:
    """Training by a config file with this text."""

    def make(m: Materials, folder: Path) -> list:
        (folder / "own.py").write_text(text)
        return ["mova_jax.main", f"--config={folder / 'own.py'}", f"--workdir={folder / 'run'}"]

    return make


def shards(change: Callable[[Path], Any], **changes) -> Callable:
    """Training on a copy of the shards that was changed."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.shards, folder / "shards")
        change(folder / "shards")
        return train(folder / "run", folder / "shards", **changes)

    return make


def workdir(change: Callable[[Path], Any], **changes) -> Callable:
    """Training on in a copy of the finished run that was changed."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.run, folder / "run")
        change(folder / "run")
        return train(folder / "run", m.shards, **changes)

    return make


def initial_weights(name: str, data: str | bytes) -> Callable:
    """Training from a CLIP whose file of weights is replaced by one of this name."""

    def make(m: Materials, folder: Path) -> list:
        argv = train(folder / "run", m.shards)
        argv[1] += f",init={_clip(m, folder, name, data)}"
        return argv

    return make


def imported_weights(name: str, data: str | bytes) -> Callable:
    """`convert import` of such a CLIP."""

    def make(m: Materials, folder: Path) -> list:
        clip = _clip(m, folder, name, data)
        return ["mova_jax.convert", "import", clip, folder / "out"]

    return make


def _clip(m: Materials, folder: Path, name: str, data: str | bytes) -> Path:
    shutil.copytree(m.export / "huggingface", folder / "clip")
    (folder / "clip" / "model.safetensors").unlink()
    if name:
        write(folder / "clip" / name, data)
    return folder / "clip"


def write(path: Path, data: str | bytes) -> Path:
    """Writes a file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def jsonl(*lines: dict | str | bytes, more: tuple[str, ...] = (), videos: bool = True) -> Callable:
    """`prepare` with these lines, beside the videos."""

    def make(m: Materials, folder: Path) -> list:
        if videos:
            shutil.copytree(m.videos, folder / "videos")
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        data = b"".join((t if isinstance(t, bytes) else t.encode()) + b"\n" for t in texts)
        return prepare(write(folder / "videos" / "own.jsonl", data), folder / "out", *more)

    return make


def video(data: bytes) -> Callable:
    """`prepare` with a good video and one that has these bytes."""

    def make(m: Materials, folder: Path) -> list:
        argv = jsonl(LINE, {"video": "bad.mp4", "caption": "A dog."})(m, folder)
        write(folder / "videos" / "bad.mp4", data)
        return argv

    return make


def evaluate(*flags: str, file: str = "", data: str | bytes = b"") -> Callable:
    """`evaluate` with flags that may name {folder}, {run}, {shards} and {export}."""

    def make(m: Materials, folder: Path) -> list:
        if file:
            write(folder / file, data)
        names = {"run": m.run, "shards": m.shards, "export": m.export, "folder": folder}
        given = [flag.format(**names) for flag in flags]
        return ["mova_jax.evaluate", "--output", folder / "out", *given]

    return make


def command(module: str, *flags: str, change: Callable[[Path], Any] | None = None) -> Callable:
    """Any other command; `change` may break the copy of the index in {index}."""

    def make(m: Materials, folder: Path) -> list:
        names = {"run": m.run, "export": m.export, "videos": m.videos, "folder": folder}
        if any("{index}" in flag for flag in flags):
            shutil.copytree(m.index, folder / "index")
        if change:
            change(folder)
        return [f"mova_jax.{module}", *(f.format(**names, index=folder / "index") for f in flags)]

    return make


def cut(pattern: str, share: float = 0.5) -> Callable[[Path], Any]:
    """Cuts the first file of a pattern short."""

    def change(folder: Path) -> None:
        path = sorted(folder.rglob(pattern))[0]
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return change


def garbage(pattern: str, data: bytes = b"{]\0 no JSON") -> Callable[[Path], Any]:
    """Overwrites the first file of a pattern."""
    return lambda folder: sorted(folder.rglob(pattern))[0].write_bytes(data)


def delete(pattern: str) -> Callable[[Path], Any]:
    """Deletes the first file of a pattern."""
    return lambda folder: sorted(folder.rglob(pattern))[0].unlink()
