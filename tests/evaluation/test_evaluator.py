"""The evaluator against scores made pair by pair, and on any mesh."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.data.shards import open_split
from mova_jax.data.storyboard.generate import TOKENIZER, ensure
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation import context as context_lib
from mova_jax.evaluation.context import Evaluation
from mova_jax.evaluation.evaluator import EVALUATIONS, Evaluator
from mova_jax.evaluation.query_ranks import load_ranks
from mova_jax.losses.pools import frame_lengths, pool_frames
from mova_jax.losses.scores import pair_sums, search_scoring
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.report.report import write_report
from mova_jax.training.state import make_train_spec
from mova_jax.utils.metric_log import MetricWriter
from tests import tiny
from tests.evaluation.test_ranks import dense_ranks
from tests.evaluation.test_rerank import two_stage

VIDEOS = 8
SIZES = {
    "model__vision__image_size": 16,
    "model__text__context": 160,
    "model__text__vocab_size": 1100,
    "model__frame_positions": 8,
    "data__token_buckets": (64, 160),
    "eval__batch_size": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    counts = {"train": 8, "test": VIDEOS}
    return ensure(tmp_path_factory.mktemp("data") / "s", 0, counts, workers=0, image_size=16)


def make(folder, objective_name="full", mesh=None, **changes):
    config = tiny.config(objective_name, **SIZES | changes)
    mesh = mesh or mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    spec = make_train_spec(config, mesh)
    evaluator = Evaluator(spec.model_spec, config, mesh, folder, Tokenizer(folder / TOKENIZER, 160))
    return evaluator, spec, spec.initial().params


@pytest.fixture(scope="module")
def full(folder):
    return make(folder)


@pytest.fixture(scope="module")
def ranks_file(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "ranks" / "test.npz"


@pytest.fixture(scope="module")
def metrics(full, ranks_file):
    evaluator, _, params = full
    return evaluator.evaluate(params, "test", blend_weight=1.0, ranks_file=ranks_file)


@pytest.fixture(scope="module")
def by_hand(full):
    """Modular scores [b c], one pair at a time and on one device."""
    evaluator, spec, params = full
    embedded = evaluator.context(params, "test").embeddings
    cfg = spec.config
    model = spec.model(jax.tree.map(jnp.asarray, jax.device_get(params)))
    pool = search_scoring(cfg.losses, cfg.eval).pool
    captions = model.prepare(embedded.text)
    scores = np.zeros((VIDEOS, VIDEOS))
    for b in range(VIDEOS):
        for c in range(VIDEOS):
            caption = jax.tree.map(lambda leaf, c=c: leaf[c], captions)
            mask = embedded.video.frame_mask[b]
            masks = model.masks(embedded.video.frames[b], mask, caption)
            sums = pair_sums(embedded.video.frames[b], masks)
            lengths = frame_lengths(embedded.video.frames[b], mask)
            scores[b, c] = pool_frames(sums, mask, pool, lengths=lengths)
    return scores


def test_all_scores_at_once_are_those_of_pairs_scored_one_by_one(full, by_hand):
    evaluator, _, params = full
    scores = evaluator.context(params, "test").dense_scores()
    assert set(scores) == {"global", "modular"}
    np.testing.assert_allclose(scores["modular"], by_hand, atol=1e-5)
    assert scores["global"].shape == (VIDEOS, VIDEOS)


def test_modular_metrics_are_those_of_pairs_scored_one_by_one(by_hand, metrics):
    scores = by_hand
    own = np.diag(scores)
    t2v = 1 + (scores > own).sum(0)
    v2t = 1 + (scores > own[:, None]).sum(1)
    assert metrics["modular/t2v/mnr"] == pytest.approx(t2v.mean())
    assert metrics["modular/v2t/mnr"] == pytest.approx(v2t.mean())


def test_large_galleries_are_ranked_again_among_the_best_of_the_global_score(full, monkeypatch):
    evaluator, _, params = full
    monkeypatch.setattr(context_lib, "RERANKED", 3)
    context = evaluator.context(params, "test")
    scores, ranks = context.dense_scores(), context.query_ranks
    first, modular = scores["global"], scores["modular"]
    t2v, _ = dense_ranks(two_stage(first.T, modular.T, 3).T, np.arange(VIDEOS))
    _, v2t = dense_ranks(two_stage(first, modular, 3), np.arange(VIDEOS))
    assert ranks.by_score["modular"].t2v.values.tolist() == t2v
    assert ranks.by_score["modular"].v2t.values.tolist() == v2t
    assert ranks.reranked == 3


def test_the_ranks_of_all_queries_are_kept(metrics, ranks_file):
    names = [f"test-{video:06d}" for video in range(VIDEOS)]
    for score in ("global", "modular", "blend"):
        for direction in ("t2v", "v2t"):
            ranks, video = load_ranks(ranks_file, direction, score)
            assert ranks.values.mean() == metrics[f"{score}/{direction}/mnr"]
            assert list(video) == names and ranks.gallery == VIDEOS


def test_the_score_of_record_is_the_blend_or_the_global_score(folder, metrics):
    assert metrics["t2v/r5"] == metrics["blend/t2v/r5"]
    evaluator, _, params = make(folder, "global_only")
    plain = evaluator.evaluate(params, "test")
    assert plain["t2v/mnr"] == plain["global/t2v/mnr"]
    assert not any(
        name.startswith(("leak", "text_mask", "video_mask", "modular", "blend")) for name in plain
    )
    assert "grounding/modular/hit" not in plain and "grounding/frame/hit" in plain
    assert "sentence_of_frame/frame/accuracy" in plain
    assert "sentence_of_frame/modular/accuracy" not in plain


def test_frames_look_for_their_sentence_among_those_of_their_video(full, metrics):
    evaluator, _, params = full
    hits = {"frame": [], "modular": []}
    context = evaluator.context(params, "test")
    video, times = context.embeddings.video, context.embeddings.timestamps
    for v in range(VIDEOS):
        mine = [found for found in context.timed_sentences if found.sentence.video == v]
        for f in np.flatnonzero(video.frame_mask[v]):
            spans = [x.sentence.windows[0] for x in mine]  # one a sentence
            holds = [start <= times[v, f] < end for start, end in spans]
            if sum(holds) == 1 and len(mine) > 1:
                for kind, found in hits.items():
                    found.append(holds[np.argmax([getattr(x, kind)[f] for x in mine])])
    assert metrics["sentence_of_frame/frames"] == len(hits["frame"]) > 0
    for kind, found in hits.items():
        assert metrics[f"sentence_of_frame/{kind}/accuracy"] == pytest.approx(np.mean(found))


def test_mask_densities_are_means_over_the_valid_frames(full, metrics):
    evaluator, spec, params = full
    embedded = evaluator.context(params, "test").embeddings
    model = spec.model(params)
    masks = model.own_masks(embedded.video, model.prepare(embedded.text))
    valid = embedded.video.frame_mask
    assert metrics["text_mask_density"] == pytest.approx(float(masks.text[valid].mean()), abs=1e-6)
    assert metrics["video_mask_density"] == pytest.approx(
        float(masks.video[valid].mean()), abs=1e-6
    )


def test_mask_densities_in_named_events_unnamed_ones_and_gaps(folder, full, metrics):
    evaluator, _, params = full
    context = evaluator.context(params, "test")
    source, embedded = open_split(folder, "test"), context.embeddings
    found = {"named": [], "unnamed": [], "gap": []}
    for v in range(VIDEOS):
        events = json.loads(source[v].truth)["events"]
        for f in np.flatnonzero(embedded.video.frame_mask[v]):
            time = embedded.timestamps[v, f]
            held = [event["named"] for event in events if event["start"] <= time < event["end"]]
            group = "gap" if not held else "named" if held[0] else "unnamed"
            found[group].append(context.matching_masks.text[v, f].mean())
    assert all(found.values())
    for group, shares in found.items():
        assert metrics[f"text_mask_density/{group}"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_rows_are_padded_to_the_devices_and_change_no_metric(folder, metrics):
    evaluator, _, params = make(folder, mesh=mesh_lib.make_mesh(data=8), eval__batch_size=5)
    other = evaluator.evaluate(params, "test", blend_weight=1.0)
    assert other == pytest.approx(metrics, abs=1e-4)


def test_timelines_have_the_sentences_with_their_spans_on_valid_frames(full):
    evaluator, _, params = full
    timelines = evaluator.timelines(params, "test", 2)
    assert [item.video_id for item in timelines] == ["test-000000", "test-000001"]
    for item in timelines:
        frames = len(item.frames)
        assert item.scores.shape == (len(item.sentences), frames)
        assert len(item.windows) == len(item.sentences)
        assert item.text_concepts.shape == (frames, tiny.D)
        assert all(start < end for windows in item.windows for start, end in windows)


def test_an_evaluation_added_to_the_table_is_in_the_metrics_and_the_report(
    folder, monkeypatch, tmp_path
):
    def spread(context):
        assert context.split == "test" and len(context.timed_sentences) > 0
        return {"spread/video": 0.125, "spread/seen": float(context.num_videos)}

    labels = {"spread/video": "spread of videos, %", "spread/seen": "videos seen"}
    monkeypatch.setitem(EVALUATIONS, "spread", Evaluation(spread, "Spread", "Wide?", labels))
    monkeypatch.setitem(EVALUATIONS, "masked", Evaluation(spread, "", applies=lambda c: False))
    late = Evaluation(lambda _: {"late": 1.0}, "", final_only=True)
    monkeypatch.setitem(EVALUATIONS, "late", late)
    evaluator, _, params = make(folder, "global_only")
    metrics = evaluator.evaluate(params, "test")
    assert metrics["spread/video"] == 0.125 and "late" not in metrics
    assert evaluator.evaluate(params, "test", final=True)["late"] == 1.0

    (tmp_path / "config.json").write_text("{}")
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(3, {f"validation/{name}": value for name, value in metrics.items()})
    text = write_report(tmp_path, []).read_text()
    assert "<h2>Spread</h2>\n<p>Wide?</p>" in text
    assert "<th>split</th><th>spread of videos, %</th><th>videos seen</th>" in text
    assert f"<td>validation</td><td>12.5</td><td>{VIDEOS}.0</td>" in text
    assert (tmp_path / "plots" / "evaluation_spread.png").exists()

    monkeypatch.setitem(EVALUATIONS, "twice", Evaluation(lambda _: {"gallery": 0.0}, ""))
    with pytest.raises(ValueError, match=r"twice: \['gallery'\]"):
        evaluator.evaluate(params, "test")
