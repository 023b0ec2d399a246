"""Hostile files: each is given to a command that must refuse it, or skip it, in bounded resources.

A case holds when the message says why, no code of the file has run, nothing was written outside of
the folders that the command was given, and time and memory stay below the limits.
"""

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import hostile_makers as makers
from benchmarks.faults import hostile_media as media
from benchmarks.faults.bad_makers import SKIPPED, WRONG
from benchmarks.faults.case import Case, case_name
from benchmarks.faults.materials import Materials, without_paths

COLUMNS = {
    "given": "given",
    "command": "to",
    "said": "said",
    "code": "exit code",
    "peak_mib": "memory, MiB",
    "seconds": "seconds",
}
MOST_MIB, MOST_S = 2500, 150  # a plain start of the program takes about 500 MiB


class Hostile(NamedTuple):
    """A hostile file: `make(materials, folder)` writes it and returns the command line."""

    given: str
    make: Callable[[Materials, Path], list]
    says: str  # what the message must have, a regular expression
    codes: tuple[int, ...] = (WRONG,)


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


HOSTILE = [
    Hostile(
        "a PyTorch file with code in it",
        makers.import_weights("pytorch_model.bin", makers.torch_pickle),
        "can run code",
    ),
    Hostile(
        "a TorchScript archive",
        makers.import_weights("pytorch_model.bin", makers.torchscript),
        "TorchScript",
    ),
    Hostile(
        "a PyTorch archive with names that climb out",
        makers.import_weights("pytorch_model.bin", makers.climbing_zip),
        "PyTorch file",
    ),
    Hostile(
        "a safetensors file with a header of 4 GB",
        makers.import_weights("model.safetensors", makers.big_header),
        "safetensors",
    ),
    Hostile(
        "a safetensors file that claims 4 TB",
        makers.import_weights("model.safetensors", makers.big_tensor),
        "safetens",
    ),
    Hostile(
        "an index of weights that climbs out",
        makers.import_weights("model.safetensors.index.json", makers.climbing_index),
        "same folder",
    ),
    Hostile("an export that claims 10^9 columns", makers.huge_sizes, "10{9}|1000000000"),
    Hostile("a pickle as annotations (MSVD)", makers.annotated_by_pickle, "run code"),
    Hostile(
        "ranks (npz) that are pickled objects",
        makers.compare_with(makers.ranks_of_objects),
        "test.npz",
    ),
    Hostile(
        "ranks (npz) that claim 8 TB", makers.compare_with(makers.ranks_of_terabytes), "test.npz"
    ),
    Hostile(
        "ranks (npz) of 3 MB that unpack to 6 GB",
        makers.compare_with(makers.ranks_of_a_bomb),
        "test.npz",
    ),
    Hostile(
        "vectors of an index that are pickled",
        makers.search_index(makers.object_vectors),
        "vectors.npy",
    ),
    Hostile(
        "vectors of an index that claim 1.6 TB",
        makers.search_index(makers.huge_vectors),
        "vectors.npy",
    ),
    Hostile("a tar in place of a folder of videos", makers.archive_of_videos, "no folder"),
    Hostile(
        "a path ../outside.mp4 in a JSONL",
        makers.prepare_jsonl({"video": "../outside.mp4", "caption": "A."}),
        makers.NOT_INSIDE,
        (SKIPPED,),
    ),
    Hostile(
        "a link to a file outside",
        makers.prepare_video("l.mp4", lambda path: path.symlink_to("../outside.mp4")),
        makers.NOT_INSIDE,
        (SKIPPED,),
    ),
    Hostile(
        "a manifest with shards above its folder", makers.climbing_shard, "not a name in the folder"
    ),
    Hostile(
        "a JSONL line of 200,000 brackets",
        makers.prepare_jsonl(makers.deep()),
        "not JSON",
        (SKIPPED,),
    ),
    Hostile("classes of 200,000 brackets", makers.deep_classes, "classes.json"),
    Hostile("a config.json of 200,000 brackets", makers.deep_config, "config.json"),
    Hostile(
        "a caption of 100 MB",
        makers.prepare_jsonl({"video": "00.mp4", "id": "b", "caption": makers.LONG_TEXT}),
        "characters",
        (SKIPPED,),
    ),
    Hostile("a question of 100 MB", makers.long_question, "characters"),
    Hostile(
        "a caption of 100 MB in a shard",
        makers.train_on(caption=makers.LONG_TEXT),
        "left out",
        (0,),
    ),
    Hostile(
        "a JPEG of 65,500 x 65,500 pixels",
        makers.prepare_video("p.jpg", media.jpeg_claiming),
        "too many pixels",
        (SKIPPED,),
    ),
    Hostile(
        "a PNG of 100,000 x 100,000 pixels",
        makers.prepare_video("p.png", media.png_claiming),
        "too many pixels",
        (SKIPPED,),
    ),
    Hostile(
        "the same PNG as a question", makers.search_like("p.png", media.png_claiming), "too many"
    ),
    Hostile(
        "a JPEG of 65,500 x 65,500 pixels in a shard",
        makers.train_on(frame=media.jpeg_bytes()),
        "left out",
        (0,),
    ),
    Hostile(
        "a video that claims 10^9 frames",
        makers.prepare_video("v.mp4", media.mp4_claiming),
        "v.mp4|videos",
        (0, SKIPPED),
    ),
    Hostile(
        "a video whose last frame is 10^9 seconds late",
        makers.prepare_video("v.mkv", media.mkv_far_apart),
        "more than 100000 frames",
        (SKIPPED,),
    ),
    Hostile(
        "the same video, to be embedded",
        makers.embed_file(media.mkv_far_apart),
        "frames",
        (SKIPPED,),
    ),
    Hostile(
        "a list of other files, named .mp4",
        makers.prepare_video("v.mp4", media.playlist),
        "list of other files|not a video",
        (SKIPPED,),
    ),
    Hostile(
        "a named pipe, to be prepared",
        makers.prepare_video("v.mp4", makers.pipe),
        "v.mp4",
        (SKIPPED,),
    ),
    Hostile("a named pipe, to be embedded", makers.embed_file(makers.pipe), "bad.mp4", (SKIPPED,)),
    Hostile(
        "a link to /dev/zero, to be embedded",
        makers.embed_file(lambda path: path.symlink_to("/dev/zero")),
        "bad.mp4",
        (SKIPPED,),
    ),
]
