"""Retrieval by every caption of a video, against dense scores and ranks by hand; and by one."""

import dataclasses
import json
import pickle
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax import prepare
from mova_jax.data.pipeline.dataset import eval_batches, settings_of
from mova_jax.data.shards import (
    MANIFEST,
    Manifest,
    open_split,
    read_manifest,
    write_manifest,
    write_split,
)
from mova_jax.data.storyboard.generate import TOKENIZER, make_record
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer
from mova_jax.evaluation.embedding_cache import CachedScores, PackedCaptions, with_progress
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.retrieval import WEIGHTS, retrieval_metrics
from mova_jax.losses.scores import global_scores, pair_scores, search_pool
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.state import make_train_spec
from mova_jax.typing import TextEmbedding
from tests import tiny
from tests.clips import ramp, write_video

COUNTS = np.array([1, 2, 3, 1, 3, 2, 2, 1, 3, 3])  # captions of each video
OWNER = np.repeat(np.arange(len(COUNTS)), COUNTS)
TEXTS = [
    "a cat sits",
    "the red square goes up and then it goes down again near the blue one",
    "a dog",
]
SIZES = {
    "model__vision__image_size": 16,
    "model__text__context": 40,
    "model__text__vocab_size": 1100,
    "model__frame_positions": 8,
    "data__token_buckets": (16, 24, 40),
    "eval__batch_size": 8,
    "eval__queries": "all",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos with 1, 2 and 3 captions each; video 6 says what video 4 says."""
    path = tmp_path_factory.mktemp("queries")
    records = []
    for index, count in enumerate(COUNTS):
        record = make_record(0, "test", index, 16)
        captions = tuple(dataclasses.replace(c, text=c.text[:20]) for c in record.captions[:2])
        same = 4 if index == 6 else index
        more = tuple(f"{TEXTS[k]} {same}" for k in range(count - 1))
        records.append(dataclasses.replace(record, captions=captions, alternatives=more))
    split = write_split(path, "test", records, name="videos")
    texts = [text for record in records for text in (record.caption, *record.alternatives)]
    train_tokenizer(texts, 1024, path / TOKENIZER)
    write_manifest(path, Manifest("videos", {"test": split}))
    return path


def make(folder, objective_name="full", **changes):
    config = tiny.config(objective_name, **SIZES | changes)
    mesh = mesh_lib.make_mesh()
    spec = make_train_spec(config, mesh)
    context = config.model.text.context
    evaluator = Evaluator(
        spec.model_spec, config, mesh, folder, Tokenizer(folder / TOKENIZER, context)
    )
    return evaluator, spec, spec.initial().params


@pytest.fixture(scope="module")
def full(folder):
    return make(folder)


@pytest.fixture(scope="module")
def figures(full):
    evaluator, _, params = full
    return evaluator.evaluate(params, "test", blend_weight=0.5, interval=True)


def dense(folder, evaluator, spec, params):
    """Scores `[b c]` of all videos with all captions, in one piece, padded to the context."""
    config = spec.config
    video = jax.tree.map(np.asarray, evaluator.context(params, "test").embeddings.video)
    source = open_split(folder, "test")
    records = [source[i] for i in range(len(source))]
    texts = [text for record in records for text in (record.caption, *record.alternatives)]
    tokenizer = Tokenizer(folder / TOKENIZER, 40)
    assert len(texts) == len(OWNER)
    tokens = np.zeros((len(texts), 40), np.int32)
    mask = np.zeros((len(texts), 40), bool)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True

    def score(params, tokens, mask):
        model, pool = spec.model(params), search_pool(config.losses, config.eval)
        text = model.encode_text(tokens, mask)
        scores = {"global": global_scores(video, text)}
        if config.model.modular_scale:
            captions = model.prepare(text)
            scores["modular"] = pair_scores(model, video, captions, pool=pool)
        return scores

    return jax.tree.map(np.asarray, tiny.jit(score)(params, tokens, mask))


def mean_ranks(scores):
    """Mean rank both ways, pair by pair."""
    close = 1e-6  # what counts as level: one program and another differ in the last bits

    def rank(right, wrong):
        above, level = wrong > right + close, abs(wrong - right) <= close
        return 1 + above.sum() + 0.5 * level.sum()

    t2v = [rank(scores[v, c], np.delete(scores[:, c], v)) for c, v in enumerate(OWNER)]
    v2t = [rank(row[OWNER == v].max(), row[OWNER != v]) for v, row in enumerate(scores)]
    return np.array(t2v), np.array(v2t)


@pytest.mark.parametrize("name", ["full", "global_only"])
def test_every_caption_asks_and_the_best_of_a_video_counts(folder, name, full, figures):
    made = full
    if name != "full":
        made = make(folder, name)
        figures = made[0].evaluate(made[2], "test")
    scores = dense(folder, *made)
    if "modular" in scores:
        scores["blend"] = scores["global"] + 0.5 * scores["modular"]
    for score, values in scores.items():
        for way, ranks in zip(("t2v", "v2t"), mean_ranks(values), strict=True):
            assert figures[f"{score}/{way}/mnr"] == pytest.approx(ranks.mean()), (score, way)
            assert figures[f"{score}/{way}/r5"] == pytest.approx(100 * (ranks <= 5).mean())
    assert (figures["gallery"], figures["gallery_captions"]) == (len(COUNTS), len(OWNER))


def test_blocks_of_any_size_give_the_same(folder, figures):
    evaluator, _, params = make(folder, eval__batch_size=24)  # all 21 captions in one, 3 rows free
    other = evaluator.evaluate(params, "test", blend_weight=0.5, interval=True)
    assert other.keys() == figures.keys()
    for name, value in figures.items():
        assert other[name] == pytest.approx(value, abs=1e-4), name


@pytest.fixture(scope="module")
def by_one(folder):
    """The same model, and the figures of one caption a video, as these shards say."""
    evaluator, spec, params = make(folder, eval__queries="data")
    return evaluator, spec, params, evaluator.evaluate(params, "test")


def test_masks_leak_and_grounding_are_those_of_the_first_captions(figures, by_one):
    first = by_one[-1]
    same = [name for name in first if name.startswith(("kept", "leak", "grounding"))]
    assert len(same) > 8
    assert {name: figures[name] for name in same} == {name: first[name] for name in same}
    assert first["gallery_captions"] == len(COUNTS)
    assert figures["global/t2v/mnr"] != first["global/t2v/mnr"]


def test_one_caption_a_video_gives_the_figures_it_gave(folder, by_one):
    """Bit for bit: the evaluation of one caption a video, stated again in one piece."""
    _, spec, params, figures = by_one
    config, mesh = spec.config, mesh_lib.make_mesh()
    rows, whole, split = 8, sharding.replicated(mesh), sharding.batch_sharding(mesh)
    settings = settings_of(config, config.eval.frames)
    tokenizer = Tokenizer(folder / TOKENIZER, 40)

    def encode(params, batch):
        model = spec.model(params)
        video = model.encode_video(batch.frames, batch.frame_mask)
        return video, model.encode_text(batch.tokens, batch.token_mask)

    def score(params, video, text):
        model, pool = spec.model(params), search_pool(config.losses, config.eval)
        pairs = pair_scores(model, video, model.prepare(text), pool=pool)
        return {"global": global_scores(video, text), "modular": pairs}

    encode = jax.jit(encode, in_shardings=(whole, split), out_shardings=whole)
    score = jax.jit(score, in_shardings=(whole, split, whole), out_shardings=whole)
    parts = []
    for arrays in eval_batches(folder, "test", tokenizer, settings, rows):
        room = ((0, 0), (0, 40 - arrays["tokens"].shape[1]))
        arrays |= {name: np.pad(arrays[name], room) for name in ("tokens", "token_mask")}
        parts.append(encode(params, sharding.put_batch(mesh, arrays)))
    videos = len(COUNTS)
    video, text = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:videos], *parts)
    longest = text.token_mask.sum(1).max()
    length = next(bucket for bucket in (16, 24, 40) if bucket >= longest)
    cut = {name: getattr(text, name)[:, :length] for name in ("tokens", "token_mask")}
    text = dataclasses.replace(text, **cut)

    def block(v, c):
        def rows_at(tree, at):
            picked = np.minimum(np.arange(at.start, at.start + rows), at.stop - 1)
            return jax.tree.map(lambda leaf: leaf[picked], tree)

        found = score(params, rows_at(video, v), rows_at(text, c))
        return {k: np.asarray(s)[: v.stop - v.start, : c.stop - c.start] for k, s in found.items()}

    expected = retrieval_metrics(
        block, videos, np.arange(videos), blend_weights=WEIGHTS, blocks=(rows, rows)
    )
    assert {name: figures[name] for name in expected} == expected


# ------------------------------------------------------------------------------- from files on


def test_msvd_goes_from_its_files_to_figures_of_every_caption(tmp_path):
    notes, counts = tmp_path / "notes", {"tr": 2, "va": 2, "ta": 3, "tb": 1}
    notes.mkdir()
    captions = {name: [["a", "clip", name, str(k)] for k in range(n)] for name, n in counts.items()}
    (notes / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
    for file, names in (("train", ["tr"]), ("val", ["va"]), ("test", ["ta", "tb"])):
        (notes / f"{file}_list.txt").write_text("\n".join(names) + "\n")
    for name in counts:
        write_video(tmp_path / "videos" / f"{name}.avi", ramp(zlib.crc32(name.encode()) % 20 + 10))
    shards = tmp_path / "shards"
    command = ["msvd", "--videos", tmp_path / "videos", "--annotations", notes]
    command += ["--output", shards, "--workers", 0, "--short_side", 16]
    assert prepare.main(list(map(str, command))) == 0
    assert json.loads((shards / MANIFEST).read_text())["settings"]["dataset"]["queries"] == "all"
    evaluator, _, params = make(shards, "global_only", eval__queries="data")
    figures = evaluator.evaluate(params, "test", interval=True)
    assert figures["gallery"] == 2
    assert figures["gallery_captions"] == 4
    assert evaluator.evaluate(params, "validation")["gallery_captions"] == 2
    assert read_manifest(shards).splits["test"].videos == 2


# ------------------------------------------------------------------------- what waits on the host


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_captions_come_back_as_they_were_but_for_their_padding(dtype):
    rng = np.random.default_rng(0)
    counts = np.array([3, 1, 6, 2, 5])
    mask = np.arange(6) < counts[:, None]
    tokens = (rng.normal(size=(5, 6, 4)) * mask[..., None]).astype(jnp.dtype(dtype))
    pooled = rng.normal(size=(5, 2)).astype(np.float32)
    packed = PackedCaptions(counts, length=8)
    for at in (slice(0, 2), slice(2, 5)):
        short = slice(counts[at].max())  # a block is as long as it has to be
        packed.put(at, TextEmbedding(tokens[at, short], mask[at, short], pooled[at]))
    assert packed._states.size == counts.sum() * 4
    for at in (slice(0, 2), slice(1, 4), slice(4, 5)):
        got = packed.rows(at)
        np.testing.assert_array_equal(got.tokens[:, :6], tokens[at])
        assert got.tokens.dtype == tokens.dtype
        assert got.tokens.shape[1] == got.token_mask.shape[1] == 8 and not got.tokens[:, 6:].any()
        np.testing.assert_array_equal(got.token_mask[:, :6], mask[at])
        np.testing.assert_array_equal(got.pooled, pooled[at])
    bare = PackedCaptions(counts, length=8, with_tokens=False)
    bare.put(slice(0, 5), TextEmbedding(tokens, mask, pooled))
    assert bare.rows(slice(1, 3)).tokens.shape == (2, 0, 4)
    np.testing.assert_array_equal(bare.rows(slice(1, 3)).pooled, pooled[1:3])


def test_the_square_of_the_first_is_kept_or_made():
    scores = np.random.default_rng(0).normal(size=(7, 7))
    asked = []

    def block(v, c):
        asked.append((v.start, c.start))
        return {"modular": scores[v, c]}

    cached = CachedScores(block, rows=2, count=3)
    first = cached(slice(0, 2), slice(2, 4))
    assert cached(slice(0, 2), slice(2, 4)) is first
    np.testing.assert_array_equal(cached.square("modular"), scores[:3, :3])
    assert sorted(asked) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    cached(slice(4, 6), slice(0, 2))
    cached(slice(4, 6), slice(0, 2))
    assert asked.count((4, 0)) == 2  # outside of the square nothing is kept


def test_pairs_are_counted_once():
    done = []
    scored = with_progress(lambda v, c: {}, done.append)
    for captions in (slice(0, 4), slice(4, 7), slice(0, 4)):
        scored(slice(0, 2), captions)
    assert done == [8, 6]
