"""Tests of the command that takes in videos: exit codes, the summary, no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mova_jax import prepare
from mova_jax.data.annotations import FIELDS
from mova_jax.data.annotations.registry import DATASETS
from mova_jax.data.shards import open_split, read_manifest
from tests.clips import line, ramp, write_lines, write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos, a bad one, and a JSONL of the good ones and one of all."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", ramp(20))
    write_video(folder / "b.mp4", ramp(30))
    (folder / "bad.mp4").write_text("no video")
    splits = {"a": "train", "b": "test", "bad": "train"}
    lines = [line(f"{name}.mp4", split=split) for name, split in splits.items()]
    write_lines(folder / "good.jsonl", *lines[:2])
    write_lines(folder / "all.jsonl", *lines)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --input JSONL or the name of a data set"),
        (["msvd", "--input", "a.jsonl"], "give either --input JSONL or"),
        (["msvd"], "msvd needs --videos"),
        (["--input", "a.jsonl", "--videos", "v"], "belong to a data set"),
        (["imagenet", "--videos", "v"], "invalid choice: 'imagenet'"),
        (["--splits", "train"], "must look like train=0.8,validation=0.1,test=0.1; got 'train'"),
    ],
)
def test_wrong_flags(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        prepare.main([*arguments, "--output", "s"])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_help_lists_fields_and_data_sets_with_their_files(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and FIELDS in text
    for name, dataset in DATASETS.items():
        assert f"  {name} " in text and dataset.files in text


def test_the_summary_shows_ten_and_says_where_the_rest_is(clips, tmp_path, capsys):
    file = write_lines(clips / "many.jsonl", line("a.mp4"), *[line("../x")] * 12)
    folder = tmp_path / "s"
    code, out, _ = _run(capsys, "--input", file, "--output", folder, "--workers", 0)
    assert code == 3
    assert out.count("leaves the folder") == 10
    assert f"  and 2 more, in {folder / 'manifest.json'}" in out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_says_how_to_go_on(clips, tmp_path, name):
    file = write_lines(clips / "long.jsonl", *(line("b.mp4", id=i) for i in range(20_000)))
    arguments = ["--input", file, "--output", tmp_path / "s", "--workers", 2]

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
