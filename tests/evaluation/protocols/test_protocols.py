"""Sentences that search videos and moments, against double loops over one pair at a time."""

import dataclasses

import jax
import numpy as np
import pytest

from mova_jax.data.pipeline.queries import eval_sentences, moment_queries
from mova_jax.data.shards import Caption, Manifest, write_manifest, write_split
from mova_jax.data.storyboard.generate import TOKENIZER, make_record
from mova_jax.data.tokenizer import Tokenizer, pad_parts, pad_tokens, train_tokenizer
from mova_jax.evaluation import context as context_lib
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.protocols.corpus_moments import corpus_moments
from mova_jax.evaluation.protocols.dual_softmax import dual_softmax
from mova_jax.evaluation.protocols.grounding import moment_grounding
from mova_jax.evaluation.protocols.lengths import retrieval_by_length
from mova_jax.evaluation.protocols.moments import padded_edges, propose
from mova_jax.evaluation.protocols.sentences import sentence_retrieval
from mova_jax.losses.scores import frame_cosines, global_scores, pair_scores, search_scoring
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from tests import tiny

VIDEOS, WEIGHT = 7, 0.5
SIZES = {
    "model__vision__image_size": 16,
    "model__text__context": 40,
    "model__text__vocab_size": 1100,
    "model__frame_positions": 8,
    "data__token_buckets": (40,),
    "eval__batch_size": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 10 to 800 seconds; one says a sentence twice, and another says it too."""
    path, records = tmp_path_factory.mktemp("protocols"), []
    for index in range(VIDEOS):
        record = make_record(0, "test", index, 16)
        slower = (1, 1, 6, 1, 30, 1, 6)[index]
        captions = [(c.text[:20], c.start * slower, c.end * slower) for c in record.captions[:2]]
        captions += [("a cat sits", 1, 3 * slower)] if index in (0, 3) else []
        captions += [("a cat sits", 4, 6)] if index == 0 else []
        changes = {
            "captions": tuple(Caption(*caption) for caption in captions),
            "timestamps": record.timestamps * slower,
            "duration": record.duration * slower,
        }
        records.append(dataclasses.replace(record, **changes))
    split = write_split(path, "test", records, name="videos")
    train_tokenizer([record.caption for record in records], 1024, path / TOKENIZER)
    write_manifest(path, Manifest("videos", {"test": split}))
    return path


class Case:
    """A model on the split, and its scores with one sentence at a time."""

    def __init__(self, folder, form, **changes):
        config = tiny.config(form, **SIZES | changes)
        mesh = mesh_lib.make_mesh(data=1)
        spec = make_train_spec(config, mesh)
        tokenizer = Tokenizer(folder / TOKENIZER, 40)
        evaluator = Evaluator(spec.model_spec, config, mesh, folder, tokenizer)
        params = tiny.initial(spec).params
        self.context = evaluator.context(params, "test", blend_weight=WEIGHT, final=True)
        self.queries = moment_queries(eval_sentences(folder, "test", tokenizer))
        video, parts = self.context.embeddings.video, config.data.parts
        ids = [query.ids for query in self.queries]
        texts = [*pad_tokens(ids, (40,), 0)]
        texts += pad_parts([(one,) for one in ids], (1,), (40,), 0) if parts else ()
        has_modular = bool(config.model.modular_scale)

        def score(params, video, *texts):
            model, how = spec.model(params), search_scoring(config.losses, config.eval)
            text = model.encode_text(*texts)
            captions, plain = model.prepare(text), model.without_masks()
            scores = {"global": global_scores(video, text)}
            scores["first"] = scores["global"]
            if parts:
                scores["first"] += pair_scores(plain, video, plain.prepare(text), **how._asdict())
            if has_modular:
                scores["modular"] = pair_scores(model, video, captions, **how._asdict())
            cosines = frame_cosines(model, video, captions)
            return scores, cosines[:, :, 0] if parts else cosines

        found = jax.tree.map(np.asarray, tiny.jit(score)(params, video, *texts))
        self.scores, self.cosines = found  # [b c], [b c f]
        self.record, self.scale = self.scores["global"], 1.0
        if has_modular:
            self.record, self.scale = self.record + WEIGHT * self.scores["modular"], 1 + WEIGHT


@pytest.fixture(scope="module")
def parts(folder):
    return Case(folder, "parts", data__parts=2)


def rank(scores, own):
    """Of the right answer among others; numbers of two programs are level up to 1e-6."""
    wrong = np.delete(scores, own)
    return 1 + (wrong > scores[own] + 1e-6).sum() + 0.5 * (abs(wrong - scores[own]) <= 1e-6).sum()


def overlap(start, end, window):
    shared = max(0.0, min(end, window[1]) - max(start, window[0]))
    return shared / ((end - start) + (window[1] - window[0]) - shared)


def moments_of(case, video, sentence):
    """(start, end, score) of the moments of one sentence in one video."""
    embedded = case.context.embeddings
    mask = embedded.video.frame_mask[video : video + 1]
    edges = padded_edges(embedded.timestamps[video : video + 1], mask)
    found = propose(case.cosines[video, sentence][None], mask, edges)
    return [m for m in zip(*(x[0] for x in found), strict=True) if np.isfinite(m[2])]


def test_a_text_that_a_video_has_twice_is_one_query_with_two_windows(parts):
    cats = [query for query in parts.queries if query.text == "a cat sits"]
    assert [query.video for query in cats] == [0, 3]
    assert [query.windows.tolist() for query in cats] == [[[1, 3], [4, 6]], [[1, 3]]]


@pytest.mark.parametrize("form", ["parts", "global_only"])
def test_sentences_find_their_videos_as_one_by_one(folder, form, request):
    case = request.getfixturevalue("parts") if form == "parts" else Case(folder, form)
    metrics = sentence_retrieval(case.context)
    for prefix, scores in (("sentence", case.record), ("sentence/global", case.scores["global"])):
        if f"{prefix}/r1" not in metrics:
            assert form == "global_only"  # whose global score is the one of record
            continue
        ranks = np.array([rank(scores[:, c], q.video) for c, q in enumerate(case.queries)])
        recalls = [100 * (ranks <= k).mean() for k in (1, 5, 10, 100)]
        names = ("r1", "r5", "r10", "r100", "sumr", "mdr")
        got = [metrics[f"{prefix}/{name}"] for name in names]
        assert got == pytest.approx([*recalls, sum(recalls), np.median(ranks)])
        kept = case.context.other_ranks["sentence"]
        score = prefix.partition("/")[2] or case.context.sentence_search.ranks.record
        assert kept.by_score[score].values.tolist() == ranks.tolist()
        assert kept.video.tolist() == [query.video for query in case.queries]
    assert metrics["sentence/queries"] == len(case.queries)
    assert metrics["sentence/under_60s/queries"] == sum(
        q.video in (1, 5, 0, 3) for q in case.queries
    )
    assert metrics["sentence/600s_and_more/queries"] == sum(q.video == 4 for q in case.queries)


def test_moments_are_compared_with_the_window_that_fits_best(parts):
    metrics = moment_grounding(parts.context)
    best = []
    for c, query in enumerate(parts.queries):
        moments = moments_of(parts, query.video, c)
        best.append([max(overlap(s, e, w) for w in query.windows) for s, e, _ in moments])
    assert metrics["moment/miou"] == pytest.approx(np.mean([one[0] for one in best]))
    for iou in (0.3, 0.5, 0.7):
        first = 100 * np.mean([one[0] >= iou for one in best])
        five = 100 * np.mean([max(one) >= iou for one in best])
        assert metrics[f"moment/r1_iou{iou}"] == pytest.approx(first)
        assert metrics[f"moment/r5_iou{iou}"] == pytest.approx(five)


@pytest.mark.parametrize("form", ["part_masks", "global_only"])
def test_moments_of_the_whole_split_are_ranked_as_one_by_one(folder, form, monkeypatch):
    searched = 4
    monkeypatch.setattr(context_lib, "SEARCHED", searched)
    monkeypatch.setattr(context_lib, "RERANKED", 3)
    changes = {} if form == "global_only" else {"data__parts": 2}
    changes |= {"losses__hard_pairs": 1} if form == "part_masks" else {}
    case = Case(folder, form, **changes)
    metrics = corpus_moments(case.context)
    ranks = {iou: [] for iou in (0.3, 0.5, 0.7)}
    for c, query in enumerate(case.queries):
        chosen = case.scores["first"] if form == "part_masks" else case.record
        order = np.argsort(-chosen[:, c])[: 3 if form == "part_masks" else searched]
        answers = []
        for v in order:
            for start, end, score in moments_of(case, v, c):
                fits = max(overlap(start, end, w) for w in query.windows)
                answers.append((score + case.record[v, c] / case.scale, fits * (v == query.video)))
        for iou, found in ranks.items():
            right = max((s for s, fit in answers if fit >= iou), default=np.inf)
            wrong = sum(s > right + 1e-6 for s, fit in answers if fit < iou)
            found.append(1 + wrong if np.isfinite(right) else np.inf)
    for iou, found in ranks.items():
        kept = case.context.other_ranks[f"corpus_moment_iou{iou}"]
        (values,) = kept.by_score.values()
        assert (values.values.tolist(), values.gallery) == (found, VIDEOS)
        for k in (1, 10, 100):
            expected = 100 * np.mean(np.array(found) <= k)
            assert metrics[f"corpus_moment/r{k}_iou{iou}"] == pytest.approx(expected), (k, iou)
    assert metrics["corpus_moment/searched"] == (3 if form == "part_masks" else searched)


def test_retrieval_by_length_groups_the_ranks_of_the_whole_split(parts):
    metrics, ranks = retrieval_by_length(parts.context), parts.context.query_ranks
    for way in ("t2v", "v2t"):
        values = getattr(ranks.by_score["blend"], way).values
        for group, rows in (("under_60s", [0, 1, 3, 5]), ("600s_and_more", [4])):
            assert metrics[f"by_length/{way}/{group}/mnr"] == pytest.approx(values[rows].mean())


def test_dual_softmax_is_a_row_of_its_own(parts):
    scores = parts.context.dense_scores()
    cosine = ((scores["global"] + WEIGHT * scores["modular"]) / (1 + WEIGHT)).astype(float)
    for way, one in (("t2v", cosine.T), ("v2t", cosine)):  # queries are rows
        revised = np.zeros(one.shape)
        for q, a in np.ndindex(one.shape):
            revised[q, a] = one[q, a] * np.exp(100 * one[q, a]) / np.exp(100 * one[:, a]).sum()
        ranks = [1 + (revised[q] > revised[q, q]).sum() for q in range(VIDEOS)]
        assert dual_softmax(parts.context)[f"dual_softmax/{way}/mnr"] == pytest.approx(
            np.mean(ranks)
        )
