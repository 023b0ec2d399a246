"""Tests of repackaging: the same packets at the same times, in a container that browsers play."""

import av
import pytest

from mova_jax.data.ingest import remux as remux_lib
from mova_jax.data.ingest.remux import remux
from mova_jax.data.ingest.video_reader import DecodeError, decode_video
from tests.clips import film, numbered, numbers_of, write_sound, write_video

FRAMES, RATE = 40, 10  # of `film`
PLENTY = 2**30


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
    found = remux(source, tmp_path / "out", PLENTY).path
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
    with av.open(str(remux(source, tmp_path / "out", PLENTY).path)) as container:
        assert float(container.streams.video[0].start_time or 0) == 0
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("name", "settings", "sound", "kept"),
    [
        ("spoken.mkv", {}, "aac", ["h264", "aac"]),
        ("spoken.mkv", {}, "libopus", ["h264", "opus"]),
        ("spoken.mkv", {}, "ac3", ["h264", "aac"]),
        ("spoken.mkv", {}, "pcm_f32le", ["h264", "aac"]),
        ("late.ts", {}, "mp2", ["h264", "aac"]),  # its clock starts later
        ("spoken.mkv", {"codec": "libvpx-vp9", "encoder": {}}, "aac", ["vp9", "opus"]),
    ],
)
def test_sound_comes_along_encoded_again_where_it_must_be(tmp_path, name, settings, sound, kept):
    source = film(tmp_path / name, sound=sound, **settings)
    found, silence = remux(source, tmp_path / "out", PLENTY)
    assert codecs(found) == kept and not silence
    shown = numbers_of(decode_video(found, RATE, 0).frames)
    # The sound of the .ts starts a frame before its picture, which is then shown for longer.
    assert shown == [*([0] if name == "late.ts" else []), *range(FRAMES)]
    with av.open(str(found)) as container:
        frames = list(container.decode(audio=0))
        assert frames[0].time == pytest.approx(0, abs=0.1)
        assert frames[-1].time == pytest.approx(FRAMES / RATE, abs=0.1)
        assert container.duration / 1e6 == pytest.approx(FRAMES / RATE, abs=0.1)


def test_sound_that_takes_long_or_cannot_be_decoded_is_left_out_and_said(tmp_path, monkeypatch):
    source = film(tmp_path / "spoken.mkv", sound="ac3")
    monkeypatch.setattr(remux_lib, "MOST_SOUND", 3)
    found, silence = remux(source, tmp_path / "long", PLENTY)
    assert codecs(found) == ["h264"] and "ac3" in silence and "would have to be encoded" in silence
    monkeypatch.setattr(remux_lib, "MOST_SOUND", 3600)
    damaged = bytearray(source.read_bytes())
    for place in range(len(damaged) - 1):
        if damaged[place : place + 2] == b"\x0b\x77":  # a frame of AC-3 begins
            damaged[place : place + 20] = bytes(20)
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    found, silence = remux(tmp_path / "damaged.mkv", tmp_path / "damaged", PLENTY)
    assert codecs(found) == ["h264"] and silence == "its sound (ac3) cannot be decoded"
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["damaged.mp4", "long.mp4"]


def test_safari_s_tag_of_hevc(tmp_path):
    settings = {"codec": "libx265", "encoder": {"options": {"x265-params": "log-level=0"}}}
    for name, more in (("hevc.mkv", {}), ("hevc.ts", {"format": "mpegts"})):
        found = remux(film(tmp_path / name, **settings, **more), tmp_path / name, PLENTY).path
        with av.open(str(found)) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("b_frames", [1, 2, 3])
def test_an_avi_is_shown_in_the_order_that_its_decoder_finds(tmp_path, b_frames, monkeypatch):
    """AVI has a time of decoding alone; in it, frames that are shown later come first."""
    source = film(tmp_path / "b.avi", encoder={"max_b_frames": b_frames})
    found = remux(source, tmp_path / "out", PLENTY).path
    video = decode_video(found, RATE, 0)
    assert numbers_of(video.frames) == list(range(FRAMES)) and not video.warnings
    with av.open(str(found)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx([number / RATE for number in range(FRAMES)], abs=0.01)
    monkeypatch.setattr(remux_lib, "MOST_FRAMES", FRAMES - 1)
    with pytest.raises(DecodeError, match="an AVI of over 39 frames"):
        remux(source, tmp_path / "long", PLENTY)


def test_what_cannot_be_repackaged_leaves_nothing(tmp_path):
    source = film(tmp_path / "h264.mkv")
    (tmp_path / "text.mkv").write_text("no video")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nh264.mkv\n")
    out = tmp_path / "out" / "x"
    for path, message in [
        (film(tmp_path / "old.avi", "mpeg4"), "its codec mpeg4 would have to be encoded again"),
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
