"""Which stream is the film, pictures of tiles, and files that are named for what they are."""

import io

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from mova_jax.data.ingest import media_file
from mova_jax.data.ingest.remux import remux
from mova_jax.data.ingest.video_reader import DecodeError, decode_video
from tests.clips import flat_frames
from tests.tiled_pictures import tiled_picture


def _streams(path, *streams):
    """Writes a file of video streams (codec, disposition, levels), each of a frame a second."""
    with av.open(str(path), "w") as container:
        made = []
        for codec, disposition, levels in streams:
            stream = container.add_stream(codec, rate=1)
            stream.height, stream.width = (32, 48)
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append((stream, flat_frames(levels)))
        for stream, frames in made:
            for image in frames:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def _levels(path):
    return np.round(decode_video(path).frames.mean((1, 2, 3)), -1).tolist()


FILM = [80.0, 120.0, 200.0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    "thumbnail", [Disposition(0), Disposition.attached_pic, Disposition.timed_thumbnails]
)
def test_the_film_is_the_default_stream_and_no_thumbnail(tmp_path, name, thumbnail):
    first, film = ("mjpeg", thumbnail, [20]), ("mpeg4", Disposition.default, FILM)
    assert _levels(_streams(tmp_path / name, first, film)) == FILM


@pytest.mark.parametrize("flag", [Disposition(0), Disposition.default])
def test_of_equal_streams_the_one_with_more_frames_is_the_film(tmp_path, flag):
    """As players choose; a camera's preview has a few frames."""
    path = _streams(tmp_path / "a.mkv", ("mpeg4", flag, [20]), ("mpeg4", flag, FILM))
    with av.open(str(path)) as container:
        assert container.streams.best("video").index == 1  # FFmpeg is the reference
    assert _levels(path) == FILM


def test_the_film_is_repackaged_and_not_its_thumbnail(tmp_path):
    first, film = ("mjpeg", Disposition(0), [20]), ("libx264", Disposition.default, FILM)
    path = _streams(tmp_path / "a.mkv", first, film)
    assert _levels(remux(path, tmp_path / "b", most_bytes=10**6).path) == FILM


def test_a_cover_is_no_film(tmp_path):
    path = _streams(tmp_path / "a.mp4", ("mjpeg", Disposition.attached_pic, [20]))
    with pytest.raises(DecodeError, match="no video stream"):
        decode_video(path)


# ---------------------------------------------------------------------------------------- pictures

TILES = [20, 80, 140, 220, 60, 180]  # 3 rows of 2


@pytest.fixture(scope="module")
def tiles():
    return flat_frames(TILES, 64, 96)


@pytest.mark.parametrize("thumbnail", [False, True])
def test_an_avif_of_tiles_is_the_whole_picture(tmp_path, tiles, thumbnail):
    small = flat_frames([250], 64, 64)[0] if thumbnail else None
    (tmp_path / "a.avif").write_bytes(tiled_picture(tiles, 2, "libsvtav1", small))
    video = decode_video(tmp_path / "a.avif", fps=5.0, short_side=0)
    assert video.frames.shape == (1, 192, 192, 3) and not video.warnings
    found = video.frames[0].reshape(3, 64, 2, 96, 3).mean((1, 3, 4))
    np.testing.assert_allclose(found, np.reshape(TILES, (3, 2)), atol=3)
    assert decode_video(tmp_path / "a.avif", short_side=48).frames.shape == (1, 48, 48, 3)


def test_a_picture_of_tiles_has_no_more_pixels_than_others(tmp_path, tiles, monkeypatch):
    (tmp_path / "a.avif").write_bytes(tiled_picture(tiles, 2, "libsvtav1"))
    monkeypatch.setattr(media_file, "MAX_PIXELS", 192 * 192 - 1)
    with pytest.raises(DecodeError, match="192 x 192 pixels are more than 36,863"):
        decode_video(tmp_path / "a.avif")


@pytest.mark.parametrize("thumbnail", [False, True])
def test_a_heic_of_tiles_is_refused_and_never_one_of_its_tiles(tmp_path, tiles, thumbnail):
    small = flat_frames([250], 64, 64)[0] if thumbnail else None
    (tmp_path / "a.heic").write_bytes(tiled_picture(tiles, 2, "libx265", small))
    with pytest.raises(DecodeError, match=r"a picture of 6 tiles, .*: save it as JPEG or PNG"):
        decode_video(tmp_path / "a.heic")


def test_a_plain_avif_is_one_frame_and_an_animated_one_a_video(tmp_path):
    first, *others = (Image.fromarray(image) for image in flat_frames(FILM, 64, 64))
    first.save(tmp_path / "one.avif")
    first.save(tmp_path / "all.avif", save_all=True, append_images=others, duration=1000)
    assert len(decode_video(tmp_path / "one.avif", fps=5.0).frames) == 1
    assert _levels(tmp_path / "all.avif") == FILM


def _animated_webp():
    first, *others = (Image.fromarray(image) for image in flat_frames(FILM))
    first.save(data := io.BytesIO(), "WEBP", save_all=True, append_images=others)
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_animated_webp(), "an animated WebP, which FFmpeg does not decode"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
    ],
)
def test_files_are_named_for_what_they_are(tmp_path, data, message):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(DecodeError, match=message):
        decode_video(tmp_path / "a.mp4")
