"""Tests of repackaging: the same packets at the same times, in a container that browsers play."""

import fractions

import av
import numpy as np
import pytest

from mova_jax.data.ingest.remux import remux
from mova_jax.data.ingest.video_reader import DecodeError, decode_video
from tests.clips import numbered, numbers_of, write_sound, write_video

FRAMES, RATE = 40, 10
PLENTY = 2**30


def film(path, codec="libx264", sound="", **settings):
    """A film whose frames show their number, with B-frames, and sound where a codec is named."""
    settings = {"encoder": {"max_b_frames": 2}} | settings
    if not sound:
        return write_video(path, numbered(FRAMES), rate=RATE, codec=codec, **settings)
    silent = write_video(path.with_name("silent.mkv"), numbered(FRAMES), codec=codec, **settings)
    with av.open(str(silent)) as source, av.open(str(path), "w") as container:
        (picture,) = source.streams.video
        copy = container.add_stream_from_template(picture)
        spoken = container.add_stream(sound, rate=48000, layout="stereo")
        for packet in source.demux(picture):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
        for number in range(FRAMES * 48000 // RATE // 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp")
            silence.rate, silence.pts = 48000, number * 1024
            silence.time_base = fractions.Fraction(1, 48000)
            container.mux(spoken.encode(silence))
        container.mux(spoken.encode())
    return path


def codecs(path):
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in container.streams]


def packets(path):
    """The sizes of the pictures' packets: the same ones, not encoded again."""
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("h264.mkv", {}, ".mp4"),
        ("h264.avi", {"encoder": {"max_b_frames": 0}}, ".mp4"),
        ("h264.ts", {"format": "mpegts"}, ".mp4"),  # its clock starts later
        ("h264.flv", {}, ".mp4"),
        (
            "hevc.mkv",
            {"codec": "libx265", "encoder": {"options": {"x265-params": "log-level=0"}}},
            ".mp4",
        ),
        ("vp9.mkv", {"codec": "libvpx-vp9", "encoder": {}}, ".webm"),
    ],
)
def test_every_frame_is_shown_at_its_time(tmp_path, name, settings, kind):
    source = film(tmp_path / name, **settings)
    found = remux(source, tmp_path / "out", PLENTY)
    assert found == tmp_path / f"out{kind}"
    video, expected = (decode_video(path, RATE, 0) for path in (found, source))
    assert numbers_of(video.frames) == numbers_of(expected.frames) == list(range(FRAMES))
    assert video.duration == pytest.approx(FRAMES / RATE, abs=0.01) and video.warnings == ()
    if "mp4" in kind and "mkv" in name:  # others have other headers around a frame
        assert packets(found) == packets(source)


def test_a_clock_that_starts_late_starts_at_zero(tmp_path):
    source = write_video(
        tmp_path / "late.mkv", numbered(20), times=range(700, 720), codec="libx264"
    )
    with av.open(str(remux(source, tmp_path / "out", PLENTY))) as container:
        assert float(container.streams.video[0].start_time or 0) == 0
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("sound", "kept"), [("aac", ["h264", "aac"]), ("libopus", ["h264", "opus"]), ("ac3", ["h264"])]
)
def test_sound_comes_along_where_browsers_play_it(tmp_path, sound, kept):
    source = film(tmp_path / "spoken.mkv", sound=sound)
    found = remux(source, tmp_path / "out", PLENTY)
    assert codecs(found) == kept
    assert numbers_of(decode_video(found, RATE, 0).frames) == list(range(FRAMES))


def test_what_cannot_be_repackaged_leaves_nothing(tmp_path):
    source = film(tmp_path / "h264.mkv")
    (tmp_path / "text.mkv").write_text("no video")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nh264.mkv\n")
    out = tmp_path / "out" / "x"
    for path, message in [
        (film(tmp_path / "old.avi", "mpeg4"), "its codec mpeg4 would have to be encoded again"),
        (film(tmp_path / "b.avi"), "AVI does not say when frames"),
        (tmp_path / "text.mkv", "cannot be repackaged"),
        (tmp_path / "none.mkv", "no such file"),
        (tmp_path / "list.mkv", "other files|cannot be repackaged"),
    ]:
        with pytest.raises(DecodeError, match=message):
            remux(path, out, PLENTY)
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(DecodeError, match="no video stream"):
        remux(tmp_path / "sound.mp4", out, PLENTY)
    with pytest.raises(DecodeError, match=r"over 1,000 bytes"):
        remux(source, out, 1000)
    assert not out.parent.exists() or not list(out.parent.iterdir())
