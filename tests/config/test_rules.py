"""Keys that contradict each other give one problem each."""

import pytest

from tests.config.problems import problems_of


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model__text__heads": 5}, "model.text.heads: 5 heads do not divide model.text.width"),
        ({"model__vision__heads": 5}, "model.vision.heads: 5 heads do not divide"),
        ({"model__vision__mean": (0.5, 0.5)}, "model.vision.mean: got (0.5, 0.5), expected three"),
        ({"model__vision__mean": (0.5, 0.5, "0.5")}, "expected three numbers, of red"),
        ({"model__vision__std": (0.5, 0.5, 0.0)}, "expected three numbers above 0, of red"),
        ({"model__vision__std": (0.5, 0.5, float("nan"))}, "expected three numbers above 0"),
        ({"data__token_buckets": (64, 128)}, "end at model.text.context = 248"),
        ({"data__token_buckets": (128, 64, 248)}, "expected rising lengths"),
        ({"data__token_buckets": ()}, "expected rising lengths"),
        ({"data__token_buckets": ("64", 248)}, "expected rising lengths"),
        ({"model__text__frozen_positions": 248}, "must be under model.text.context 248"),
        ({"optim__warmup_steps": 10**6}, "optim.warmup_steps 1000000 must be under train.steps"),
        ({"model__modular_scale": 0.0}, "losses.sfdm and losses.dfsm need model.modular_scale > 0"),
        ({"losses__sparsity": 0.1}, "losses.sparsity need masks"),
        (
            {"losses__frame": 0.1, "data__parts": 0, "losses__order": 0.0},
            "losses.frame need masks or divided captions: set them to 0, or data.parts above 0",
        ),
        ({"losses__hard_pairs": 2}, "losses.dfsm_masks = 'pair' needs the score of every pair"),
        ({"train__microbatch": 5}, "train.microbatch: got 5, expected 0 (all rows at once)"),
        ({"train__microbatch": 64}, "or what divides train.batch_size 32"),
        ({"mesh__data": 0}, "mesh.data: got 0"),
        ({"mesh__tensor": 0}, "mesh.tensor: got 0"),
        ({"mesh__fsdp": -1}, "mesh.data, mesh.fsdp: only one of them may be -1"),
        ({"optim__learning_rate": float("nan")}, "expected a finite number"),
        ({"model__masks__init_bias": float("inf")}, "expected a finite number"),
        ({"optim__groups": ()}, "(regex, factor >= 0) pairs"),
        ({"optim__groups": (("text/.*", 1.0),)}, "the last for '.*'"),
        ({"optim__groups": (("text/.*", -1.0), (".*", 1.0))}, "factor >= 0"),
        ({"optim__groups": (("text/.*", "slow"), (".*", 1.0))}, "factor >= 0"),
        ({"optim__groups": (("text/(", 0.1), (".*", 1.0))}, "regex"),
        ({"optim__groups": ("text", (".*", 1.0))}, "pairs"),
        ({"data__mixture": (("shards", 0.0),)}, "data.mixture: got (('shards', 0.0),), expected"),
        ({"data__mixture": (("shards", True),)}, "weight > 0"),
        ({"data__cache": "gs://bucket/cache"}, "data.cache: got the URL gs://bucket/cache"),
        ({"data__mixture": ("shards", "tfds:b")}, "weight > 0"),
        ({"data__mixture": (("shards", 1), ("shards", 2.0))}, "each source once"),
    ],
)
def test_one_contradiction_gives_one_problem(changes, expected):
    problems = problems_of(**changes)
    assert len(problems) == 1 and expected in problems[0], problems
