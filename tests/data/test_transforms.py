"""Tests of what happens to one record: frames, captions, token padding, decoding."""

import collections
import dataclasses

import numpy as np
import pytest
import simplejpeg

from mova_jax.data import transforms
from mova_jax.data.shards import Caption, VideoRecord


def _record(captions=("A dog runs.", "It stops."), alternatives=()):
    return VideoRecord(
        id="r",
        frames=(b"",),
        height=8,
        width=8,
        timestamps=np.zeros(1, np.float32),
        duration=1.0,
        captions=tuple(Caption(text) for text in captions),
        alternatives=tuple(alternatives),
    )


def _gradient(height, width):
    """An image whose red tells the row and whose green tells the column, both from 0 to 255."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    red, green = np.broadcast_arrays(rows[:, None], columns)
    return np.stack([red, green, np.full_like(red, 128)], -1).astype(np.uint8)


@pytest.mark.parametrize(("available", "frames"), [(48, 12), (17, 12), (13, 12), (100, 1)])
def test_frames_are_one_from_each_equal_segment(available, frames):
    edges = [i * available // frames for i in range(frames + 1)]
    even = transforms.sample_frame_indices(available, frames)
    samples = [even] + [
        transforms.sample_frame_indices(available, frames, np.random.default_rng(seed))
        for seed in range(20)
    ]
    for picked in samples:
        assert len(picked) == frames
        for index, low, high in zip(picked, edges[:-1], edges[1:], strict=True):
            assert low <= index < high
    if frames > 1:
        assert np.ptp(np.diff(even)) <= 1 + (available % frames > 0)


def test_even_frames_are_in_the_middle_of_their_segments():
    assert transforms.sample_frame_indices(30, 3).tolist() == [5, 15, 25]


def test_jitter_reaches_every_frame():
    rng = np.random.default_rng(0)
    seen = {int(i) for _ in range(200) for i in transforms.sample_frame_indices(10, 4, rng)}
    assert seen == set(range(10))


def test_a_moment_is_a_sentence_and_a_frame_of_its_time_all_equally_likely():
    record = dataclasses.replace(
        _record(),
        frames=(b"",) * 6,
        timestamps=np.arange(6, dtype=np.float32),
        captions=(
            Caption("long", 0.0, 4.0),
            Caption("one frame", 4.0, 5.0),
            Caption("between frames", 4.2, 4.8),
            Caption("untimed"),
        ),
    )
    rng = np.random.default_rng(0)
    drawn = collections.Counter(transforms.choose_moment(record, rng) for _ in range(800))
    assert set(drawn) == {(0, "long"), (1, "long"), (2, "long"), (3, "long"), (4, "one frame")}
    assert 340 < drawn[4, "one frame"] < 460
    assert all(60 < drawn[frame, "long"] < 140 for frame in range(4))


def test_without_times_a_moment_is_any_frame_with_any_sentence():
    record = dataclasses.replace(_record(), frames=(b"",) * 3, timestamps=np.arange(3.0))
    rng = np.random.default_rng(0)
    drawn = {transforms.choose_moment(record, rng) for _ in range(90)}
    assert drawn == {(frame, text) for frame in range(3) for text in ("A dog runs.", "It stops.")}


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
@pytest.mark.parametrize("available", [1, 5, 8])
def test_a_short_video_gives_all_its_frames(available, rng):
    assert transforms.sample_frame_indices(available, 8, rng).tolist() == list(range(available))


def test_caption_joins_all_sentences():
    assert transforms.choose_caption(_record()) == "A dog runs. It stops."


def test_short_captions_come_with_their_probability_and_only_in_training():
    record = _record(alternatives=("dog", "runner"))
    rng = np.random.default_rng(0)
    texts = [transforms.choose_caption(record, rng, 0.5) for _ in range(400)]
    short = [text for text in texts if text in record.alternatives]
    assert 150 < len(short) < 250
    assert set(short) == set(record.alternatives)
    assert transforms.choose_caption(record, None, 1.0) == record.caption
    assert transforms.choose_caption(record, rng, 0.0) == record.caption
    assert transforms.choose_caption(_record(), rng, 1.0) == _record().caption


def test_a_record_without_text_is_named():
    with pytest.raises(ValueError, match="'r' has no caption text"):
        transforms.choose_caption(_record(captions=(" ", "")))


@pytest.mark.parametrize(("longest", "bucket"), [(0, 64), (64, 64), (65, 128), (248, 248)])
def test_bucket_is_the_smallest_that_holds_the_longest(longest, bucket):
    assert transforms.bucket_length(longest, (64, 128, 248)) == bucket


def test_a_caption_beyond_the_largest_bucket_is_an_error():
    with pytest.raises(ValueError, match="249 tokens fits none"):
        transforms.bucket_length(249, (64, 248))


def test_token_mask_is_true_where_tokens_are():
    sequences = [np.arange(1, 4, dtype=np.int32), np.arange(1, 7, dtype=np.int32)]
    tokens, token_mask = transforms.pad_tokens(sequences, (4, 8, 16), pad_id=9)
    assert tokens.dtype == np.int32
    assert token_mask.dtype == bool
    assert tokens.tolist() == [[1, 2, 3, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6, 9, 9]]
    assert token_mask.sum(1).tolist() == [3, 6]
    assert not token_mask[0, 3:].any()


def test_decode_leaves_an_image_of_the_right_size_as_it_is():
    jpeg = simplejpeg.encode_jpeg(_gradient(32, 32), quality=90)
    out = np.zeros((32, 32, 3), np.uint8)
    transforms.decode_frame(jpeg, out)
    np.testing.assert_array_equal(out, simplejpeg.decode_jpeg(jpeg))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (64, 64), (16, 24)])
def test_decode_brings_the_short_side_to_size_and_keeps_the_centre(height, width):
    jpeg = simplejpeg.encode_jpeg(_gradient(height, width), quality=95, colorsubsampling="444")
    out = np.zeros((32, 32, 3), np.uint8)
    transforms.decode_frame(jpeg, out)
    side = min(height, width)
    for axis, extent, channel in ((0, height, 0), (1, width, 1)):
        kept = (extent - side) / 2 + (np.arange(32) + 0.5) * side / 32 - 0.5
        expected = kept.clip(0) * 255 / (extent - 1)
        got = out[..., channel].mean(1 - axis)
        np.testing.assert_allclose(got[2:-2], expected[2:-2], atol=5)


def test_decode_makes_three_channels_of_a_grey_image():
    grey = np.full((8, 8, 1), 77, np.uint8)
    out = np.zeros((8, 8, 3), np.uint8)
    transforms.decode_frame(simplejpeg.encode_jpeg(grey, colorspace="GRAY"), out)
    np.testing.assert_allclose(out, 77, atol=2)


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("keep", [0, 20, 300])
def test_decode_refuses_damaged_bytes(size, keep):
    jpeg = simplejpeg.encode_jpeg(_gradient(32, 32), quality=90)
    assert keep < len(jpeg)
    with pytest.raises(ValueError):
        transforms.decode_frame(jpeg[:keep], np.zeros((size, size, 3), np.uint8))
