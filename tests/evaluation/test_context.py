"""Evaluation with several captions a video, against dense scores and ranks by hand."""

import dataclasses
import json
import pickle
import zlib

import jax
import numpy as np
import pytest

from mova_jax import prepare
from mova_jax.data.pipeline.queries import eval_captions
from mova_jax.data.shards import (
    MANIFEST,
    Manifest,
    open_split,
    read_manifest,
    write_manifest,
    write_split,
)
from mova_jax.data.storyboard.generate import TOKENIZER, make_record
from mova_jax.data.tokenizer import Tokenizer, pad_parts, pad_tokens, train_tokenizer
from mova_jax.evaluation import context as context_lib
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.retrieval import retrieval
from mova_jax.losses.scores import global_scores, pair_scores, search_scoring
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from tests import tiny
from tests.clips import ramp, write_video
from tests.evaluation.test_ranks import dense_ranks
from tests.evaluation.test_rerank import two_stage

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
def metrics(full):
    evaluator, _, params = full
    return evaluator.evaluate(params, "test", blend_weight=0.5, final=True)


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
        model, pool = spec.model(params), search_scoring(config.losses, config.eval).pool
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
def test_every_caption_is_a_query_and_the_best_of_a_video_counts(folder, name, full, metrics):
    made = full
    if name != "full":
        made = make(folder, name)
        metrics = made[0].evaluate(made[2], "test")
    scores = dense(folder, *made)
    if "modular" in scores:
        scores["blend"] = scores["global"] + 0.5 * scores["modular"]
    for score, values in scores.items():
        for way, ranks in zip(("t2v", "v2t"), mean_ranks(values), strict=True):
            assert metrics[f"{score}/{way}/mnr"] == pytest.approx(ranks.mean()), (score, way)
            assert metrics[f"{score}/{way}/r5"] == pytest.approx(100 * (ranks <= 5).mean())
    assert (metrics["gallery"], metrics["gallery_captions"]) == (len(COUNTS), len(OWNER))


def test_blocks_of_any_size_give_the_same_metrics(folder, metrics):
    evaluator, _, params = make(folder, eval__batch_size=24)  # all 21 captions in one, 3 rows free
    other = evaluator.evaluate(params, "test", blend_weight=0.5, final=True)
    assert other.keys() == metrics.keys()
    for name, value in metrics.items():
        assert other[name] == pytest.approx(value, abs=1e-4), name


def test_candidates_of_divided_captions_are_found_by_parts_without_masks(folder, monkeypatch):
    evaluator, spec, params = make(folder, "part_masks", data__parts=2, losses__hard_pairs=1)
    monkeypatch.setattr(context_lib, "RERANKED", 3)
    context = evaluator.context(params, "test")
    captions = eval_captions(folder, "test", Tokenizer(folder / TOKENIZER, 40), 0, "all", 2)
    texts = [*pad_tokens(captions.ids, (40,), 0), *pad_parts(captions.parts, (2,), (40,), 0)]

    def score(params, video, texts):
        model, how = spec.model(params), search_scoring(spec.config.losses, spec.config.eval)
        text, plain = model.encode_text(*texts), model.without_masks()
        first = pair_scores(plain, video, plain.prepare(text), **how._asdict())
        modular = pair_scores(model, video, model.prepare(text), **how._asdict())
        return global_scores(video, text) + first, modular

    first, modular = map(np.asarray, tiny.jit(score)(params, context.embeddings.video, texts))
    ranks = context.query_ranks.by_score["modular"]
    t2v, _ = dense_ranks(two_stage(first.T, modular.T, 3).T, OWNER)
    _, v2t = dense_ranks(two_stage(first, modular, 3), OWNER)
    assert ranks.t2v.values.tolist() == t2v
    assert ranks.v2t.values.tolist() == v2t
    assert retrieval(context)["rerank"] == 3


@pytest.mark.parametrize("form", ["part_concepts", "part_masks"])
def test_every_evaluation_takes_divided_captions(folder, form):
    evaluator, _, params = make(folder, form, data__parts=2, losses__hard_pairs=0)
    metrics = evaluator.evaluate(params, "test", blend_weight=0.5)
    kinds = {"video_mask_density", "grounding", "sentence_of_frame", "modular"}
    kinds |= {"leak"} if form == "part_masks" else set()  # masks of texts alone cannot leak
    assert kinds <= {name.split("/")[0] for name in metrics}
    assert np.isfinite(list(metrics.values())).all()


def test_masks_leak_and_grounding_are_those_of_the_first_captions(folder, metrics):
    evaluator, _, params = make(folder, eval__queries="data")  # one caption a video, in the shards
    first = evaluator.evaluate(params, "test")
    kinds = ("text_mask_density", "video_mask_density", "leak", "grounding")
    same = [name for name in first if name.startswith(kinds)]
    assert {name.split("/")[0] for name in same} == set(kinds)
    assert {name: metrics[name] for name in same} == {name: first[name] for name in same}
    assert first["gallery_captions"] == len(COUNTS)
    assert metrics["global/t2v/mnr"] != first["global/t2v/mnr"]


def test_msvd_goes_from_its_files_to_metrics_of_every_caption(tmp_path):
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
    metrics = evaluator.evaluate(params, "test", final=True)
    assert metrics["gallery"] == 2
    assert metrics["gallery_captions"] == 4
    assert evaluator.evaluate(params, "validation")["gallery_captions"] == 2
    assert read_manifest(shards).splits["test"].videos == 2
