"""Tests of how the files of a data set are found, and that no name leads out of the folder."""

import os

import pytest

from mova_jax.data.annotations import InputError
from mova_jax.data.annotations.counts import count_lines, counts_of
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import Reading
from mova_jax.data.annotations.videos import VIDEO_EXTENSIONS, VideoFolder


@pytest.fixture
def folder(tmp_path):
    def add(*names):
        for name in names:
            (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / name).write_bytes(b"x")
        return tmp_path / "videos"

    return add


def test_a_file_is_found_by_id_name_or_path(folder):
    root = folder("a.mp4", "deep/er/B.MKV", "x.1.mp4", "x.2.mp4", "._a.mp4", "a.txt", "c.mov.mp4")
    videos = VideoFolder(root)
    wanted = {
        "a": "a.mp4",
        "a.mp4": "a.mp4",
        "a.avi": "a.mp4",  # was converted
        "B": "deep/er/B.MKV",
        "./deep//er/B.mp4": "deep/er/B.MKV",
        "x.2": "x.2.mp4",
        "c.mov": "c.mov.mp4",
    }
    found = {name: videos.find(name) for name in wanted}
    assert {name: file.inside for name, file in found.items()} == wanted
    assert all(file.path == root / file.inside and not file.others for file in found.values())
    assert videos.find("gone", "a").inside == "a.mp4"
    for name in ("x", "a.txt", "._a", "b", "er/B.MKV"):
        with pytest.raises(FileNotFoundError, match="no file of this name"):
            videos.find(name)


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
def test_usual_extensions_are_known(folder, extension):
    assert VideoFolder(folder(f"a{extension.upper()}")).find("a").inside == f"a{extension.upper()}"


def test_of_several_files_the_nearest_with_the_usual_extension_is_used(folder):
    found = VideoFolder(folder("z/a.mp4", "a.avi", "a.webm", "b/a.mp4")).find("a")
    assert (found.inside, found.others) == ("a.webm", 3)


@pytest.mark.parametrize("name", ["../secret", "x/../../secret.mp4", "/etc/passwd", "..", "", "."])
def test_names_that_lead_out_are_refused(folder, name):
    root = folder("a.mp4", "../secret.mp4")
    with pytest.raises(ValueError, match="leaves the videos folder"):
        VideoFolder(root).find(name)


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_links_that_lead_out_are_refused_and_others_followed(folder, tmp_path, scheme):
    root = folder("real.mp4", "deep/b.mp4", "../secret.mp4", "../outside/c.mp4")
    os.symlink(tmp_path / "secret.mp4", root / "out.mp4")
    os.symlink("../real.mp4", root / "deep" / "in.mp4")
    os.symlink("missing.mp4", root / "broken.mp4")
    os.symlink(tmp_path / "outside", root / "folder")
    os.symlink(root, root / "deep" / "loop")
    os.mkfifo(root / "pipe.mp4")
    os.symlink(root, tmp_path / "way")  # the folder itself may be a link
    videos = VideoFolder(f"{scheme}{tmp_path}/way")
    assert videos.find("in").inside == "deep/in.mp4"
    with pytest.raises(ValueError, match="a link that leads out of the videos folder"):
        videos.find("out")
    for name in ("broken", "c", "pipe", "folder/c.mp4"):
        with pytest.raises(FileNotFoundError):
            videos.find(name)


def test_a_folder_that_does_not_exist(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    for name in (tmp_path / "a.mp4", f"file://{tmp_path}/gone"):
        with pytest.raises(InputError, match="There is no folder"):
            VideoFolder(name)


def test_an_entry_that_leaves_the_folder_is_skipped_and_the_others_are_read(folder):
    intake = Intake(Dataset("pets", read=None, files=""), VideoFolder(folder("a.mp4")))
    for name in ("../a", "/a", "a", " a\0", "b"):
        intake.add(name, ["text"], split="val")
    intake.add("c", [("text", 1, 2), 3], files=("a",))
    intake.add("d", [" \0"], files=("a",))
    intake.add("e", [], alternatives=["only this"], files=("a",))
    reading = intake.reading()
    assert [item.id for item in reading.items] == ["a", "e"]
    assert [entry["reason"] for entry in reading.skipped] == [
        "the path '../a' leaves the videos folder",
        "the path '/a' leaves the videos folder",
        "the id was already used in validation",
        "no file of this name in the videos folder",
        "caption 1 must be a text, got 3",
        "the caption is empty",
    ]


# ----------------------------------------------------------------------------------------- counts


def test_counts_are_shown_for_splits_with_published_or_missing_videos():
    reading = Reading(
        source="pets",
        expected={"train": 10_009, "test": 4},
        named={"train": 10_009, "test": 3, "": 5, "extra": 1},
        found={"train": 9_980, "test": 3, "": 5},
        missing={"train": ["x"] * 29, "extra": ["y"]},
    )
    assert count_lines(counts_of(reading), "shards/missing.txt") == [
        "extra: 1 named, 0 found; 1 files missing, listed in shards/missing.txt",
        "test: 4 videos expected, 3 found; the annotations name 3",
        "train: 10,009 videos expected, 9,980 found; "
        "29 files missing, listed in shards/missing.txt",
    ]
    assert count_lines(counts_of(Reading()), "") == []
