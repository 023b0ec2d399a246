"""Makers of hostile files, each with the command line that is given them."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import hostile_media as media
from benchmarks.faults.materials import Materials, prepare, train

_RANKS = [f"{n}_{way}" for way in ("t2v", "v2t") for n in ("global", "blend")]
_RANKS += [f"{way}_{n}" for way in ("t2v", "v2t") for n in ("video", "gallery")]


class RunsCode:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def import_weights(file: str, write: Callable[[Path], Any]) -> Callable:
    """`convert import` of a file of weights."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.export / "huggingface", folder / "clip")
        (folder / "clip" / "model.safetensors").unlink()
        write(folder / "clip" / file)
        return ["mova_jax.convert", "import", folder / "clip", folder / "out"]

    return make


def torch_pickle(path: Path) -> None:
    """A PyTorch file whose pickle runs code."""
    import torch

    torch.save({"state_dict": {"a": RunsCode(path.parents[1] / "RAN")}}, path)


def torchscript(path: Path) -> None:
    """A TorchScript archive, which has code in it."""
    import torch

    class Adds(torch.nn.Module):
        def forward(self, x):
            return x + 1

    torch.jit.script(Adds()).save(str(path))


def climbing_zip(path: Path) -> None:
    """A PyTorch archive with a name that climbs out of its folder."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/../../../RAN", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(RunsCode(path.parents[1] / "RAN")))
        archive.writestr("archive/version", "3")


def big_header(path: Path) -> None:
    """A header of 4 GB of spaces, most of them holes of the file."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 4 * 2**30) + b"{")
        stream.truncate(4 * 2**30 + 16)


def big_tensor(path: Path) -> None:
    """A safetensors file whose only tensor claims 4 TB."""
    header = {"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def climbing_index(path: Path) -> None:
    """An index of weights that names a file above its folder."""
    path.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


def huge_sizes(m: Materials, folder: Path) -> list:
    """An export whose config.json claims a tower of 10^9 columns."""
    shutil.copytree(m.export / "pytorch", folder / "model")
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["vision"]["width"] = 10**9
    path.write_text(json.dumps(config))
    argv = ["mova_jax.evaluate", "--model", folder / "model", "--data", f"{m.shards}:test"]
    return [*argv, "--output", folder / "out"]


def annotated_by_pickle(m: Materials, folder: Path) -> list:
    """`prepare msvd` with captions in a pickle that runs code."""
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"a": RunsCode(folder / "RAN")}))
    argv = ["mova_jax.prepare", "msvd", "--videos", m.videos, "--annotations", folder]
    return [*argv, "--output", folder / "out"]


def compare_with(write: Callable[[Path], Any]) -> Callable:
    """`evaluate --against` another evaluation whose file of ranks is hostile."""

    def make(m: Materials, folder: Path) -> list:
        (folder / "other" / "ranks").mkdir(parents=True)
        write(folder / "other" / "ranks" / "test.npz")
        argv = ["mova_jax.evaluate", "--model", m.run, "--against", folder / "other"]
        return [*argv, "--output", folder / "out"]

    return make


def ranks_of_objects(path: Path) -> None:
    """Ranks that are pickled objects, which run code."""
    some = np.empty(1, object)
    some[0] = RunsCode(path.parents[2] / "RAN")
    np.savez(path, **dict.fromkeys(_RANKS, some))


def ranks_of_terabytes(path: Path) -> None:
    """Arrays that claim 8 TB and have nothing."""
    head = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(path, "w") as archive:
        for name in _RANKS:
            archive.writestr(f"{name}.npy", head.getvalue())


def ranks_of_a_bomb(path: Path) -> None:
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


def search_index(change: Callable[[Path], Any]) -> Callable:
    """A question to an index that was changed."""

    def make(m: Materials, folder: Path) -> list:
        shutil.copytree(m.index, folder / "index")
        for video in (folder / "index" / "videos").iterdir():
            change(video)
        return ["mova_jax.search", "--index", folder / "index", "A cat."]

    return make


def object_vectors(video: Path) -> None:
    """Vectors of a video of an index that are pickled objects."""
    some = np.empty(1, object)
    some[0] = RunsCode(video.parents[2] / "RAN")
    np.save(video / "vectors.npy", some, allow_pickle=True)


def huge_vectors(video: Path) -> None:
    """Vectors of a video of an index that claim 1.6 TB."""
    head = {"descr": "<f2", "fortran_order": False, "shape": (10**11, 8)}
    with (video / "vectors.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, head)


def prepare_jsonl(*lines: str | dict, change: Callable[[Path], Any] | None = None) -> Callable:
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


def prepare_video(name: str, write: Callable[[Path], Any]) -> Callable:
    """`prepare` of a JSONL that names one video, which `write` makes."""
    return prepare_jsonl({"video": name, "caption": "A dog."}, change=lambda f: write(f / name))


def pipe(path: Path) -> None:
    """A named pipe, which nobody writes to."""
    os.mkfifo(path)


def embed_file(write: Callable[[Path], Any]) -> Callable:
    """`embed` of a folder with one good video and a hostile one."""

    def make(m: Materials, folder: Path) -> list:
        (folder / "videos").mkdir()
        shutil.copy(m.videos / "00.mp4", folder / "videos" / "00.mp4")
        write(folder / "videos" / "bad.mp4")
        argv = ["mova_jax.embed", "--model", m.run, "--videos", folder / "videos"]
        return [*argv, "--index", folder / "index"]

    return make


def search_like(name: str, write: Callable[[Path], Any]) -> Callable:
    """A question by a hostile picture."""

    def make(m: Materials, folder: Path) -> list:
        write(folder / name)
        return ["mova_jax.search", "--index", m.index, "--like", folder / name]

    return make


def archive_of_videos(m: Materials, folder: Path) -> list:
    """`embed` of a tar, with a name that climbs out, in place of a folder."""
    with tarfile.open(folder / "videos.tar", "w") as archive:
        info = tarfile.TarInfo("../../RAN")
        archive.addfile(info, io.BytesIO())
    argv = ["mova_jax.embed", "--model", m.run, "--videos", folder / "videos.tar"]
    return [*argv, "--index", folder / "index"]


def climbing_shard(m: Materials, folder: Path) -> list:
    """Training on a manifest whose shards are above its folder."""
    shutil.copytree(m.shards, folder / "shards")
    path = folder / "shards" / "manifest.json"
    path.write_text(path.read_text().replace('"clips-train', '"../../clips-train'))
    return train(folder / "run", folder / "shards")


def train_on(**fields) -> Callable:
    """Training on shards of strangers, with one record that has these fields."""

    def make(m: Materials, folder: Path) -> list:
        media.write_shards(folder / "shards", m.shards, **fields)
        return train(folder / "run", folder / "shards", train__steps=12)

    return make


def deep(levels: int = 200_000) -> str:
    """JSON of so many brackets, one in the other."""
    return "[" * levels + "]" * levels


def deep_classes(m: Materials, folder: Path) -> list:
    """`evaluate` with a deeply nested file of classes."""
    (folder / "classes.json").write_text(deep())
    argv = ["mova_jax.evaluate", "--model", m.run, "--classes", folder / "classes.json"]
    return [*argv, "--output", folder / "out"]


def deep_config(m: Materials, folder: Path) -> list:
    """A run with a deeply nested config.json."""
    shutil.copytree(m.run, folder / "run")
    (folder / "run" / "config.json").write_text(deep())
    return ["mova_jax.evaluate", "--model", folder / "run", "--output", folder / "out"]


def long_question(m: Materials, folder: Path) -> list:
    """`search` with a question of 100 MB."""
    (folder / "q.txt").write_text("a cat sits. " * (100_000_000 // 12))
    return ["mova_jax.search", "--index", m.index, "--file", folder / "q.txt"]


LONG_TEXT = "A cat sits on a mat &amp; sleeps. " * (100_000_000 // 34)
NOT_INSIDE = "leaves the folder|leads out"
