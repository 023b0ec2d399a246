"""Every data set, from its published files and real videos to training steps of its own recipe.

The command is the one in the recipe's docstring, the configuration the one that `prepare` prints,
with a tiny model. Videos are dark or bright, and their captions say so, so that the frames and the
captions of a batch can be compared.
"""

import ast
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
NAMES = {"train": "train", "validation": "val", "test": "test"}  # of splits, in names of files
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
WORDS = {"a": "dark", "b": "bright", "c": "dark", "d": "bright"}
LEVELS = {"dark": 40, "bright": 200}


def film(room, name, path):
    """Two seconds of the video `name`, or a picture."""
    frames = flat_frames([LEVELS[WORDS[name]]] * 8)
    if path.endswith(".jpg"):
        room.film(path, content=encode_jpeg(frames[0]))
    else:
        write_video(room.videos / path, frames, rate=4)


def text(name, number=0):
    """Caption `number` of a video."""
    return f"A {WORDS[name]} scene, the {'first second third'.split()[number]} time."


# Each writes the annotations of a data set, and returns the path of its video {}.


def activitynet(room):
    for file, names in (("train.json", "ab"), ("val_1.json", "cd")):
        event = {"duration": 2.0, "timestamps": [[0, 1], [1, 2]]}
        sentences = {name: [text(name), text(name, 1)] for name in names}
        room.write(file, {f"v_{n}": {**event, "sentences": sentences[n]} for n in names})
    return "v_{}.mkv"


def timed(files, path="{}.mp4", **fields):
    """A maker for data sets of ActivityNet's form: a file for each split."""

    def make(room):
        entry = {"duration": 2.0, "timestamps": [[1, 2], [0, 1]], **fields}
        for split, file in files.items():
            names = SPLITS[split]
            room.write(file, {n: {**entry, "sentences": [text(n, 1), text(n)]} for n in names})
        return path

    return make


def lines(files, form, path="{}.mp4"):
    """A maker for data sets with a sentence a line."""

    def make(room):
        for split, file in files.items():
            rows = [form(name, text(name, i), i) for name in SPLITS[split] for i in (1, 0)]
            room.write(file, "\n".join(rows))
        return path

    return make


def span(name, sentence, start):
    return f"{name} {start}.0 {start + 1}.0##{sentence}"


def qvhighlights_line(name, sentence, start):
    fields = {"vid": name, "query": sentence, "relevant_windows": [[start, start + 1]]}
    return json.dumps(fields)


def tvr_line(name, sentence, start):
    return json.dumps({"vid_name": name, "desc": sentence, "ts": [start, start + 1]})


def long_line(name, sentence, start):
    return json.dumps({"vid": name, "cap": sentence, "start": start, "end": start + 1})


def didemo(room):
    for split, names in SPLITS.items():
        moments = [
            {"video": f"7@N0_1_{name}.mov", "description": text(name, i), "times": [[i, i]]}
            for name in names
            for i in range(2)
        ]
        room.write(f"{split.replace('validation', 'val')}_data.json", moments)
    return "7@N0_1_{}.mov.mp4"


def msvd(room):
    captions = {f"{name}_1_2": [text(name, i).split() for i in range(3)] for name in "abcd"}
    room.write("raw-captions.pkl", pickle.dumps(captions, protocol=2))
    for split, names in SPLITS.items():
        file = f"{split.replace('validation', 'val')}_list.txt"
        room.write(file, "".join(f"{name}_1_2\n" for name in names))
    return "{}_1_2.avi"


def msrvtt(room):
    splits = {name: split.replace("validation", "validate") for name, split in SPLIT_OF.items()}
    videos = [{"video_id": f"video{name}", "split": split} for name, split in splits.items()]
    sentences = [{"video_id": f"video{n}", "caption": text(n, i)} for n in "abcd" for i in range(3)]
    room.write("MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    room.table("MSRVTT_train.9k.csv", ["video_id"], ["videoa"], ["videob"])
    header = ["key", "vid_key", "video_id", "sentence"]
    tested = [[f"ret{name}", f"msr{name}", f"video{name}", text(name)] for name in "cd"]
    room.table("MSRVTT_JSFUSION_test.csv", header, *tested)
    return "video{}.mp4"


def lsmdc(room):
    files = ("annos_training", "annos_val", "challenge_1000_publictect")
    times = ["00.01.00.500", "00.01.01.000", "00.01.00.000", "00.01.02.000"]
    for file, names in zip(files, SPLITS.values(), strict=True):
        rows = [[f"1_{name}_00.01.00.000-00.01.02.000", *times, text(name)] for name in names]
        room.table(f"LSMDC16_{file}.csv", *rows, delimiter="\t")
    return "1_{0}/1_{0}_00.01.00.000-00.01.02.000.avi"


def videoufo(room):
    header = ["ID", "Topic", "Detailed Caption", "Brief Caption", "Start Time"]
    rows = [[f"{name}.0", "light", text(name), text(name, 1), "0:00"] for name in "abcd"]
    room.table("VideoUFO.csv", header, *rows)
    return "{}.0.mp4"


def ultravideo(room):
    header = ["clip_id", "Summarized Description", "Detailed Description", "Brief Description"]
    for file, names in (("short.csv", "abc"), ("long.csv", "d")):
        rows = [[f"{n}.mp4", text(n), text(n, 1), text(n, 2)] for n in names]
        room.table(file, header, *rows)
    return "clips/{}.mp4"


def sharegpt4v(room):
    def entry(name):
        talk = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": text(name)}]
        return {"id": name, "image": f"coco/{name}.jpg", "conversations": talk}

    room.write("share-captioner_coco_lcs_sam_1246k_1107.json", [entry(name) for name in "abcd"])
    return "coco/{}.jpg"


def own_table(room):
    header = ["video", "caption", "start", "end", "split"]
    room.table("mine.csv", header, *([n, text(n), "0.5", "2", SPLIT_OF[n]] for n in "abcd"))
    return "{}.mp4"


def own_subtitles(room):
    for name in "ab":
        cues = f"00:00.000 --> 00:01.000\n{text(name)}\n\n00:01.000 --> 00:02.000\n{text(name, 1)}"
        room.write(f"{name}.en.vtt", f"WEBVTT\n\n{cues}\n")
    return "{}.mp4"


def own_lines(room):
    lines = [
        {"video": f"{n}.mp4", "captions": [{"text": text(n), "start": 0, "end": 1}, text(n, 1)]}
        | {"alternatives": [text(n, 2)], "split": SPLIT_OF[n]}
        for n in "abcd"
    ]
    room.film("captions.jsonl", content="\n".join(map(json.dumps, lines)).encode())
    return "{}.mp4"


EACH = {"train": 2, "validation": 1, "test": 1}
TRAIN_TEST = {"train": 2, "test": 1}
LONGVALE = {
    s: f"longvale-annotations-{n}.json"
    for s, n in zip(TRAIN_TEST, ("training", "eval"), strict=True)
}
# FLARE has nothing to train on; the others share their reader and their batches with a set that is
# trained on.
PREPARED_ONLY = {"longvale", "youcook2", "tacos", "animal_kingdom", "tvr", "flare"}
# What makes the files of each data set, and how many videos each split then has.
MAKERS = {
    "activitynet": (activitynet, {"train": 2, "test": 2}),
    "uca": (timed({s: f"UCFCrime_{NAMES[s].title()}.json" for s in SPLITS}), EACH),
    "tacos": (timed({s: f"{NAMES[s]}.json" for s in SPLITS}, "{}.avi", fps=1.0), EACH),
    "youcook2": (timed({"train": "yc2_train.json", "test": "yc2_val.json"}), TRAIN_TEST),
    "longvale": (timed(LONGVALE), TRAIN_TEST),
    "charades_sta": (lines({s: f"charades_sta_{s}.txt" for s in TRAIN_TEST}, span), TRAIN_TEST),
    "animal_kingdom": (lines({s: f"{s}.txt" for s in TRAIN_TEST}, span), TRAIN_TEST),
    "qvhighlights": (
        lines({s: f"highlight_{NAMES[s]}_release.jsonl" for s in SPLITS}, qvhighlights_line),
        EACH,
    ),
    "tvr": (
        lines({s: f"tvr_{NAMES[s]}_release.jsonl" for s in ("train", "validation")}, tvr_line),
        {"train": 2, "validation": 1},
    ),
    "lovr": (lines({s: f"video_{s}.jsonl" for s in TRAIN_TEST}, long_line), TRAIN_TEST),
    "flare": (lines({"test": "video-caption-vision.jsonl"}, long_line), {"test": 1}),
    "didemo": (didemo, EACH),
    "msvd": (msvd, EACH),
    "msrvtt": (msrvtt, {"train": 2, "test": 2}),
    "msrvtt_full": (msrvtt, EACH),
    "lsmdc": (lsmdc, EACH),
    "videoufo": (videoufo, EACH),
    "ultravideo": (ultravideo, EACH),
    "sharegpt4v": (sharegpt4v, {"train": 3, "validation": 1}),
    "csv": (own_table, EACH),
    "subtitles": (own_subtitles, {"train": 2}),
    "jsonl": (own_lines, EACH),
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
    folders = {"--videos": room.videos, "--annotations": room.annotations, "--output": shards}
    for flag, folder in folders.items():
        command[command.index(flag) + 1] = folder
    return command


def config_of(printed):
    """The configuration of the command that `prepare` names last, with a model of tiny sizes."""
    words = shlex.split(printed.strip().splitlines()[-1].removeprefix("next: "))
    made = load(f"{ROOT}/{words[3].removeprefix('--config=')}")
    sizes = tiny.SIZES | {
        "data.frames": min(tiny.F, made.data.frames),
        # Batches of one shape: numbers of parts differ.
        "data.parts": 0,
        "losses.order": 0.0,
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
        step = make_train_step(context.spec, context.mesh).lower(abstract, batch)
        start = jax.device_get(tiny.initial(context.spec))
        _COMPILED[key] = start, step.compile(tiny.QUICK)
    return _COMPILED[key]


@pytest.mark.parametrize("dataset", MAKERS)
def test_from_annotations_to_training_steps(room, tmp_path, clip, capsys, dataset):
    shards, (make, counts) = tmp_path / "shards", MAKERS[dataset]
    path = make(room)
    for name in "abcd":
        film(room, name, path.format(name))
    command = command_of(dataset, room, clip, shards)
    assert prepare.main([*map(str, command), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    splits = read_manifest(shards).splits
    assert {split: info.videos for split, info in splits.items()} == counts

    if dataset in PREPARED_ONLY:
        return
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
    modules, trained = ({name.split("/")[0] for name in names} for names in (before, moved))
    # Towers may have tiny rates, and scales move too little for float32. Captions that are all
    # alike have no negatives, so that the sharpness has no gradient.
    slow = {"vision", "text", "logit_scale", "modular_logit_scale", "log_sharpness"}
    assert modules - slow <= trained


def _check_pairs(arrays, tokenizer):
    """A row shows what its caption says."""
    words = {tokenizer.encode(word).ids[1]: level for word, level in LEVELS.items()}
    for row, tokens in enumerate(arrays["tokens"]):
        (level,) = [level for token, level in words.items() if token in tokens]
        shown = arrays["frames"][row][arrays["frame_mask"][row]]
        assert len(shown) and np.abs(shown.astype(int) - level).max() < 6


def test_every_data_set_is_tested():
    assert MAKERS.keys() == {*DATASETS, "jsonl"}
