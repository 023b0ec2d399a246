"""Every data set, from its published files and real videos to training steps of its own recipe.

The command is the one in the recipe's docstring, the configuration the one that `prepare` prints,
with a tiny model. Videos are dark or bright, and their captions say so, so that the frames and the
captions of a batch can be compared.
"""

import ast
import csv
import json
import pickle
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from mova_jax import prepare
from mova_jax.config import from_config_dict, load
from mova_jax.data.annotations.registry import DATASETS
from mova_jax.data.images import encode_jpeg
from mova_jax.data.shards import read_manifest
from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.parallel import sharding
from mova_jax.training.setup import build_context
from mova_jax.training.step import make_train_step
from mova_jax.utils.trees import parameter_names
from tests import tiny
from tests.clips import flat_frames, write_video

ROOT = Path(__file__).resolve().parents[3]
SPLITS = {"train": "ab", "validation": "c", "test": "d"}
WORDS = {"a": "dark", "b": "bright", "c": "dark", "d": "bright"}
LEVELS = {"dark": 40, "bright": 200}


class Room:
    """Writes annotations and films."""

    def __init__(self, folder):
        self.notes, self.videos = folder / "notes", folder / "videos"
        self.notes.mkdir()
        self.videos.mkdir()

    def film(self, name, path):
        """Two seconds of the video `name`, or a picture."""
        path = self.videos / path
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = flat_frames([LEVELS[WORDS[name]]] * 8)
        if path.suffix == ".jpg":
            path.write_bytes(encode_jpeg(frames[0]))
        else:
            write_video(path, frames, rate=4)

    def json(self, file, content):
        (self.notes / file).write_text(json.dumps(content))

    def table(self, file, rows, delimiter=","):
        with (self.notes / file).open("w", newline="") as stream:
            csv.writer(stream, delimiter=delimiter).writerows(rows)


def text(name, number=0):
    """Caption `number` of a video."""
    return f"A {WORDS[name]} scene, the {'first second third'.split()[number]} time."


def activitynet(room):
    for file, names in (("train.json", "ab"), ("val_1.json", "cd")):
        event = {"duration": 2.0, "timestamps": [[0, 1], [1, 2]]}
        sentences = {name: [text(name), text(name, 1)] for name in names}
        room.json(file, {f"v_{n}": {**event, "sentences": sentences[n]} for n in names})
        for name in names:
            room.film(name, f"v_{name}.mkv")


def didemo(room):
    for split, names in SPLITS.items():
        file = f"{'val' if split == 'validation' else split}_data.json"
        moments = [
            {"video": f"7@N0_1_{name}.mov", "description": text(name, i), "times": [[i, i]]}
            for name in names
            for i in range(2)
        ]
        room.json(file, moments)
        for name in names:
            room.film(name, f"7@N0_1_{name}.mov.mp4")


def msvd(room):
    captions = {f"{name}_1_2": [text(name, i).split() for i in range(3)] for name in "abcd"}
    (room.notes / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))
    for split, names in SPLITS.items():
        file = f"{'val' if split == 'validation' else split}_list.txt"
        (room.notes / file).write_text("".join(f"{name}_1_2\n" for name in names))
    for name in "abcd":
        room.film(name, f"{name}_1_2.avi")


def msrvtt(room):
    owners = {"train": "train", "validation": "validate", "test": "test"}
    number = {name: f"video{i}" for i, name in enumerate("abcd")}
    videos = [
        {"video_id": number[name], "split": owners[split]}
        for split, names in SPLITS.items()
        for name in names
    ]
    sentences = [{"video_id": number[n], "caption": text(n, i)} for n in "abcd" for i in range(3)]
    room.json("MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    room.table("MSRVTT_train.9k.csv", [["video_id"], [number["a"]], [number["b"]]])
    header = ["key", "vid_key", "video_id", "sentence"]
    tested = [[f"ret{name}", f"msr{name}", number[name], text(name)] for name in "cd"]
    room.table("MSRVTT_JSFUSION_test.csv", [header, *tested])
    for name in "abcd":
        room.film(name, f"{number[name]}.mp4")


def lsmdc(room):
    files = ("annos_training", "annos_val", "challenge_1000_publictect")
    times = ["00.01.00.500", "00.01.01.000", "00.01.00.000", "00.01.02.000"]
    for file, names in zip(files, SPLITS.values(), strict=True):
        rows = [[f"1_{name}_00.01.00.000-00.01.02.000", *times, text(name)] for name in names]
        room.table(f"LSMDC16_{file}.csv", rows, delimiter="\t")
        for name, row in zip(names, rows, strict=True):
            room.film(name, f"1_{name}/{row[0]}.avi")


def videoufo(room):
    header = ["ID", "Topic", "Detailed Caption", "Brief Caption", "Start Time"]
    rows = [[f"{name}.0", "light", text(name), text(name, 1), "0:00"] for name in "abcd"]
    room.table("VideoUFO.csv", [header, *rows])
    for name in "abcd":
        room.film(name, f"{name}.0.mp4")


def ultravideo(room):
    header = ["clip_id", "Summarized Description", "Detailed Description", "Brief Description"]
    for file, names in (("short.csv", "abc"), ("long.csv", "d")):
        rows = [[f"{n}.mp4", text(n), text(n, 1), text(n, 2)] for n in names]
        room.table(file, [header, *rows])
        for name in names:
            room.film(name, f"clips/{name}.mp4")


def sharegpt4v(room):
    def entry(name):
        talk = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": text(name)}]
        return {"id": name, "image": f"coco/{name}.jpg", "conversations": talk}

    room.json("share-captioner_coco_lcs_sam_1246k_1107.json", [entry(name) for name in "abcd"])
    for name in "abcd":
        room.film(name, f"coco/{name}.jpg")


def own_table(room):
    header = ["video", "caption", "start", "end", "split"]
    of = {name: split for split, names in SPLITS.items() for name in names}
    room.table("mine.csv", [header, *([n, text(n), "0.5", "2", of[n]] for n in "abcd")])
    for name in "abcd":
        room.film(name, f"{name}.mp4")


def own_subtitles(room):
    for name in "ab":
        cues = f"00:00.000 --> 00:01.000\n{text(name)}\n\n00:01.000 --> 00:02.000\n{text(name, 1)}"
        (room.notes / f"{name}.en.vtt").write_text(f"WEBVTT\n\n{cues}\n")
        room.film(name, f"{name}.mp4")


def own_lines(room):
    of = {name: split for split, names in SPLITS.items() for name in names}
    lines = [
        {"video": f"{n}.mp4", "captions": [{"text": text(n), "start": 0, "end": 1}, text(n, 1)]}
        | {"alternatives": [text(n, 2)], "split": of[n]}
        for n in "abcd"
    ]
    (room.videos / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in "abcd":
        room.film(name, f"{name}.mp4")


# What makes the files of each data set, and how many videos each split then has.
MAKERS = {
    "activitynet": (activitynet, {"train": 2, "test": 2}),
    "didemo": (didemo, {"train": 2, "validation": 1, "test": 1}),
    "msvd": (msvd, {"train": 2, "validation": 1, "test": 1}),
    "msrvtt": (msrvtt, {"train": 2, "test": 2}),
    "msrvtt_full": (msrvtt, {"train": 2, "validation": 1, "test": 1}),
    "lsmdc": (lsmdc, {"train": 2, "validation": 1, "test": 1}),
    "videoufo": (videoufo, {"train": 2, "validation": 1, "test": 1}),
    "ultravideo": (ultravideo, {"train": 2, "validation": 1, "test": 1}),
    "sharegpt4v": (sharegpt4v, {"train": 3, "validation": 1}),
    "csv": (own_table, {"train": 2, "validation": 1, "test": 1}),
    "subtitles": (own_subtitles, {"train": 2}),
    "jsonl": (own_lines, {"train": 2, "validation": 1, "test": 1}),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The tokenizer that the recipes' commands call CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    train_tokenizer([text(name, i) for name in "ab" for i in range(3)] * 3, 560, folder)
    return folder


def command_of(dataset, room, clip, shards):
    """The `prepare` command of the data set's recipe, with the folders of the test."""
    if dataset == "jsonl":
        return ["--input", room.videos / "captions.jsonl", "--output", shards]
    recipe = DATASETS[dataset].recipe
    command = [dataset, "--videos", "", "--annotations", "", "--output", "", "--fps", "4"]
    if dataset == "subtitles":
        command += ["--splits", "train=1"]
    if recipe:
        words = ast.get_docstring(ast.parse((ROOT / recipe).read_text()))
        line = re.search(r"python -m mova_jax\.prepare (.*)", re.sub(r"\\\n\s*", "", words))[1]
        command = [dataset, *shlex.split(line)[1:]]
        command[command.index("--tokenizer") + 1] = clip
    folders = {"--videos": room.videos, "--annotations": room.notes, "--output": shards}
    for flag, folder in folders.items():
        command[command.index(flag) + 1] = folder
    return command


def config_of(printed):
    """The configuration of the command that `prepare` names last, with a model of tiny sizes."""
    words = shlex.split(printed.strip().splitlines()[-1].removeprefix("next: "))
    made = load(f"{ROOT}/{words[3].removeprefix('--config=')}")
    sizes = tiny.SIZES | {
        "data.frames": min(tiny.F, made.data.frames),
        "data.token_buckets": (32,),
        "eval.frames": min(tiny.F, made.eval.frames),
        "init_from": "",
        "mesh.data": 1,
        "model.text.context": 32,
        "model.text.vocab_size": 560,
        "train.batch_size": made.train.batch_size,
    }
    made.update_from_flattened_dict(sizes)
    return from_config_dict(made)


_COMPILED = {}


def compiled(context, batch):
    """The start and the step of a run; runs that differ in their data alone share them."""
    config = context.config
    shapes = jax.tree.map(np.shape, batch)
    key = repr((config.model, config.losses, config.optim, config.train.steps, shapes))
    if key not in _COMPILED:
        abstract = jax.eval_shape(context.spec.initial)
        step = (
            make_train_step(context.spec, context.mesh).lower(abstract, batch).compile(tiny.QUICK)
        )
        _COMPILED[key] = jax.device_get(tiny.initial(context.spec)), step
    return _COMPILED[key]


@pytest.mark.parametrize("dataset", MAKERS)
def test_from_annotations_to_training_steps(tmp_path, clip, capsys, dataset):
    room, shards = Room(tmp_path), tmp_path / "shards"
    make, counts = MAKERS[dataset]
    make(room)
    command = command_of(dataset, room, clip, shards)
    assert prepare.main([*map(str, command), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    splits = read_manifest(shards).splits
    assert {split: info.videos for split, info in splits.items()} == counts

    context = build_context(config_of(printed), tmp_path / "run")
    try:
        _train(context, counts["train"])
    finally:
        context.checkpoints.close()


def _train(context, videos):
    batches = iter(context.batches)
    arrays = next(batches)
    assert sorted(arrays["video_id"].tolist()) == list(range(videos))
    _check_pairs(arrays, context.tokenizer)
    start, step = compiled(context, sharding.put_batch(context.mesh, arrays))
    state = jax.device_put(start, sharding.replicated(context.mesh))
    for _ in range(2):  # the rate of the first step is 0
        state, metrics = step(state, sharding.put_batch(context.mesh, arrays))
        assert metrics["finite"] == 1 and np.isfinite(metrics["loss"])
        arrays = next(batches)
    batches.close()
    before, after = parameter_names(start.params), parameter_names(state.params)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {"tmn", "cmn"} <= {name.split("/")[0] for name in moved}


def _check_pairs(arrays, tokenizer):
    """A row shows what its caption says."""
    words = {tokenizer.encode(word).ids[1]: level for word, level in LEVELS.items()}
    for row, tokens in enumerate(arrays["tokens"]):
        (level,) = [level for token, level in words.items() if token in tokens]
        shown = arrays["frames"][row][arrays["frame_mask"][row]]
        assert len(shown) and np.abs(shown.astype(int) - level).max() < 6


def test_every_data_set_is_tested():
    assert MAKERS.keys() == {*DATASETS, "jsonl"}
