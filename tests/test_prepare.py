"""Tests of the command that takes in videos: exit codes, the summary, no traceback."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mova_jax import prepare
from mova_jax.data.annotations import FIELDS
from mova_jax.data.shards import open_split, read_manifest


def _write_video(path, seconds):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(5 * seconds):
            image = np.full((32, 48, 3), 8 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos, a bad one, and a JSONL of the good ones and one of all."""
    folder = tmp_path_factory.mktemp("clips")
    _write_video(folder / "a.mp4", 2)
    _write_video(folder / "b.mp4", 3)
    (folder / "bad.mp4").write_text("no video")
    lines = [
        json.dumps({"video": f"{name}.mp4", "caption": f"A cat named {name} sits.", "split": split})
        for name, split in (("a", "train"), ("b", "test"), ("bad", "train"))
    ]
    (folder / "good.jsonl").write_text("\n".join(lines[:2]))
    (folder / "all.jsonl").write_text("\n".join(lines))
    return folder


def _command(*arguments):
    return [sys.executable, "-m", "mova_jax.prepare", *map(str, arguments)]


def test_the_command_from_end_to_end(clips, tmp_path):
    shards = tmp_path / "shards"
    arguments = ["--input", clips / "all.jsonl", "--output", shards, "--short_side", 16]
    arguments += ["--name", "cats", "--licence", "CC0", "--workers", 2]
    run = subprocess.run(_command(*arguments), capture_output=True, text=True)
    assert run.returncode == 3, run.stderr
    assert "100%" in run.stderr and "video/s" in run.stderr
    manifest = read_manifest(shards)
    assert [entry["id"] for entry in manifest.skipped] == ["bad.mp4"]
    assert "not a video" in manifest.skipped[0]["reason"]
    assert (manifest.name, manifest.licence) == ("cats", "CC0")
    assert sorted(manifest.splits) == ["test", "train"]
    assert [len(open_split(shards, split)[0].frames) for split in ("train", "test")] == [2, 3]
    rows = [line.split() for line in run.stdout.splitlines()[:4]]
    assert rows[0] == ["split", "videos", "frames", "captions"]
    assert rows[1:] == [
        ["test", "1", "3", "1"],
        ["train", "1", "2", "1"],
        ["validation", "0", "0", "0"],
    ]
    assert "skipped: 1\n  bad.mp4: not a video that can be decoded" in run.stdout
    last = run.stdout.strip().splitlines()[-1]
    config = f"configs/base.py:data={shards},batch=2"
    assert last == f"next: python -m mova_jax.main --config={config} --workdir=runs/{shards.name}"
    assert "Traceback" not in run.stderr


def _run(capsys, *arguments):
    code = prepare.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_all_went_in(clips, tmp_path, capsys):
    code, out, _ = _run(
        capsys, "--input", clips / "good.jsonl", "--output", tmp_path / "s", "--workers", 0
    )
    assert code == 0
    assert "skipped: 0" in out and "captions truncated to 248 tokens: 0" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--input": "missing.jsonl"}, "There is no file"),
        ({"--output": "."}, "is not empty and stays as it is"),
        ({"--output": "a.mp4"}, "cannot be written"),
        ({"--fps": 0}, "fps must be positive, got 0.0"),
        ({"--vocab_size": 10}, "vocab_size must be 514 or more, got 10"),
        ({"--tokenizer": "."}, "There is no tokenizer in"),
        ({"--splits": "train=-1"}, "splits must be"),
    ],
)
def test_bad_input_is_one_line(clips, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(clips)
    arguments = {"--input": "all.jsonl", "--output": tmp_path / "s", "--workers": 0} | change
    code, out, err = _run(capsys, *[x for pair in arguments.items() for x in pair])
    assert code == 1 and out == ""
    assert err.startswith("prepare: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "s").exists()


def test_splits_that_cannot_be_read(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(["--input", "a", "--output", "b", "--splits", "train"])
    assert stop.value.code == 2
    assert (
        "must look like train=0.8,validation=0.1,test=0.1; got 'train'" in capsys.readouterr().err
    )


def test_help_lists_the_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(["--help"])
    assert stop.value.code == 0
    assert FIELDS in capsys.readouterr().out


def test_the_summary_shows_ten_and_says_where_the_rest_is(clips, tmp_path, capsys):
    lines = (clips / "good.jsonl").read_text() + '\n{"video": "../x"}' * 12
    (clips / "many.jsonl").write_text(lines)
    folder = tmp_path / "s"
    code, out, _ = _run(capsys, "--input", clips / "many.jsonl", "--output", folder, "--workers", 0)
    assert code == 3
    assert out.count("leaves the folder") == 10
    assert f"  and 2 more, in {folder / 'manifest.json'}" in out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_says_how_to_go_on(clips, tmp_path, name):
    line = {"video": "b.mp4", "caption": "A cat sits."}
    lines = [json.dumps({**line, "id": str(i)}) for i in range(20_000)]
    (clips / "long.jsonl").write_text("\n".join(lines))
    arguments = ["--input", clips / "long.jsonl", "--output", tmp_path / "s", "--workers", 2]

    def take_signals():  # a shell may have started us without
        signal.signal(signal.SIGINT, signal.default_int_handler)

    run = subprocess.Popen(
        _command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_signals,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("s/.partial/items/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.pid, getattr(signal, name))
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    last = err.strip().splitlines()[-1]
    assert last.startswith("prepare: interrupted; what is done is kept in")
    assert last.endswith("/s/.partial, and the same command goes on from there.")
    assert "Traceback" not in err
    names = {path.name.partition(".")[2] for path in tmp_path.glob("s/.partial/items/*")}
    assert names == {"record", "json"}
