"""The commands that are disturbed, what each leaves when it ends, and how two ends compare."""

import functools
import hashlib
import io
import json
import shutil
import socket
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.materials import Materials, prepare, train
from benchmarks.faults.state import state_digests
from mova_jax.utils import atomic


class Command(NamedTuple):
    """A command that is killed: how it starts, and what it leaves when it ends."""

    start: Callable[[Path], list[list]]  # the command line of each process, for a folder
    result: Callable[[Path], Mapping[str, Any]]  # unit -> content, in a finished folder
    finished: str = ""  # what it says, with exit code 1, where it was killed after its last write


def commands(m: Materials) -> dict[str, Command]:
    """The commands that are killed, by name."""
    index = ["mova_jax.embed", "--model", m.run, "--videos", m.videos, "--index"]
    formats = ["--to", "pytorch", "huggingface"]
    return {
        "train": Command(lambda f: [train(f, m.shards)], _run_left),
        "train, two processes": Command(functools.partial(_two, m), _run_left),
        "prepare": Command(
            lambda f: [prepare(m.videos / "captions.jsonl", f)], files_left, "has shards already"
        ),
        "embed": Command(lambda f: [[*index, f]], _index_left),
        "evaluate": Command(
            lambda f: [["mova_jax.evaluate", "--model", m.run, "--output", f]], _evaluation_left
        ),
        "convert export": Command(
            lambda f: [
                ["mova_jax.convert", "export", m.run, f, *formats]
                if not (f / "pytorch").exists()
                else ["mova_jax.convert", "export", m.run, f, "--to", "huggingface"]
            ],
            files_left,
            "huggingface is not empty",
        ),
    }


def _two(m: Materials, folder: Path) -> list[list]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--processes=2"]
    return [[*train(folder, m.shards), *together, f"--process={i}"] for i in range(2)]


def _run_left(folder: Path) -> dict[str, Any]:
    """Each line of the metric log, the arrays of the checkpoints, and the ranks."""
    found: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kind = next((key for key in row if "/" in key and not key.startswith("time/")), "")
        name = f"step {row['step']} {kind}"
        while name in found:
            name += " again"
        found[name] = {k: v for k, v in row.items() if not k.startswith("time/")}
    found |= state_digests(folder)
    found |= {f"ranks/{name}": text for name, text in files_left(folder / "ranks").items()}
    found["report"] = (folder / "report.html").exists()
    return found


def _evaluation_left(folder: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {f"line {i}": _timeless(row) for i, row in enumerate(rows)}
    found |= {f"ranks/{name}": text for name, text in files_left(folder / "ranks").items()}
    figures = json.loads((folder / "evaluation.json").read_text())["figures"]
    return found | {f"figures {split}": _timeless(row) for split, row in figures.items()}


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("time/")}


def _index_left(folder: Path) -> dict[str, Any]:
    """Of each video its entry without the date, and the bytes of its vectors and times."""
    found: dict[str, Any] = {"index": json.loads((folder / "index.json").read_text())}
    for video in sorted((folder / "videos").glob("[!.]*")):
        entry = json.loads((video / "entry.json").read_text()) | {"added": ""}
        found[video.name] = [entry, _digest(video / "vectors.npy"), _digest(video / "times.npy")]
    return found


def files_left(folder: Path) -> dict[str, str]:
    """Every file and its hash; names that begin with a dot are not results."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reference(m: Materials, name: str) -> tuple[Mapping[str, Any], float]:
    """What a command leaves when nothing disturbs it, and its seconds; kept.

    Raises:
        RuntimeError: it did not succeed.
    """
    kept, command = m.folder / "references" / f"{name}.json", commands(m)[name]
    if not kept.exists():
        work = m.folder / "references" / name
        for _ in range(2):  # the first one may compile what the next one finds
            shutil.rmtree(work, ignore_errors=True)
            work.parent.mkdir(parents=True, exist_ok=True)
            begin = time.monotonic()
            log = m.folder / "logs" / f"{name}.log"
            processes = [m.server.start(argv, m.env, log) for argv in command.start(work)]
            if any(process.wait() for process in processes):
                raise RuntimeError(f"{name} failed undisturbed:\n{log.read_text()[-2000:]}")
            seconds = time.monotonic() - begin
        atomic.write_text(kept, json.dumps([command.result(work), seconds]))
    return json.loads(kept.read_text())


class Differences(NamedTuple):
    """Units (steps, records, arrays ...) in which an end differs from an undisturbed one."""

    lost: list[str]
    doubled: list[str]  # there twice, or too many
    differing: list[str]

    def __str__(self) -> str:
        named = {name: units for name, units in self._asdict().items() if units}
        return "; ".join(f"{name}: {', '.join(units[:3])}" for name, units in named.items())


def compared(whole: Mapping[str, Any], found: Mapping[str, Any]) -> Differences:
    """Compares what a command left with what it leaves undisturbed."""
    found = json.loads(json.dumps(found))
    return Differences(
        [unit for unit in whole if unit not in found],
        [unit for unit in found if unit not in whole],
        [unit for unit in whole if unit in found and whole[unit] != found[unit]],
    )


def _is_aside(path: Path) -> bool:
    return any(part.startswith(".") or "orbax-checkpoint-tmp" in part for part in path.parts)


def half_files(folder: Path) -> list[str]:
    """Files with their final names that are not whole."""
    checks = {".json": json.loads, ".html": _html, ".npz": _zip, ".safetensors": _safetensors}
    half = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix not in checks or not path.is_file() or _is_aside(inside):
            continue
        try:
            checks[path.suffix](path.read_bytes())
        except (ValueError, zipfile.BadZipFile):
            half.append(str(inside))
    return half


def _html(data: bytes) -> None:
    if not data.rstrip().endswith(b"</html>"):
        raise ValueError("half a page")


def _zip(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.testzip():
            raise ValueError("half an archive")


def _safetensors(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    if len(data) != 8 + length + max(ends):
        raise ValueError("half a file of weights")
