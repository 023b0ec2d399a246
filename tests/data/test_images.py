"""Stored frames: JPEG and PPM there and back, resized frames, bytes that are no frame."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mova_jax.data.images import decode_frame, decode_image, encode_jpeg, encode_ppm


def _gradient(height, width):
    """An image whose red tells the row and whose green tells the column, both from 0 to 255."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    red, green = np.broadcast_arrays(rows[:, None], columns)
    return np.stack([red, green, np.full_like(red, 128)], -1).astype(np.uint8)


def test_decode_leaves_an_image_of_the_right_size_as_it_is():
    jpeg = simplejpeg.encode_jpeg(_gradient(32, 32), quality=90)
    out = np.zeros((32, 32, 3), np.uint8)
    decode_frame(jpeg, out)
    np.testing.assert_array_equal(out, simplejpeg.decode_jpeg(jpeg))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (64, 64), (16, 24)])
def test_decode_brings_the_short_side_to_size_and_keeps_the_centre(height, width):
    jpeg = simplejpeg.encode_jpeg(_gradient(height, width), quality=95, colorsubsampling="444")
    out = np.zeros((32, 32, 3), np.uint8)
    decode_frame(jpeg, out)
    side = min(height, width)
    for axis, extent, channel in ((0, height, 0), (1, width, 1)):
        kept = (extent - side) / 2 + (np.arange(32) + 0.5) * side / 32 - 0.5
        expected = kept.clip(0) * 255 / (extent - 1)
        got = out[..., channel].mean(1 - axis)
        np.testing.assert_allclose(got[2:-2], expected[2:-2], atol=5)


def test_decode_makes_three_channels_of_a_grey_image():
    grey = np.full((8, 8, 1), 77, np.uint8)
    out = np.zeros((8, 8, 3), np.uint8)
    decode_frame(simplejpeg.encode_jpeg(grey, colorspace="GRAY"), out)
    np.testing.assert_allclose(out, 77, atol=2)


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("keep", [0, 20, 300])
def test_decode_refuses_damaged_bytes(size, keep):
    jpeg = simplejpeg.encode_jpeg(_gradient(32, 32), quality=90)
    assert keep < len(jpeg)
    with pytest.raises(ValueError):
        decode_frame(jpeg[:keep], np.zeros((size, size, 3), np.uint8))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (96, 64), (16, 24)])
def test_raw_frames_are_those_of_a_jpeg_of_the_same_pixels(height, width):
    jpeg = simplejpeg.encode_jpeg(_gradient(height, width), quality=90)
    of_jpeg, of_raw = np.zeros((2, 32, 32, 3), np.uint8)
    decode_frame(jpeg, of_jpeg)
    decode_frame(encode_ppm(simplejpeg.decode_jpeg(jpeg)), of_raw)
    np.testing.assert_array_equal(of_raw, of_jpeg)


@pytest.mark.parametrize(
    "data",
    [
        b"P6",
        b"P6\n2 2\n255\n" + bytes(11),
        b"P6\n2 2\n255\n" + bytes(13),
        b"P6 2 2 255\n" + bytes(12),
        b"P6\n# made by hand\n2 2\n255\n" + bytes(12),
        b"P6\n2 2\n65535\n" + bytes(24),
        b"P6\n0 2\n255\n",
        b"P6\n99999999999 1\n255\n",
        b"P6\n-2 2\n255\n" + bytes(12),
        b"P6\r\n2 2\r\n255\r\n" + bytes(12),
    ],
)
def test_other_raw_frames_are_refused(data):
    with pytest.raises(ValueError, match=f"{len(data)} bytes are not a whole PPM"):
        decode_frame(data, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=f"{len(data)} bytes are not a whole PPM"):
        decode_image(data)


def test_a_raw_frame_comes_back_without_a_copy():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = encode_ppm(image[:, ::-1])
    again = decode_image(data)
    np.testing.assert_array_equal(again, image[:, ::-1])
    assert np.shares_memory(again, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), again)


def test_jpeg_there_and_back():
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, :20] = (200, 40, 40)
    again = decode_image(encode_jpeg(image))
    assert again.shape == image.shape
    assert np.abs(again.astype(int) - image)[:, 2:16].max() < 12


@pytest.mark.parametrize(
    "data", [b"", b"no image", encode_jpeg(np.zeros((9, 9, 3), np.uint8))[:99]]
)
def test_bytes_that_are_no_jpeg(data):
    with pytest.raises(ValueError, match=f"{len(data)} bytes are not a whole JPEG"):
        decode_image(data)


def test_a_small_file_that_claims_many_pixels_takes_no_memory_for_them():
    data = bytearray(simplejpeg.encode_jpeg(_gradient(16, 16)))
    place = data.find(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500: 12 GB
    for decode in (decode_image, lambda some: decode_frame(some, np.zeros((32, 32, 3), np.uint8))):
        with pytest.raises(ValueError, match="65500 x 65500 pixels are too many"):
            decode(bytes(data))
