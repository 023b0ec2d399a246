"""Annotations that are not UTF-8, and names of files that are not: read or told."""

import json
import os
import pickle

import pytest

from mova_jax import prepare
from mova_jax.data.annotations import InputError, read_annotations
from mova_jax.data.shards import Caption, read_manifest
from tests.clips import flat_frames, line, write_lines, write_video

TEXT = "L’été à Nîmes: « café »"
GUESSED = "it is not UTF-8 and was read as cp1252"


def _notes(room):
    return {entry["id"]: entry["reason"] for entry in room.reading.warnings}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize(
    ("dataset", "file", "content"),
    [
        ("csv", "mine.csv", 'video,caption\r\na,"{}"\r\n'),
        ("lsmdc", "LSMDC16_annos_val.csv", "a\t0.0.0.0\t0.0.1.0\t0.0.0.0\t0.0.1.0\t{}\n"),
        ("charades_sta", "charades_sta_test.txt", "a 0.0 1.0##{}\n"),
        ("flare", "video-caption-vision.jsonl", '{{"video_path": "a", "caption": "{}"}}\n'),
        ("activitynet", "val_1.json", '{{"a": {{"sentences": ["{}"], "timestamps": [[0, 1]]}}}}'),
    ],
)
def test_a_text_is_the_same_in_every_encoding(room, dataset, file, content, encoding):
    room.write(file, content.format(TEXT).encode(encoding))
    room.film("a.mp4")
    assert room.read(dataset)["a"].captions[0].text == TEXT
    notes = _notes(room)
    if encoding == "cp1252":
        assert notes.pop(file).startswith(GUESSED)
    assert not notes


def test_lists_and_pickles_of_python_2(room):
    """A text of Python 2 is bytes in its pickle, in whatever encoding the script had."""
    old = b"(dp0\nS'caf\\xe9'\np1\n(lp2\n(lp3\nS'Un'\np4\naS'caf\\xe9'\np5\naaS'plain'\np6\nas."
    assert pickle.loads(old, encoding="bytes") == {b"caf\xe9": [[b"Un", b"caf\xe9"], b"plain"]}
    room.write("raw-captions.pkl", old)
    for name in ("train_list.txt", "val_list.txt"):
        room.write(name, b"")
    room.write("test_list.txt", "café\n".encode("cp1252"))
    room.film("café.mp4")
    item = room.read("msvd")["café"]
    assert (item.captions, item.alternatives) == ((Caption("Un café"),), ("plain",))
    notes = _notes(room)
    assert notes.pop("test_list.txt").startswith(GUESSED)
    assert notes == {
        "raw-captions.pkl": "2 words are not UTF-8 and were read as cp1252, such as 'café'"
    }


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_your_own_jsonl(tmp_path, encoding):
    text = json.dumps(line("a.mp4", TEXT), ensure_ascii=False)
    (tmp_path / "c.jsonl").write_bytes(f"{text}\r\n".encode(encoding))
    reading = read_annotations(tmp_path / "c.jsonl")
    assert reading.items[0].captions == (Caption(TEXT),) and not reading.skipped
    told = [entry["reason"].startswith(GUESSED) for entry in reading.warnings]
    assert told == ([True] if encoding == "cp1252" else [])


@pytest.mark.parametrize(
    ("dataset", "file"),
    [("csv", "a.csv"), ("lovr", "video_test.parquet"), ("activitynet", "val_1.json")],
)
def test_a_pointer_of_git_lfs_is_named(room, dataset, file):
    room.write(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=rf"{file} .*a Git LFS pointer"):
        room.read(dataset)


# -------------------------------------------------------------------------------------- file names


@pytest.fixture
def strange(tmp_path):
    """Two videos with subtitles, and others whose name is Latin-1 on the disk."""
    folder = tmp_path / "videos"
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", flat_frames([20] * 10))
        (folder / f"{name}.srt").write_text(f"1\n00:00:00,000 --> 00:00:01,000\nThe {name}.\n")
    (folder / "plain").mkdir()
    for ending in (b".mp4", b".srt"):
        for name in (b"/caf\xe9", b"/plain/\xff"):
            with open(os.fsencode(folder) + name + ending, "wb") as file:
                file.write((folder / f"a{ending.decode()}").read_bytes())
    return folder


def test_a_file_name_that_is_not_utf8_costs_only_itself(strange, tmp_path, capsys):
    code = prepare.main(
        ["subtitles", "--videos", str(strange), "--output", str(tmp_path / "s"), "--workers", "0"]
    )
    out = capsys.readouterr().out
    manifest = read_manifest(tmp_path / "s")
    assert (code, sum(split.videos for split in manifest.splits.values())) == (3, 2)
    names = [r"caf\udce9", r"plain/\udcff"]
    assert [entry["id"] for entry in manifest.skipped] == names
    assert sorted(entry["id"] for entry in manifest.warnings) == [f"{n}.mp4" for n in names]
    entries = (*manifest.skipped, *manifest.warnings)
    assert all("its name is not UTF-8" in entry["reason"] for entry in entries)
    assert all(f"  {entry['id']}: " in out for entry in entries)


def test_names_beside_those_of_a_jsonl_are_nothing_to_it(strange, tmp_path):
    file = write_lines(strange / "c.jsonl", line("a.mp4", "The a."), line("caf\udce9.mp4", "Lost."))
    output = tmp_path / "s"
    assert prepare.main(["--input", str(file), "--output", str(output), "--workers", "0"]) == 3
    (entry,) = read_manifest(output).skipped
    assert "is not valid Unicode" in entry["reason"]
