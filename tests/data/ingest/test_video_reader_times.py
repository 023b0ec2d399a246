"""Tests of the times of frames: the frame that a player shows at a time, in any container.

Frames show their own number, so the expected frames are counted and not decoded.
"""

import struct

import av
import numpy as np
import pytest

from mova_jax.data.ingest.video_reader import decode_video
from tests.clips import numbered, numbers_of, write_video

RATE, FRAMES, GROUP = 10, 48, 12  # frames a second, frames, frames from key frame to key frame

# Names of the encoder's settings, and what keeps key frames where they are expected.
CLOSED = {"gop_size": GROUP, "max_b_frames": 3}
X264 = "scenecut=0:b-adapt=0"
CONTAINERS = {
    "h264.mp4": {"codec": "libx264", "encoder": CLOSED | {"options": {"x264-params": X264}}},
    "open.mp4": {  # key frames that earlier frames, shown before them, refer to
        "codec": "libx264",
        "encoder": CLOSED | {"options": {"x264-params": f"{X264}:open-gop=1"}},
    },
    "h265.mp4": {
        "codec": "libx265",
        "encoder": CLOSED | {"options": {"x265-params": "log-level=0"}},
    },
    "mpeg4.mp4": {"encoder": CLOSED},
    "mpeg4.avi": {"encoder": CLOSED},
    "h264.avi": {"codec": "libx264", "encoder": CLOSED},
    "h264.mkv": {"codec": "libx264", "encoder": CLOSED},
    "h264.ts": {"codec": "libx264", "format": "mpegts", "encoder": CLOSED},
    "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25, "encoder": CLOSED},
    "h264.flv": {"codec": "libx264", "encoder": CLOSED},
    "vp9.webm": {"codec": "libvpx-vp9", "encoder": {"gop_size": GROUP}},
}


def numbers(path, fps=RATE, **cut):
    """Which frames are shown at 0, 1/fps ... seconds."""
    return numbers_of(decode_video(path, fps=fps, short_side=0, **cut).frames)


@pytest.fixture(scope="module", params=CONTAINERS)
def film(request, tmp_path_factory):
    """A film in one of the containers, and its frames a second."""
    settings = {"rate": RATE, **CONTAINERS[request.param]}
    path = tmp_path_factory.mktemp("films") / request.param
    return write_video(path, numbered(FRAMES), **settings), settings["rate"]


def test_every_frame_is_shown_in_its_turn(film):
    path, rate = film
    video = decode_video(path, fps=rate, short_side=0)
    assert numbers_of(video.frames) == list(range(FRAMES))
    assert video.duration == pytest.approx(FRAMES / rate, abs=0.002)
    assert video.warnings == ()


@pytest.mark.parametrize("first", [1, 9, 11, 12, 13, 22, 24, 35, 47])
def test_a_cut_has_the_frames_of_the_whole(film, first):
    """At key frames, right before and after them, and between them."""
    path, rate = film
    for start in (first / rate, (first + 0.4) / rate):
        shown = numbers(path, rate, start=start, end=start + 4 / rate)
        assert shown == list(range(first, min(first + 4, FRAMES)))[: len(shown)]
        assert len(shown) == min(4, FRAMES - first)


def test_a_cut_can_be_wider_than_the_film(film):
    path, rate = film
    assert numbers(path, rate, start=2 / rate, end=99) == list(range(2, FRAMES))


def test_a_burst_and_a_frame_that_is_shown_for_long(tmp_path):
    times = [0, 1, 2, 3, 400, 401, 402, 1000]  # milliseconds
    path = write_video(tmp_path / "burst.mkv", numbered(8), times, rate=1000, codec="libx264")
    assert numbers(path, 10)[:11] == [0, 3, 3, 3, 4, 6, 6, 6, 6, 6, 7]
    assert numbers(path, 1000, end=0.005) == [0, 1, 2, 3, 3]
    assert numbers(path, 5, start=0.3, end=1.0) == [3, 6, 6, 6]


@pytest.mark.parametrize(("rate", "fps"), [(30, 15), (30, 10), (24, 12), (60, 30)])
def test_milliseconds_of_a_container_do_not_move_frames(tmp_path, rate, fps):
    path = write_video(tmp_path / "a.mkv", numbered(90), rate=rate)
    assert numbers(path, fps) == list(range(0, 90, rate // fps))


def test_an_edit_list_cuts_the_beginning_off(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(30), codec="libx264", encoder=CLOSED)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # version, flags and number of entries: of one, here
    length, begin, *_ = struct.unpack(">iiI", data[at : at + 12])
    timescale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    data[at : at + 8] = struct.pack(">ii", length, begin + int(0.7 * timescale))
    (tmp_path / "b.mp4").write_bytes(data)
    assert numbers(path)[:3] == [0, 1, 2]
    assert numbers(tmp_path / "b.mp4") == list(range(7, 30))
    assert numbers(tmp_path / "b.mp4", start=1.0, end=1.3) == [17, 18, 19]


def _with_sound(path, frames, video_start, sound_start, seconds=4):
    """Writes H.264 with `seconds` of sound; both with their own start."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for i in range(int(seconds * 8000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, 1024 * i + int(sound_start * 8000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i + int(video_start * RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_clock_starts_with_the_first_of_sound_and_picture(tmp_path, name):
    """A player shows the first frame, or nothing, until the picture starts."""
    path = _with_sound(tmp_path / name, numbered(20), video_start=1.0, sound_start=0.0)
    late = "its picture starts 1.0 s after its sound; the first frame stands until then"
    assert decode_video(path).warnings == (late,)
    assert numbers(path, 2) == [0, 0, 0, 5, 10, 15]
    assert numbers(path, 2, start=1.1, end=2.5) == [1, 6, 11]


def test_sound_that_goes_on_and_starts_later_changes_nothing(tmp_path):
    path = _with_sound(tmp_path / "a.mp4", numbered(20), video_start=0.0, sound_start=0.5)
    video = decode_video(path, fps=RATE, short_side=0)
    assert numbers_of(video.frames) == list(range(20))
    assert video.duration == pytest.approx(2.0, abs=0.01)


def test_concatenated_recordings_follow_each_other(tmp_path):
    """The clock of each starts again; no frame of the later ones is lost."""
    path = write_video(tmp_path / "a.ts", numbered(30), codec="libx264", format="mpegts")
    (tmp_path / "twice.ts").write_bytes(path.read_bytes() * 2)
    video = decode_video(tmp_path / "twice.ts", fps=RATE, short_side=0)
    assert numbers_of(video.frames) == [*range(30)] * 2
    assert video.warnings == ("its clock jumps back 1 times; the parts follow each other",)


@pytest.mark.parametrize(
    ("name", "rate"), [("a.mp4", 1), ("a.mp4", 1000), ("a.mkv", 1), ("a.mkv", 1000), ("a.gif", 10)]
)
def test_one_frame(tmp_path, name, rate):
    how = {"codec": "gif", "pix_fmt": "rgb8"} if name == "a.gif" else {}
    video = decode_video(write_video(tmp_path / name, numbered(4)[3:], rate=rate, **how))
    assert numbers_of(video.frames) == [3]
    assert video.timestamps.tolist() == [0.0] and 0 < video.duration <= 1.01
