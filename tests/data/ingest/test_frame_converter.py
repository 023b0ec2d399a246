"""Tests of converted frames: colours, sizes, pixel aspects and orientation."""

import fractions
import struct

import numpy as np
import pytest
from PIL import Image

from mova_jax.data.ingest.video_reader import decode_video
from tests.clips import write_video

COLOURS = [(230, 20, 20), (20, 200, 20), (20, 20, 230), (240, 240, 240)]
COLOURS += [(10, 10, 10), (128, 128, 128), (200, 200, 20), (20, 200, 200)]
BARS = np.kron(np.array(COLOURS, np.uint8).reshape(2, 4, 3), np.ones((32, 32, 1), np.uint8))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("8bit.mp4", "libx264", "yuv420p"),
        ("10bit.mp4", "libx264", "yuv420p10le"),
        ("12bit.mp4", "libx265", "yuv420p12le"),
        ("422.mov", "prores", "yuv422p10le"),
        ("16bit.mkv", "ffv1", "gbrp16le"),
        ("full_range.avi", "mjpeg", "yuvj420p"),
        ("full_range.mp4", "libx264", "yuvj420p"),
        ("alpha.mov", "qtrle", "argb"),
        ("alpha.webm", "libvpx-vp9", "yuva420p"),
        ("palette.gif", "gif", "rgb8"),
        ("alpha.png", "png", "rgba"),
        ("a.webp", "libwebp", "yuv420p"),
    ],
)
def test_decoded_colours_equal_the_encoded_ones(tmp_path, name, codec, pix_fmt):
    still = name.endswith((".png", ".webp"))
    path = write_video(tmp_path / name, [BARS] * (1 if still else 3), codec=codec, pix_fmt=pix_fmt)
    video = decode_video(path, short_side=0)
    assert video.frames.shape == (1, 64, 128, 3) and video.warnings == ()
    # Away from the edges, which half the resolution of the colours blurs.
    middles = video.frames[0].reshape(2, 32, 4, 32, 3)[:, 10:22, :, 10:22].mean((1, 3))
    assert np.abs(middles.reshape(8, 3) - COLOURS).max() < 6


def test_gray_is_gray(tmp_path):
    path = write_video(tmp_path / "a.mkv", [BARS], codec="ffv1", pix_fmt="gray16le")
    frame = decode_video(path, short_side=0).frames[0].astype(int)
    assert np.ptp(frame, axis=2).max() == 0 and abs(frame[16, 112] - 240).max() < 4


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((33, 47), 0, (33, 47)),
        ((33, 47), 16, (16, 23)),
        ((47, 33), 16, (23, 16)),
        ((1, 1), 16, (1, 1)),
        ((2, 300), 1, (1, 150)),
    ],
)
def test_odd_sizes(tmp_path, size, short_side, expected):
    image = np.full((*size, 3), 80, np.uint8)
    path = write_video(tmp_path / "a.mkv", [image] * 2, codec="ffv1")
    frame = decode_video(path, short_side=short_side).frames[0]
    assert frame.shape == (*expected, 3) and np.abs(frame.astype(int) - 80).max() < 4


# The pixel at (x, y) moves to (a x + c y, b x + d y); and the same turn or mirror in NumPy.
TURNS = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),  # clockwise
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,  # front cameras
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


def _turned(path, matrix):
    """Gives an MP4 another display matrix, of which a b c d are 16.16 fixed point."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"tkhd") + 4 + 4 + 36  # version and flags, times and volumes
    a, b, c, d = (int(value * 65536) for value in matrix)
    data[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("aspect", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])  # libx264 adds side data of its own
@pytest.mark.parametrize("matrix", TURNS)
def test_pictures_are_upright_in_square_pixels(tmp_path, matrix, codec, aspect):
    """The aspect is that of stored pixels, so the width that is scaled is the stored one."""
    encoder = {"sample_aspect_ratio": fractions.Fraction(*aspect)}
    path = write_video(tmp_path / "a.mp4", [BARS] * 2, codec=codec, encoder=encoder)
    frame = decode_video(_turned(path, matrix), short_side=0).frames[0]
    square = np.asarray(Image.fromarray(BARS).resize((128 * aspect[0] // aspect[1], 64)))
    expected = TURNS[matrix](square)
    assert frame.shape == expected.shape
    assert np.median(np.abs(frame.astype(int) - expected)) < 4
    assert np.abs(frame.astype(int) - expected).mean() < 10
    small = decode_video(path, short_side=16).frames[0]
    assert min(small.shape[:2]) == 16
    assert small.shape[0] / small.shape[1] == pytest.approx(frame.shape[0] / frame.shape[1])


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_are_upright_by_their_exif(tmp_path, number, suffix):
    exif = Image.Exif()
    exif[0x112] = number
    Image.fromarray(BARS).save(tmp_path / f"a.{suffix}", exif=exif)
    turn = [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1)]
    turn += [(0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)]
    expected = TURNS[turn[number - 1]](BARS)
    frame = decode_video(tmp_path / f"a.{suffix}", short_side=0).frames[0]
    assert frame.shape == expected.shape
    assert np.median(np.abs(frame.astype(int) - expected)) < 6


def test_an_impossible_pixel_aspect_is_ignored(tmp_path):
    encoder = {"sample_aspect_ratio": fractions.Fraction(60_000, 1)}
    path = write_video(tmp_path / "a.mp4", [BARS], codec="libx264", encoder=encoder)
    assert decode_video(path, short_side=0).frames.shape == (1, 64, 128, 3)


def test_a_size_that_changes_is_a_warning(tmp_path):
    path, parts = tmp_path / "a.ts", []
    for size in ((64, 128), (96, 96)):
        image = np.full((*size, 3), size[0], np.uint8)
        write_video(path, [image] * 20, codec="libx264", format="mpegts")
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    video = decode_video(path, fps=1, short_side=0)
    assert video.frames.shape == (4, 64, 128, 3)
    assert np.abs(video.frames.mean((1, 2, 3)) - [64, 64, 96, 96]).max() < 4
    assert "its pictures change their size, and have that of the first here" in video.warnings


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_a_high_dynamic_range_is_a_warning(tmp_path, transfer, name):
    # With B-frames x265 never sets the decoding time of a single picture: the muxer may refuse it.
    encoder = {"color_trc": transfer, "max_b_frames": 0}
    path = write_video(
        tmp_path / "a.mp4", [BARS], codec="libx265", pix_fmt="yuv420p10le", encoder=encoder
    )
    assert decode_video(path).warnings == (
        f"its colours are HDR ({name}) and were not brought to the usual range",
    )
