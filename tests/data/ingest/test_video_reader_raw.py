"""Tests of frames that are stored as they are."""

import io

import numpy as np
import pytest
from PIL import Image

from mova_jax.data.ingest.video_reader import DecodeError, decode_image
from mova_jax.data.inspect.checks import frame_fault
from mova_jax.data.inspect.contact_sheet import Section, Strip, draw_sheet, frame_box
from mova_jax.data.ppm import encode_ppm


def test_a_raw_frame_comes_back_without_a_copy():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = encode_ppm(image[:, ::-1])
    again = decode_image(data)
    np.testing.assert_array_equal(again, image[:, ::-1])
    assert np.shares_memory(again, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), again)


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n2 1\n255\n12345",
        b"P6\n2 1\n255\n1234567",
        b"P6\n0 1\n255\n",
        b"P6\n99999999999 1\n255\n",
        b"P6\n2 1\n65535\n" + bytes(12),
        b"P6",
    ],
)
def test_bytes_that_are_no_raw_frame(data):
    with pytest.raises(DecodeError, match=f"{len(data)} bytes are not a whole PPM"):
        decode_image(data)


def test_raw_frames_are_inspected():
    data = encode_ppm(np.zeros((5, 7, 3), np.uint8))
    assert frame_fault(data, (5, 7)) == ""
    assert frame_fault(data, (7, 5)) == "is 7 x 5 pixels, its record says 5 x 7"
    assert "not a whole PPM of 20 bytes" in frame_fault(data[:20], (5, 7))
    colour = encode_ppm(np.full((90, 160, 3), (200, 30, 10), np.uint8))
    strip = Strip("a", "", "A cat.", (90, 160), ((0.0, colour),))
    sheet = draw_sheet("clips", "", [Section("train", [strip])])
    left, upper, right, lower = frame_box(76 + 58, 0)
    assert sheet.getpixel(((left + right) // 2, (upper + lower) // 2)) == (200, 30, 10)
