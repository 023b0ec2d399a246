"""Frame vectors in chunks are those of whole videos, whatever the borders of chunks."""

import jax
import numpy as np
import pytest

from mova_jax.data.images import encode_ppm
from mova_jax.data.ingest.video_reader import decode_video
from mova_jax.evaluation.frame_stream import FrameEncoder, embed_file, embed_videos
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from tests import tiny
from tests.clips import ramp, write_video

SIDE = 16
LENGTHS = (3, 1, 0, 8, 5, 2)  # of the videos; chunks have 4 frames


@pytest.fixture(scope="module", params=["mean", "seq_transformer"])
def model(request):
    config = tiny.config(
        model__vision__image_size=SIDE, model__global_head=request.param, model__frame_positions=8
    )
    mesh = mesh_lib.make_mesh(data=1)
    spec = make_train_spec(config, mesh).model_spec
    return spec, jax.jit(lambda: spec.init_params(0))(), mesh


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(n, SIDE, SIDE, 3), dtype=np.uint8) for n in LENGTHS]


def test_vectors_and_pool_are_those_of_encode_video(model, videos):
    spec, params, mesh = model
    encoder = FrameEncoder(spec, params, mesh, rows=4)
    found = list(embed_videos(encoder, videos))
    assert [len(v) for v in found] == list(LENGTHS)
    assert {v.dtype for v in found} == {np.dtype(np.float16)}
    mask = np.arange(max(LENGTHS) + 1) < np.array(LENGTHS)[:, None]
    frames = np.zeros((*mask.shape, SIDE, SIDE, 3), np.uint8)
    frames[mask] = np.concatenate(videos)
    expected = jax.jit(lambda p, x, m: spec.model(p).encode_video(x, m))(params, frames, mask)
    vectors = np.full((*mask.shape, found[0].shape[1]), 7, np.float16)  # at padded frames too
    vectors[mask] = np.concatenate(found)
    np.testing.assert_allclose(vectors[mask], expected.frames[mask], rtol=2e-3, atol=2e-3)
    video = encoder.pool(vectors, mask)
    np.testing.assert_allclose(video.pooled, expected.pooled, atol=2e-3)
    assert not np.asarray(video.frames)[~mask].any()


def test_stored_frames_and_pixels_of_another_size(model, videos):
    spec, params, mesh = model
    encoder = FrameEncoder(spec, params, mesh, rows=4)
    stored = [[encode_ppm(frame) for frame in video] for video in videos[:2]]
    for a, b in zip(embed_videos(encoder, stored), embed_videos(encoder, videos), strict=False):
        np.testing.assert_array_equal(a, b)
    flat = np.full((2, SIDE, SIDE, 3), (90, 30, 200), np.uint8)
    wide = np.pad(flat.repeat(2, 1).repeat(2, 2), ((0, 0), (0, 0), (8, 8), (0, 0)), "edge")
    same, cut = embed_videos(encoder, [flat, wide])
    np.testing.assert_array_equal(same, cut)


def test_a_video_is_read_a_chunk_ahead_at_most(model):
    spec, params, mesh = model
    encoder, read = FrameEncoder(spec, params, mesh, rows=4), []

    def frames(video):
        for i in range(8):
            read.append((video, i))
            yield np.zeros((SIDE, SIDE, 3), np.uint8)

    stream = embed_videos(encoder, (frames(v) for v in range(5)))
    next(stream)
    assert len(read) <= 8 + 2 * 4


def test_a_vector_that_is_not_finite_stops(model):
    spec, params, mesh = model
    broken = jax.tree.map(lambda leaf: leaf * np.inf, params)
    with pytest.raises(FloatingPointError, match="a frame vector has the value"):
        list(embed_videos(FrameEncoder(spec, broken, mesh, 4), [np.ones((1, SIDE, SIDE, 3), "u1")]))


def test_a_file_has_the_vectors_of_its_frames(model, tmp_path):
    spec, params, mesh = model
    encoder = FrameEncoder(spec, params, mesh, rows=4)
    path = write_video(tmp_path / "clip.mp4", ramp(50), rate=10)
    found = embed_file(encoder, path, fps=2.0)
    video = decode_video(path, fps=2.0, short_side=SIDE)
    np.testing.assert_array_equal(found.times, video.timestamps)
    np.testing.assert_array_equal(found.vectors, *embed_videos(encoder, [video.frames]))
    assert (found.duration, found.warnings) == (video.duration, video.warnings)
