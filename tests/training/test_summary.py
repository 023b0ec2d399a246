"""The final summary, from the metrics of a run."""

import types

from mova_jax.training.summary import final_summary
from mova_jax.utils.metric_log import MetricWriter
from tests import tiny


def test_the_summary_has_the_last_results_of_each_tested_split(tmp_path):
    metrics = {
        "test/gallery": 200.0,
        "test/t2v/r1": 40.0,
        "test/blend/t2v/r1": 40.0,
        "test/blend/v2t/r1": 35.25,
        "test/grounding/modular/hit": 0.75,
        "test/grounding/modular/chance": 0.2,
        "test/leak/own_masks_auc": 0.625,
        "validation/t2v/r1": 99.0,
    }
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"test/t2v/r1": 1.0, "test/blend/t2v/r1": 1.0})
        writer.write(2, metrics)
    config = tiny.config(eval__splits=("test", "ood_time"))
    lines = final_summary(types.SimpleNamespace(workdir=tmp_path, config=config)).splitlines()
    assert lines[0].startswith("test, ") and lines[0].endswith(", seed 0")
    assert lines[1:] == [
        "  R@1 by chance              0.5 %",
        "  R@1 by the blend    score T2V  40.0 %, V2T  35.2 %",
        "  best frame in its event, modular score 75.0% (a random frame 20.0%)",
        "  leak of identity by the masks 62.5% (chance 50%)",
        f"Look at {tmp_path / 'report.html'}",
    ]
