"""Tests of decoding at a steady rate, and of files that are not as they should be."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mova_jax.data.ingest import media_file, video_reader
from mova_jax.data.ingest.video_reader import DecodeError, VideoReader, decode_video
from tests.clips import ramp, write_video


def _levels(video):
    """Which frame of the ramp each decoded frame is."""
    return np.round(video.frames.mean((1, 2, 3)) / 8).astype(int).tolist()


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """3 s at 10 frames a second."""
    return write_video(tmp_path_factory.mktemp("videos") / "steady.mp4", ramp(30))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (1.0, [0, 10, 20]),
        (2.0, [0, 5, 10, 15, 20, 25]),
        (10.0, list(range(30))),
        (20.0, [i // 2 for i in range(60)]),
        (0.1, [0]),
    ],
)
def test_frames_are_those_on_the_screen_at_that_time(steady, fps, expected):
    video = decode_video(steady, fps=fps)
    assert _levels(video) == expected
    np.testing.assert_allclose(video.timestamps, np.arange(len(expected)) / fps, atol=1e-6)
    assert video.timestamps.dtype == np.float32
    assert video.frames.dtype == np.uint8 and video.frames.shape[1:] == (32, 48, 3)
    assert video.duration == pytest.approx(3.0, abs=0.02)
    assert video.warnings == ()


def test_time_stamps_decide_and_not_the_rate_in_the_header(tmp_path):
    # A frame is shown until the next: 0 at 0 s, 1 at 0.1, 2 at 1.5, 3 at 1.6, 4 at 4.0 s.
    path = write_video(tmp_path / "variable.mp4", ramp(5), times=[0, 1, 15, 16, 40])
    assert _levels(decode_video(path, fps=2.0))[:9] == [0, 1, 1, 2, 3, 3, 3, 3, 4]
    assert decode_video(path).duration == pytest.approx(4.1, abs=0.11)


def test_a_video_whose_clock_starts_late_starts_at_zero(tmp_path):
    path = write_video(tmp_path / "late.mkv", ramp(20), times=range(70, 90))
    video = decode_video(path, fps=2.0)
    assert _levels(video) == [0, 5, 10, 15]
    assert video.duration == pytest.approx(2.0, abs=0.05)


def test_a_cut_counts_from_its_own_start(steady):
    video = decode_video(steady, fps=2.0, start=0.7, end=2.0)
    assert _levels(video) == [7, 12, 17]
    np.testing.assert_allclose(video.timestamps, [0, 0.5, 1.0])
    assert video.duration == pytest.approx(1.3, abs=0.01)
    for late in (3.0, 9.0):
        with pytest.raises(DecodeError, match=rf"ends before the cut starts \({late} s"):
            decode_video(steady, start=late)


def test_a_repeated_frame_is_the_same_array(steady):
    frames = list(VideoReader(steady, 20.0, 0))
    assert frames[0] is frames[1] and frames[1] is not frames[2]


def test_titles_need_not_be_utf8(tmp_path):
    path = write_video(tmp_path / "a.mp4", ramp(10))
    path.write_bytes(path.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert _levels(decode_video(path, fps=5.0)) == [0, 2, 4, 6, 8]


class _Packet:
    def __init__(self, *frames):
        self._frames = frames

    def decode(self):
        return self._frames


def test_a_stream_that_is_not_in_the_header_loses_no_frame():
    """PyAV knows the streams of the header only, and then ends; FLV can have more."""

    def first():
        yield _Packet(1, 2)
        raise IndexError("list index out of range")

    parts = [first(), iter([_Packet(3)])]
    container = SimpleNamespace(demux=lambda stream: parts.pop(0))
    assert list(video_reader._decoded(container, None)) == [1, 2, 3]


def test_broken_time_stamps_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(video_reader, "MAX_FRAMES", 50)
    path = write_video(tmp_path / "jump.mp4", ramp(3), times=[0, 1, 100_000])
    with pytest.raises(DecodeError, match="more than 50 frames"):
        decode_video(path, fps=1.0)


@pytest.mark.parametrize(
    "arguments", [{"fps": 0}, {"fps": np.nan}, {"short_side": -1}, {"start": 2.0, "end": 1.0}]
)
def test_invalid_arguments(steady, arguments):
    with pytest.raises(ValueError):
        decode_video(steady, **arguments)


def test_a_playlist_is_refused(tmp_path):
    """It could name files outside of the folder."""
    write_video(tmp_path / "secret.ts", ramp(50), codec="mpeg2video", format="mpegts", rate=25)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n../secret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(DecodeError, match="a list of other files"):
        list(VideoReader(folder / "list.m3u8", fps=1, short_side=0))


def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(media_file, "MAX_PIXELS", 40_000)
    for name, side, fits in (("a.png", 90, True), ("b.png", 300, False), ("c.jpg", 300, False)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
        if fits:
            assert decode_video(tmp_path / name).frames.shape == (1, side, side, 3)
        else:
            with pytest.raises(DecodeError, match="300 x 300 pixels are too many to decode"):
                decode_video(tmp_path / name)
    large = write_video(tmp_path / "d.mp4", ramp(3)[:1] * 3, codec="mpeg4")
    monkeypatch.setattr(media_file, "MAX_PIXELS", 1000)
    with pytest.raises(DecodeError):
        decode_video(large)
