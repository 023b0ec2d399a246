"""The metrics of a run as a report reads them."""

import pytest

from mova_jax.report.run_metrics import RunMetrics, gallery_description, read_run


def named(*names: str) -> RunMetrics:
    return RunMetrics({name: {1: 0.5} for name in names})


def test_losses_splits_and_scores_have_their_order():
    metrics = named(
        *("train/sfdm", "train/contrast", "train/loss", "train/grad_norm", "train/t2v/r1"),
        *(f"{split}/t2v/r1" for split in ("validation", "mine", "test")),
        *(f"test/{score}/t2v/r1" for score in ("blend", "global")),
        *(
            f"{split}/grounding/{kind}/hit"
            for split in ("ood", "test")
            for kind in ("frame", "modular")
        ),
    )
    assert list(metrics.losses()) == ["loss", "contrast", "sfdm"]
    assert metrics.splits_with(["t2v/r1", "other"]) == ["test", "validation", "mine"]
    assert metrics.scores("test") == ["global", "blend"]
    both = ["modular", "frame"]
    assert metrics.grounded() == [(split, kind) for split in ("test", "ood") for kind in both]


def test_resumed_steps_count_once_and_not_finite_values_are_left_out(tmp_path):
    rows = ['{"step": 2, "train/loss": 9}', '{"step": 1, "train/loss": 3}']
    rows += ['{"step": 2, "train/loss": 2}', '{"step": 3, "train/loss": null}']
    (tmp_path / "m.jsonl").write_text("\n".join(rows) + "\n")
    metrics = read_run(tmp_path / "m.jsonl")
    curve = metrics.curve("train/loss")
    assert curve.steps.tolist() == [1, 2] and curve.values.tolist() == [3, 2]
    assert metrics.last("train/loss") == 2 and metrics.last_step() == 2


def test_chance_with_several_captions_a_video():
    metrics = RunMetrics({"test/gallery": {1: 10.0}, "test/gallery_captions": {1: 20.0}})
    assert metrics.chance("test", "t2v")["r1"] == pytest.approx(10)
    # Of 20 captions 2 are right: the first of a random order is right in 1 of 10 cases, and the
    # first five are all wrong in 18/20 17/19 16/18 15/17 14/16 of them.
    both = metrics.chance("test", "v2t")
    assert both["r1"] == pytest.approx(10)
    wrong = 18 * 17 * 16 * 15 * 14 / (20 * 19 * 18 * 17 * 16)
    assert both["r5"] == pytest.approx(100 * (1 - wrong))
    assert metrics.chance("validation", "t2v") == {}


def test_a_gallery_is_described_with_its_queries():
    assert gallery_description(670.0, 27763.0) == "670 videos, 27,763 captions, each a query"
    assert gallery_description(1000.0, 1000.0) == "1,000 videos, one caption each"
    assert gallery_description(1000.0, None) == "1,000 videos"
