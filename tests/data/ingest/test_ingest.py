"""Tests of ingest with real videos: results, skipped entries, resuming after interruptions."""

import dataclasses
import errno
import functools
import os
import shutil
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mova_jax.data.annotations import InputError, read_annotations
from mova_jax.data.images import decode_image
from mova_jax.data.ingest.decode_item import Decoded, decode_all, decode_item, decode_or_raise
from mova_jax.data.ingest.ingest import IngestSettings, ingest
from mova_jax.data.ingest.publish import is_unfinished
from mova_jax.data.ingest.video_reader import decode_video
from mova_jax.data.shards import MANIFEST, Caption, ShardError, open_split, read_manifest
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer
from tests.clips import assert_same_files, line, ramp, write_lines, write_video

# --------------------------------------------------------------------------------------- decoding


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        write_video(folder / f"{i}.mp4", ramp(20 + 10 * i))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    return folder


def _decode(clips, **fields):
    path = write_lines(clips / "captions.jsonl", line("2.mp4", **fields))
    (item,) = read_annotations(path).items
    return decode_item(item, fps=2.0, short_side=16)


def test_a_record_of_a_cut_has_the_clock_of_the_cut(clips):
    sentences = [
        {"text": "Before.", "start": 0, "end": 1},
        {"text": "Across.", "start": 0.5, "end": 2},
        {"text": "Inside.", "start": 2, "end": 2.5},
        {"text": "Often.", "windows": [[1.5, 1.75], [0, 1], [2, 3.5]]},
        {"text": "Behind.", "start": 3.5, "end": 4},
        "Untimed.",
    ]
    record, reason, warnings = _decode(clips, captions=sentences, start=1.0, end=3.0)
    assert (reason, warnings) == ("", ())
    timed = Caption("Across.", 0.0, 1.0), Caption("Inside.", 1.0, 1.5)
    often = Caption("Often.", 1.0, 2.0, ((0.5, 0.75),))  # the longest window comes first
    assert record.captions == (*timed, often, Caption("Untimed."))
    assert (record.height, record.width, len(record.frames)) == (16, 24, 4)
    assert record.duration == pytest.approx(2.0)
    np.testing.assert_allclose(record.timestamps, [0, 0.5, 1, 1.5])


def test_times_behind_the_end_of_a_video_are_dropped_with_a_warning(clips):
    sentences = [{"text": "A.", "start": 3, "end": 9}, {"text": "B.", "start": 5, "end": 6}]
    record, _, warnings = _decode(clips, captions=sentences)
    assert record.captions == (Caption("A.", 3.0, record.duration), Caption("B."))
    assert "the video ends at 4.0 s" in warnings[0]


def test_a_cut_without_a_sentence_is_skipped(clips):
    result = _decode(clips, captions=[{"text": "A.", "start": 3, "end": 4}], end=1.0)
    assert result == Decoded(None, "no sentence lies within the cut", ())


def _die_on_three(item):
    if item.id == "3":
        os._exit(9)
    return Decoded(None, f"did {item.id}", ())


@pytest.mark.slow
def test_a_video_that_kills_its_process_is_the_only_one_that_fails(tmp_path):
    lines = [line(f"{i}.mp4", id=i) for i in range(12)]
    items = read_annotations(write_lines(tmp_path / "captions.jsonl", *lines)).items
    results = [(item.id, result.reason) for item, result in decode_all(items, _die_on_three, 2)]
    assert [name for name, _ in results] == [str(i) for i in range(12)]
    assert results.pop(3)[1].startswith("the decoder's process died on it")
    assert all(reason == f"did {name}" for name, reason in results)


# ----------------------------------------------------------------------------------------- ingest

SETTINGS = IngestSettings(fps=2.0, short_side=16, vocab_size=530, max_tokens=40, licence="CC0")
ingest_quietly = functools.partial(ingest, settings=SETTINGS, progress=False)


@pytest.fixture(scope="module")
def annotations(clips):
    lines = [line(f"{i}.mp4", f"The cat number {i} sits. It leaves.") for i in range(5)]
    lines[4]["split"] = "test"
    lines += [line("empty.mp4"), line("text.mp4"), line("missing.mp4"), line("../x.mp4")]
    sentences = " ".join(f"The cat number {i} sits here." for i in range(80))
    lines += [line("0.mp4", "again"), line("5.mp4", sentences, split="train"), b"{"]
    return write_lines(clips / "all.jsonl", *lines)


@pytest.fixture(scope="module")
def made(annotations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "shards"
    return folder, ingest_quietly(annotations, folder)


def test_the_folder_holds_the_good_lines_and_the_manifest_all(made):
    folder, manifest = made
    assert read_manifest(folder) == manifest
    skipped = {"../x.mp4", "0.mp4", "line 12", "empty.mp4", "text.mp4", "missing.mp4"}
    assert {entry["id"] for entry in manifest.skipped} == skipped
    assert manifest.truncated_captions == 1
    assert (manifest.licence, manifest.settings["fps"]) == ("CC0", 2.0)
    sources = {split: open_split(folder, split) for split in manifest.splits}
    records = {record.id: (split, record) for split in sources for record in sources[split]}
    assert sum(map(len, sources.values())) == 6
    assert sorted(records) == [f"{i}.mp4" for i in range(6)]
    split, record = records["4.mp4"]
    assert (split, record.caption) == ("test", "The cat number 4 sits. It leaves.")
    assert (len(record.frames), record.source) == (12, "4.mp4")
    tokenizer = Tokenizer(folder / "tokenizer", max_tokens=40)
    long = tokenizer.encode(records["5.mp4"][1].caption)
    assert long.truncated and len(long.ids) <= 40
    assert long.ids[-2] == tokenizer.encode(".").ids[1]  # cut at the end of a sentence


@pytest.mark.parametrize(("workers", "scheme"), [(2, ""), (4, ""), (2, "file://")])
def test_the_bytes_do_not_depend_on_the_workers(made, annotations, tmp_path, workers, scheme):
    url = f"{scheme}{tmp_path}/shards"
    ingest_quietly(f"{scheme}{annotations}", url, workers=workers)
    assert_same_files(made[0], tmp_path / "shards")
    with pytest.raises(ShardError, match="has shards already"):
        ingest_quietly(f"{scheme}{annotations}", url)


def test_a_given_tokenizer_is_used(annotations, tmp_path):
    train_tokenizer(["some other words"] * 3, 520, tmp_path / "clip")
    settings = IngestSettings(short_side=16, tokenizer=str(tmp_path / "clip"))
    ingest(annotations, tmp_path / "shards", settings, progress=False)
    text = "some cat"
    ids = [Tokenizer(tmp_path / name).encode(text).ids for name in ("clip", "shards/tokenizer")]
    np.testing.assert_array_equal(*ids)


def test_a_folder_in_use_stays_as_it_is(made, annotations, tmp_path):
    before = {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()}
    with pytest.raises(ShardError, match="has shards already and stays as it is"):
        ingest_quietly(annotations, made[0])
    assert before == {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match="is not empty and stays"):
        ingest_quietly(annotations, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ShardError, match="cannot be written"):
        ingest_quietly(annotations, tmp_path / "notes.txt")


def test_videos_and_shards_at_a_url(made, annotations, tmp_path, monkeypatch):
    """In an object store: nothing of it is a file of this machine."""
    store = fsspec.filesystem("memory")
    store.put(f"{annotations.parent}/", f"{tmp_path}/clips", recursive=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="at the end"):
        patch.setattr("mova_jax.data.ingest.ingest.write_manifest", _fail_at_the_end)
        ingest_quietly(f"memory:/{tmp_path}/clips/all.jsonl", f"memory:/{tmp_path}/shards")
    assert [path.suffix for path in (tmp_path / "temporary").iterdir()] == [".lock"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mova_jax.data.ingest.tasks.decode_or_raise", None)  # all is decoded
        ingest_quietly(f"memory:/{tmp_path}/clips/all.jsonl", f"memory:/{tmp_path}/shards")
    store.get(f"{tmp_path}/shards/", str(tmp_path / "got"), recursive=True)
    assert_same_files(made[0], tmp_path / "got")


def test_no_line_leads_out_of_the_folder_of_a_url(clips, tmp_path):
    videos = ["../x.mp4", "/etc/passwd", f"0.mp4::file://{clips}/0.mp4", f"file://{clips}/0.mp4"]
    path = write_lines(tmp_path / "captions.jsonl", *map(line, videos))
    with pytest.raises(InputError, match=r"4 skipped: \.\./x.mp4: .*leaves the folder"):
        ingest_quietly(f"file://{path}", tmp_path / "shards")


def test_raw_frames_are_what_jpeg_frames_come_from(annotations, tmp_path):
    settings = dataclasses.replace(SETTINGS, codec="raw")
    manifest = ingest(annotations, tmp_path, settings, progress=False)
    assert manifest.settings["codec"] == "raw"
    record = open_split(tmp_path, "test")[0]
    video = decode_video(annotations.parent / "4.mp4", 2.0, 16)
    assert record.frames[3] == b"P6\n24 16\n255\n" + video.frames[3].tobytes()
    np.testing.assert_array_equal(list(map(decode_image, record.frames)), video.frames)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the items that are decoded, as they are; `.stop_at` raises `.error` at the nth."""

    class Decoded(list):
        stop_at, error = 0, KeyboardInterrupt

    names, decode = Decoded(), decode_or_raise

    def counted(item, *args):
        names.append(item.id)
        if len(names) == names.stop_at:
            raise names.error("stop")
        return decode(item, *args)

    monkeypatch.setattr("mova_jax.data.ingest.tasks.decode_or_raise", counted)
    return names


def _start_and_stop(decoded, annotations, folder, at=4, error=KeyboardInterrupt, expected=None):
    """Runs until video `at` raises `error`, which ends the call with the `expected` one."""
    decoded.clear()
    decoded.stop_at, decoded.error = at, error
    with expected or pytest.raises(error):
        ingest_quietly(annotations, folder)
    decoded.stop_at = 0
    decoded.clear()


def test_a_stopped_run_ends_like_one_that_never_stopped(
    made, annotations, tmp_path, decoded, capsys
):
    _start_and_stop(decoded, annotations, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".partial"]
    assert is_unfinished(tmp_path)
    (tmp_path / ".partial/items/other.record.1f.partial").write_bytes(b"half")
    ingest(annotations, tmp_path, SETTINGS)
    assert decoded == ["3.mp4", "4.mp4", "empty.mp4", "text.mp4", "missing.mp4", "5.mp4"]
    assert "3 of 9 videos are done already." in capsys.readouterr().err
    assert_same_files(made[0], tmp_path)


@pytest.mark.parametrize("lines", [[], [b"{"], [line("gone.mp4")]])
def test_a_call_that_finds_no_video_keeps_finished_work(
    made, annotations, tmp_path, decoded, lines
):
    """Where the folder of the videos is not mounted, or another --input was meant."""
    _start_and_stop(decoded, annotations, tmp_path / "s")
    with pytest.raises(InputError, match="could be used"):
        ingest_quietly(write_lines(tmp_path / "captions.jsonl", *lines), tmp_path / "s")
    ingest_quietly(annotations, tmp_path / "s")
    assert not {"0.mp4", "1.mp4", "2.mp4"} & set(decoded)
    assert_same_files(made[0], tmp_path / "s")


def test_a_command_with_other_options_uses_the_records_that_fit(annotations, tmp_path, decoded):
    _start_and_stop(decoded, annotations, tmp_path / "a")
    shares = dataclasses.replace(SETTINGS, splits=(("all", 1.0),), vocab_size=520, name="b")
    ingest(annotations, tmp_path / "a", shares, progress=False)
    assert not {"0.mp4", "1.mp4", "2.mp4"} & set(decoded)
    _start_and_stop(decoded, annotations, tmp_path / "b")
    ingest(annotations, tmp_path / "b", dataclasses.replace(SETTINGS, fps=1.0), progress=False)
    assert {"0.mp4", "1.mp4", "2.mp4"} < set(decoded)


def test_a_video_that_changed_is_decoded_again(clips, tmp_path, decoded):
    for name in "abc":
        shutil.copy(clips / "0.mp4", tmp_path / f"{name}.mp4")
    path = write_lines(tmp_path / "captions.jsonl", *(line(f"{name}.mp4") for name in "abc"))
    _start_and_stop(decoded, path, tmp_path / "s", at=3)
    write_video(tmp_path / "a.mp4", ramp(30))
    ingest_quietly(path, tmp_path / "s")
    assert decoded == ["a.mp4", "c.mp4"]


def test_only_temporary_failures_are_tried_again(made, annotations, tmp_path, decoded):
    """A file that cannot be read, or is gone, may be there next time; no video stays none."""
    at_the_end = pytest.raises(OSError, match="at the end")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mova_jax.data.ingest.ingest.write_manifest", _fail_at_the_end)
        _start_and_stop(decoded, annotations, tmp_path, 2, PermissionError, at_the_end)
    ingest_quietly(annotations, tmp_path)
    assert decoded == ["1.mp4", "missing.mp4"]
    assert_same_files(made[0], tmp_path)


def _fail_at_the_end(*args):
    raise OSError("at the end")


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(made, annotations, tmp_path, decoded):
    full = functools.partial(OSError, errno.ENOSPC)
    make_room = pytest.raises(ShardError, match="make room")
    _start_and_stop(decoded, annotations, tmp_path, 3, full, make_room)
    ingest_quietly(annotations, tmp_path)
    assert decoded[0] == "2.mp4"
    assert_same_files(made[0], tmp_path)


@pytest.mark.parametrize("file", ["0-of-00001", "tokenizer/tokenizer.json", MANIFEST])
def test_a_failed_or_killed_publication_is_undone(made, annotations, tmp_path, monkeypatch, file):
    """By the call itself when it fails, by the next one when it was killed."""
    replace, seen, alive = os.replace, [], True

    def fail(source, target):
        if alive and str(target).startswith(str(tmp_path)) and str(target).endswith(file):
            seen.extend(sorted(path.name for path in tmp_path.glob("[a-z]*")))
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", lambda self, target: os.replace(self, target))
    with pytest.raises(ShardError, match="no space"):
        ingest_quietly(annotations, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".partial"]
    assert ("-of-" in file) != ({"tokenizer", "features.json"} < set(seen))
    monkeypatch.setattr("mova_jax.data.ingest.publish._undo", lambda folder: None)
    with pytest.raises(ShardError, match="no space"):
        ingest_quietly(annotations, tmp_path)
    monkeypatch.undo()
    alive = False
    (tmp_path / ".manifest.json.1f.partial").write_bytes(b"half")
    ingest_quietly(annotations, tmp_path)
    assert_same_files(made[0], tmp_path)


@pytest.mark.parametrize("damage", [b"", b'{"moved": {', b"[]"])
def test_a_damaged_list_of_what_was_published_is_an_error(annotations, tmp_path, damage):
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial/moves.json").write_bytes(damage)
    with pytest.raises(ShardError, match=r"moves\.json is damaged.*remove the output folder"):
        ingest_quietly(annotations, tmp_path)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_nothing_usable_is_an_error_and_leaves_the_output_as_it_was(tmp_path, scheme):
    path = write_lines(tmp_path / "captions.jsonl", line("missing.mp4"), b"{")
    (tmp_path / "shards").mkdir()
    for name in ("shards", "new"):
        output = f"{scheme}{tmp_path}/{name}"
        with pytest.raises(InputError, match=r"2 skipped: line 2: not JSON.*missing.mp4: no such "):
            ingest_quietly(path, output)
        with pytest.raises(InputError, match="There is no file"):
            ingest_quietly(tmp_path / "nothing.jsonl", output)
    assert list((tmp_path / "shards").iterdir()) == [] and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0.0}, "fps must be positive, got 0.0"),
        ({"fps": float("nan")}, "fps must be positive"),
        ({"short_side": -1}, "short_side must be 0 or more"),
        ({"splits": (("train", -1.0),)}, "splits must be"),
        ({"splits": (("train", 0.0),)}, "splits must be"),
        ({"splits": (("a/b", 1.0),)}, "splits must be"),
        ({"splits": (("train", 1.0), ("train", 1.0))}, "splits must be"),
        ({"codec": "png"}, "codec must be one of jpeg, raw"),
        ({"vocab_size": 100}, "vocab_size must be 514 or more"),
        ({"name": "No Name"}, "name must be a lower case name"),
        ({"tokenizer": "/nowhere"}, "tokenizer: There is no tokenizer in /nowhere"),
    ],
)
def test_settings_that_cannot_work(annotations, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        ingest(annotations, tmp_path / "shards", IngestSettings(**change))
    assert not (tmp_path / "shards").exists()
