"""Hostile files: each is given to a command that must refuse it, or skip it, in bounded resources.

A case holds when the message says why, no code of the file has run, nothing was written outside of
the folders that the command was given, and time and memory stay below the limits.
"""

import functools
import io
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults import hostile_media as media
from benchmarks.faults.bad_makers import SKIPPED, WRONG
from benchmarks.faults.case import Case, case_name
from benchmarks.faults.materials import Materials, prepare, train, without_paths

COLUMNS = {
    "given": "given",
    "command": "to",
    "said": "said",
    "code": "exit code",
    "peak_mib": "memory, MiB",
    "seconds": "seconds",
}
_RANKS = [f"{n}_{way}" for way in ("t2v", "v2t") for n in ("global", "blend")]
_RANKS += [f"{way}_{n}" for way in ("t2v", "v2t") for n in ("video", "gallery")]
MOST_MIB, MOST_S = 2500, 150  # a plain start of the program takes about 500 MiB


class Hostile(NamedTuple):
    """A hostile file: `make(materials, folder)` writes it and returns the command line."""

    given: str
    make: Callable[[Materials, Path], list]
    says: str  # what the message must have, a regular expression
    codes: tuple[int, ...] = (WRONG,)


class _RunsCode:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def cases(m: Materials, scratch: Path, **_) -> list[Case]:
    """All cases; each has a folder of its own."""
    keys = [case_name("hostile", one.given) for one in HOSTILE]
    return [
        Case(key, functools.partial(_row, m, scratch / key, one))
        for key, one in zip(keys, HOSTILE, strict=True)
    ]


def _row(m: Materials, folder: Path, one: Hostile) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / "inside"  # what escapes from here is seen beside it
    inside.mkdir(parents=True)
    argv = one.make(m, inside)
    before = _outside(folder)
    outcome = m.call(folder.name, argv, limit_s=MOST_S, limit_mib=MOST_MIB)
    fault = outcome.fault(one.codes, one.says)
    found = re.search(f".*({one.says}).*", outcome.output, re.IGNORECASE)
    said = outcome.said if outcome.code or not found else found.group().strip()
    if made := sorted(_outside(folder) - before):
        fault = f"it wrote {', '.join(made)}"
    shutil.rmtree(folder)  # some are of gigabytes
    return {
        "given": one.given,
        "command": " ".join(word.removeprefix("mova_jax.") for word in argv[:1]),
        "said": without_paths(without_paths(said, inside), m.folder)[:300],
        "code": outcome.code,
        "peak_mib": round(outcome.peak_mib),
        "seconds": round(outcome.seconds, 1),
        "fault": fault,
    }


def _outside(folder: Path) -> set[str]:
    """Files that no command may make: those beside its folder, and what code in a file made."""
    found = {path.name for path in folder.iterdir() if path.name != "inside"}
    return found | {path.name for path in folder.rglob("RAN")}


def _import(file: str, write: Callable[[Path], Any]) -> Callable:
    """`convert import` of a file of weights."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.export / "huggingface", folder / "clip")
        (folder / "clip" / "model.safetensors").unlink()
        write(folder / "clip" / file)
        return ["mova_jax.convert", "import", folder / "clip", folder / "out"]

    return make


def _torch(path: Path) -> None:
    import torch

    torch.save({"state_dict": {"a": _RunsCode(path.parents[1] / "RAN")}}, path)


def _torchscript(path: Path) -> None:
    import torch

    class Adds(torch.nn.Module):
        def forward(self, x):
            return x + 1

    torch.jit.script(Adds()).save(str(path))


def _climbing_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/../../../RAN", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(_RunsCode(path.parents[1] / "RAN")))
        archive.writestr("archive/version", "3")


def _big_header(path: Path) -> None:
    """A header of 4 GB of spaces, most of them holes of the file."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 4 * 2**30) + b"{")
        stream.truncate(4 * 2**30 + 16)


def _big_tensor(path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def _climbing_index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


def _huge_sizes(m: Materials, folder: Path) -> list:
    """An export whose config.json claims a tower of 10^9 columns."""
    shutil.copytree(m.export / "pytorch", folder / "model")
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["vision"]["width"] = 10**9
    path.write_text(json.dumps(config))
    argv = ["mova_jax.evaluate", "--model", folder / "model", "--data", f"{m.shards}:test"]
    return [*argv, "--output", folder / "out"]


def _annotated_by_pickle(m: Materials, folder: Path) -> list:
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"a": _RunsCode(folder / "RAN")}))
    argv = ["mova_jax.prepare", "msvd", "--videos", m.videos, "--annotations", folder]
    return [*argv, "--output", folder / "out"]


def _against(write: Callable[[Path], Any]) -> Callable:
    """`evaluate --against` another evaluation whose file of ranks is hostile."""

    def make(m: Materials, folder: Path) -> list:
        (folder / "other" / "ranks").mkdir(parents=True)
        write(folder / "other" / "ranks" / "test.npz")
        argv = ["mova_jax.evaluate", "--model", m.run, "--against", folder / "other"]
        return [*argv, "--output", folder / "out"]

    return make


def _ranks_of_objects(path: Path) -> None:
    some = np.empty(1, object)
    some[0] = _RunsCode(path.parents[2] / "RAN")
    np.savez(path, **dict.fromkeys(_RANKS, some))


def _ranks_of_terabytes(path: Path) -> None:
    """Arrays that claim 8 TB and have nothing."""
    head = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(path, "w") as archive:
        for name in _RANKS:
            archive.writestr(f"{name}.npy", head.getvalue())


def _ranks_of_a_bomb(path: Path) -> None:
    """Arrays of 3 GB of zeros, which pack to 3 MB."""
    head = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (3 * 2**27,)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("global_t2v", "t2v_video"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(head.getvalue())
                for _ in range(96):
                    stream.write(bytes(2**25))


def _index(change: Callable[[Path], Any]) -> Callable:
    """A question to an index that was changed."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.index, folder / "index")
        for video in (folder / "index" / "videos").iterdir():
            change(video)
        return ["mova_jax.search", "--index", folder / "index", "A cat."]

    return make


def _object_vectors(video: Path) -> None:
    some = np.empty(1, object)
    some[0] = _RunsCode(video.parents[2] / "RAN")
    np.save(video / "vectors.npy", some, allow_pickle=True)


def _huge_vectors(video: Path) -> None:
    head = {"descr": "<f2", "fortran_order": False, "shape": (10**11, 8)}
    with (video / "vectors.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, head)


def _jsonl(*lines: str | dict, change: Callable[[Path], Any] | None = None) -> Callable:
    """`prepare` of a JSONL beside one good video; `change` writes further files."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copy(m.videos / "00.mp4", folder / "00.mp4")
        shutil.copy(m.videos / "00.mp4", folder.parent / "outside.mp4")
        if change:
            change(folder)
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        good = json.dumps({"video": "00.mp4", "caption": "A cat.", "split": "train"})
        (folder / "own.jsonl").write_text("\n".join([good, *texts]) + "\n")
        return prepare(folder / "own.jsonl", folder / "out")

    return make


def _video(name: str, write: Callable[[Path], Any]) -> Callable:
    return _jsonl({"video": name, "caption": "A dog."}, change=lambda f: write(f / name))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _embed(write: Callable[[Path], Any]) -> Callable:
    """`embed` of a folder with one good video and a hostile one."""

    def make(m: Materials, folder: Path) -> list:
        (folder / "videos").mkdir()
        shutil.copy(m.videos / "00.mp4", folder / "videos" / "00.mp4")
        write(folder / "videos" / "bad.mp4")
        argv = ["mova_jax.embed", "--model", m.run, "--videos", folder / "videos"]
        return [*argv, "--index", folder / "index"]

    return make


def _like(name: str, write: Callable[[Path], Any]) -> Callable:
    """A question by a hostile picture."""

    def make(m: Materials, folder: Path) -> list:
        write(folder / name)
        return ["mova_jax.search", "--index", m.index, "--like", folder / name]

    return make


def _archive_of_videos(m: Materials, folder: Path) -> list:
    with tarfile.open(folder / "videos.tar", "w") as archive:
        info = tarfile.TarInfo("../../RAN")
        archive.addfile(info, io.BytesIO())
    argv = ["mova_jax.embed", "--model", m.run, "--videos", folder / "videos.tar"]
    return [*argv, "--index", folder / "index"]


def _climbing_shard(m: Materials, folder: Path) -> list:
    shutil.copytree(m.shards, folder / "shards")
    path = folder / "shards" / "manifest.json"
    path.write_text(path.read_text().replace('"clips-train', '"../../clips-train'))
    return train(folder / "run", folder / "shards")


def _record(**fields) -> Callable:
    """Training on shards of strangers, with one record that has these fields."""

    def make(m: Materials, folder: Path) -> list:
        media.write_shards(folder / "shards", m.shards, **fields)
        return train(folder / "run", folder / "shards", train__steps=12)

    return make


def _deep(levels: int = 200_000) -> str:
    return "[" * levels + "]" * levels


def _deep_classes(m: Materials, folder: Path) -> list:
    (folder / "classes.json").write_text(_deep())
    argv = ["mova_jax.evaluate", "--model", m.run, "--classes", folder / "classes.json"]
    return [*argv, "--output", folder / "out"]


def _deep_config(m: Materials, folder: Path) -> list:
    shutil.copytree(m.run, folder / "run")
    (folder / "run" / "config.json").write_text(_deep())
    return ["mova_jax.evaluate", "--model", folder / "run", "--output", folder / "out"]


def _long_question(m: Materials, folder: Path) -> list:
    (folder / "q.txt").write_text("a cat sits. " * (100_000_000 // 12))
    return ["mova_jax.search", "--index", m.index, "--file", folder / "q.txt"]


_LONG = "A cat sits on a mat &amp; sleeps. " * (100_000_000 // 34)
_NOT_INSIDE = "leaves the folder|leads out"
HOSTILE = [
    Hostile("a PyTorch file with code in it", _import("pytorch_model.bin", _torch), "can run code"),
    Hostile("a TorchScript archive", _import("pytorch_model.bin", _torchscript), "TorchScript"),
    Hostile(
        "a PyTorch archive with names that climb out",
        _import("pytorch_model.bin", _climbing_zip),
        "PyTorch file",
    ),
    Hostile(
        "a safetensors file with a header of 4 GB",
        _import("model.safetensors", _big_header),
        "safetensors",
    ),
    Hostile(
        "a safetensors file that claims 4 TB", _import("model.safetensors", _big_tensor), "safetens"
    ),
    Hostile(
        "an index of weights that climbs out",
        _import("model.safetensors.index.json", _climbing_index),
        "same folder",
    ),
    Hostile("an export that claims 10^9 columns", _huge_sizes, "10{9}|1000000000"),
    Hostile("a pickle as annotations (MSVD)", _annotated_by_pickle, "run code"),
    Hostile("ranks (npz) that are pickled objects", _against(_ranks_of_objects), "test.npz"),
    Hostile("ranks (npz) that claim 8 TB", _against(_ranks_of_terabytes), "test.npz"),
    Hostile("ranks (npz) of 3 MB that unpack to 6 GB", _against(_ranks_of_a_bomb), "test.npz"),
    Hostile("vectors of an index that are pickled", _index(_object_vectors), "vectors.npy"),
    Hostile("vectors of an index that claim 1.6 TB", _index(_huge_vectors), "vectors.npy"),
    Hostile("a tar in place of a folder of videos", _archive_of_videos, "no folder"),
    Hostile(
        "a path ../outside.mp4 in a JSONL",
        _jsonl({"video": "../outside.mp4", "caption": "A."}),
        _NOT_INSIDE,
        (SKIPPED,),
    ),
    Hostile(
        "a link to a file outside",
        _video("l.mp4", lambda path: path.symlink_to("../outside.mp4")),
        _NOT_INSIDE,
        (SKIPPED,),
    ),
    Hostile("a manifest with shards above its folder", _climbing_shard, "not a name in the folder"),
    Hostile("a JSONL line of 200,000 brackets", _jsonl(_deep()), "not JSON", (SKIPPED,)),
    Hostile("classes of 200,000 brackets", _deep_classes, "classes.json"),
    Hostile("a config.json of 200,000 brackets", _deep_config, "config.json"),
    Hostile(
        "a caption of 100 MB",
        _jsonl({"video": "00.mp4", "id": "b", "caption": _LONG}),
        "characters",
        (SKIPPED,),
    ),
    Hostile("a question of 100 MB", _long_question, "characters"),
    Hostile("a caption of 100 MB in a shard", _record(caption=_LONG), "left out", (0,)),
    Hostile(
        "a JPEG of 65,500 x 65,500 pixels",
        _video("p.jpg", media.jpeg_claiming),
        "too many pixels",
        (SKIPPED,),
    ),
    Hostile(
        "a PNG of 100,000 x 100,000 pixels",
        _video("p.png", media.png_claiming),
        "too many pixels",
        (SKIPPED,),
    ),
    Hostile("the same PNG as a question", _like("p.png", media.png_claiming), "too many"),
    Hostile(
        "a JPEG of 65,500 x 65,500 pixels in a shard",
        _record(frame=media.jpeg_bytes()),
        "left out",
        (0,),
    ),
    Hostile(
        "a video that claims 10^9 frames",
        _video("v.mp4", media.mp4_claiming),
        "v.mp4|videos",
        (0, SKIPPED),
    ),
    Hostile(
        "a video whose last frame is 10^9 seconds late",
        _video("v.mkv", media.mkv_far_apart),
        "more than 100000 frames",
        (SKIPPED,),
    ),
    Hostile("the same video, to be embedded", _embed(media.mkv_far_apart), "frames", (SKIPPED,)),
    Hostile(
        "a list of other files, named .mp4",
        _video("v.mp4", media.playlist),
        "list of other files|not a video",
        (SKIPPED,),
    ),
    Hostile("a named pipe, to be prepared", _video("v.mp4", _pipe), "v.mp4", (SKIPPED,)),
    Hostile("a named pipe, to be embedded", _embed(_pipe), "bad.mp4", (SKIPPED,)),
    Hostile(
        "a link to /dev/zero, to be embedded",
        _embed(lambda path: path.symlink_to("/dev/zero")),
        "bad.mp4",
        (SKIPPED,),
    ),
]
