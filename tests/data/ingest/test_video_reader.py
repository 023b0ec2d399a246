"""Tests of decoding: the right frame at the right time, upright, or the reason why not."""

import struct
from types import SimpleNamespace

import av
import numpy as np
import pytest

from mova_jax.data.images import encode_jpeg
from mova_jax.data.ingest import video_reader
from mova_jax.data.ingest.video_reader import DecodeError, VideoReader, decode_video


def _levels(video):
    """Which frame of the ramp each decoded frame is."""
    return np.round(video.frames.mean((1, 2, 3)) / 8).astype(int).tolist()


@pytest.fixture(scope="module")
def steady(tmp_path_factory, write_video, ramp):
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
def test_frames_are_those_on_the_screen_at_a_steady_rate(steady, fps, expected):
    video = decode_video(steady, fps=fps)
    assert _levels(video) == expected
    np.testing.assert_allclose(video.timestamps, np.arange(len(expected)) / fps, atol=1e-6)
    assert video.timestamps.dtype == np.float32
    assert video.frames.dtype == np.uint8 and video.frames.shape[1:] == (32, 48, 3)
    assert video.duration == pytest.approx(3.0, abs=0.02)
    assert video.warnings == ()


def test_time_stamps_count_and_not_the_rate_in_the_header(tmp_path, write_video, ramp):
    # A frame is shown until the next: 0 at 0 s, 1 at 0.1, 2 at 1.5, 3 at 1.6, 4 at 4.0 s.
    path = write_video(tmp_path / "variable.mp4", ramp(5), times=[0, 1, 15, 16, 40])
    assert _levels(decode_video(path, fps=2.0))[:9] == [0, 1, 1, 2, 3, 3, 3, 3, 4]
    assert decode_video(path).duration == pytest.approx(4.1, abs=0.11)


def test_a_video_whose_clock_starts_late_starts_at_zero(tmp_path, write_video, ramp):
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


def test_the_short_side_shrinks_and_never_grows(steady):
    assert decode_video(steady, short_side=16).frames.shape[1:] == (16, 24, 3)
    assert decode_video(steady, short_side=500).frames.shape[1:] == (32, 48, 3)
    assert decode_video(steady, short_side=0).frames.shape[1:] == (32, 48, 3)


def _turned(path, target, matrix):
    """Copies an MP4 with another display matrix, of which a b c d are 16.16 fixed point."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"tkhd") + 4 + 4 + 36  # version and flags, times and volumes
    a, b, c, d = (int(value * 65536) for value in matrix)
    data[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, -1)),  # a quarter clockwise: what was on the left is on top
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),
    ],
)
def test_turned_videos_are_upright(tmp_path, write_video, matrix, corner):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :16] = 255  # white in the top left corner
    path = write_video(tmp_path / "a.mp4", [image] * 5)
    frame = decode_video(_turned(path, tmp_path / "b.mp4", matrix)).frames[0]
    assert frame.shape == ((32, 48, 3) if matrix[0] else (48, 32, 3))
    rows, columns = (slice(1, 8) if i == 0 else slice(-8, -1) for i in corner)
    assert frame[rows, columns].min() > 200
    assert frame.mean() < 100


def test_a_repeated_frame_is_the_same_array(steady):
    frames = list(VideoReader(steady, 20.0, 0))
    assert frames[0] is frames[1] and frames[1] is not frames[2]


def test_an_image_is_a_video_of_one_frame(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(np.full((32, 48, 3), 80, np.uint8)))
    video = decode_video(tmp_path / "a.jpg")
    assert _levels(video) == [10]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, write_video, ramp):
    import av

    folder = tmp_path_factory.mktemp("damaged")
    whole = write_video(folder / "whole.mp4", ramp(30)).read_bytes()
    (folder / "index_lost.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "index_cut.mp4").write_bytes(whole[:-200])
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 100)
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return folder


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing.mp4", "no such file"),
        (".", "no such file"),
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "not a video that can be decoded"),
        ("index_lost.mp4", r"not a video that can be decoded \(its end is missing\)"),
        ("index_cut.mp4", r"not a video that can be decoded \(its end is missing\)"),
        ("zeros.mp4", r"not a video that can be decoded \(Invalid data"),
        ("audio.mp4", "no video stream"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason(damaged, file, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_video(damaged / file)


def test_a_truncated_video_gives_what_is_there_and_a_warning(tmp_path, write_video):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (32, 48, 3), np.uint8) for _ in range(40)]
    whole = write_video(tmp_path / "whole.mp4", noise, movflags="faststart").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    video = decode_video(tmp_path / "half.mp4", fps=2.0)
    assert 1 <= len(video.frames) <= 6
    assert any("of the 4.0 s it claims were decoded" in warning for warning in video.warnings)


def test_titles_that_are_not_utf8_cost_nothing(tmp_path, write_video, ramp):
    path = write_video(tmp_path / "a.mp4", ramp(10))
    path.write_bytes(path.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert _levels(decode_video(path, fps=5.0)) == [0, 2, 4, 6, 8]


class _Packet:
    def __init__(self, *frames):
        self._frames = frames

    def decode(self):
        return self._frames


def test_a_stream_that_appears_on_the_way_costs_nothing():
    """PyAV knows the streams of the header only, and then ends; FLV can have more."""

    def first():
        yield _Packet(1, 2)
        raise IndexError("list index out of range")

    parts = [first(), iter([_Packet(3)])]
    container = SimpleNamespace(demux=lambda stream: parts.pop(0))
    assert list(video_reader._decoded(container, None)) == [1, 2, 3]


def test_broken_time_stamps_do_not_fill_the_memory(tmp_path, write_video, ramp, monkeypatch):
    monkeypatch.setattr(video_reader, "MAX_FRAMES", 50)
    path = write_video(tmp_path / "jump.mp4", ramp(3), times=[0, 1, 100_000])
    with pytest.raises(DecodeError, match="more than 50 frames"):
        decode_video(path, fps=1.0)


@pytest.mark.parametrize(
    "arguments", [{"fps": 0}, {"fps": np.nan}, {"short_side": -1}, {"start": 2.0, "end": 1.0}]
)
def test_arguments_that_make_no_sense(steady, arguments):
    with pytest.raises(ValueError):
        decode_video(steady, **arguments)


def test_a_playlist_is_no_video_whatever_it_names(tmp_path):
    """It could name files outside of the folder."""
    with av.open(str(tmp_path / "secret.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(50):
            image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n../secret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(video_reader.DecodeError, match="a list of other files"):
        list(video_reader.VideoReader(folder / "list.m3u8", fps=1, short_side=0))
