"""Searching an index gives the ranks of the evaluation, whatever the blocks and the padding."""

import jax
import numpy as np
import pytest

from mova_jax.evaluation.context import EvalContext
from mova_jax.evaluation.embedding_cache import SplitEmbeddings
from mova_jax.evaluation.frame_stream import FrameEncoder
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.search import scan as scan_lib
from mova_jax.search.scan import Scan, padded_length
from mova_jax.training.state import make_train_spec
from tests import tiny
from tests.search.made import MadeIndex

VIDEOS = 40  # more than are scored again


@pytest.fixture(scope="module", params=["parts_ordered", "full"])
def asked(request):
    """An evaluation of made embeddings, and the scan of an index that has the same videos."""
    config = tiny.config(request.param, eval__queries="caption")
    mesh = mesh_lib.make_mesh(data=1)
    spec = make_train_spec(config, mesh).model_spec
    params = jax.jit(lambda: spec.init_params(0))()
    fns = EvalFns(spec, config.losses, config.eval, mesh)
    encoder = FrameEncoder(spec, params, mesh)
    index = MadeIndex(np.arange(VIDEOS) % tiny.F + 1, tiny.D)
    mask = tiny.masks_of_lengths([entry.frames for entry in index.entries], tiny.F)
    frames = np.zeros((*mask.shape, tiny.D), np.float32)
    frames[mask] = np.concatenate([index.vectors(entry.id) for entry in index.entries])
    video = jax.tree.map(np.asarray, encoder.pool(frames, mask))
    rng = np.random.default_rng(1)
    words = rng.integers(0, tiny.VOCAB, (VIDEOS, tiny.L), dtype=np.int32)
    texts = [words, tiny.masks_of_lengths([tiny.L - i % 4 for i in range(VIDEOS)], tiny.L)]
    if config.data.parts:
        texts += tiny.part_arrays(VIDEOS).values()
    blocks = [[array[i : i + fns.rows] for array in texts] for i in range(0, VIDEOS, fns.rows)]
    blocks = [fns.encode_text(params, *block) for block in blocks]
    text = jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)
    context = EvalContext(config, fns, "", None, params, "test", blend_weight=0.5)
    times = np.tile(np.arange(tiny.F, dtype=np.float32), (VIDEOS, 1))
    context.__dict__["embeddings"] = SplitEmbeddings(video, text, times)
    return context, index, Scan(fns, params, encoder, config, 0.5)


def ranks_of(scores, reranked):
    """Rank of text i among all videos, of which video i is right: ties count half."""
    found = []
    for query in range(scores.shape[1]):
        keys = [
            (bool(r), float(s)) for r, s in zip(reranked[:, query], scores[:, query], strict=True)
        ]
        above = sum(key > keys[query] for key in keys)
        ties = sum(key == keys[query] for key in keys) - 1
        found.append(1 + above + ties / 2)
    return found


def test_ranks_are_those_of_the_evaluation_to_the_last_query(asked):
    context, index, scan = asked
    found = scan.texts(index, index.entries, context.embeddings.text)
    ranks = context.query_ranks
    assert ranks.record == "blend"
    masked = context.config.model.masks_see_frames
    assert (found.reranked.sum(0) == (32 if masked else VIDEOS)).all()
    assert ranks_of(*found) == ranks.by_score["blend"].t2v.values.tolist()
    for query in range(VIDEOS):  # the order of answers agrees with the ranks
        place = found.best(query).tolist().index(query)
        assert place == pytest.approx(ranks.by_score["blend"].t2v.values[query] - 1, abs=0.5)


def test_blocks_and_one_text_at_a_time_change_nothing(asked, monkeypatch):
    context, index, scan = asked
    text = context.embeddings.text
    expected = scan.texts(index, index.entries, text)
    monkeypatch.setattr(scan_lib, "BLOCK_FRAMES", 3 * scan_lib.SHORTEST)
    for query in (0, 7):
        one = rows_of(text, slice(query, query + 1))
        found = scan.texts(index, index.entries, one)
        np.testing.assert_allclose(found.scores[:, 0], expected.scores[:, query], atol=1e-5)
        np.testing.assert_array_equal(found.reranked[:, 0], expected.reranked[:, query])


def test_padded_lengths_waste_half_at_most():
    for frames in range(1, 5000, 7):
        length = padded_length(frames)
        assert frames <= length and (length == scan_lib.SHORTEST or length < 2 * frames)
    assert len({padded_length(n) for n in range(1, 100_000, 11)}) < 15
