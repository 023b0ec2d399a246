"""The library gives the scores of an evaluation, and costs nothing before it is used."""

import subprocess
import sys

import numpy as np
import pytest

from mova_jax import config as config_lib
from mova_jax.data.images import encode_ppm
from mova_jax.evaluation.context import EvalContext
from mova_jax.evaluation.query_ranks import record_scores
from tests.clips import video_record, write_shards
from tests.search.library_model import make_model

CAPTIONS = [
    ("a red circle moves left.", "then it stops."),
    ("it stops.",),
    ("left, left, left!", "a circle.", "a red one moves."),
]


@pytest.mark.parametrize("objective", ["parts_ordered", "full"])
def test_scores_are_those_of_an_evaluation_to_the_last_bit(objective, tmp_path):
    model = make_model(tmp_path, objective)
    rng = np.random.default_rng(0)
    records = [
        video_record(
            f"v{i}",
            said,
            frames=[encode_ppm(rng.integers(256, size=(16, 16, 3), dtype="u1"))] * (i + 1),
        )
        for i, said in enumerate(CAPTIONS)
    ]
    write_shards(tmp_path / "shards", {"test": records})
    context = EvalContext(
        model.config, model.fns, tmp_path / "shards", model.tokenizer, model.params, "test"
    )
    expected = record_scores(context.dense_scores(), model.weight)
    texts = [" ".join(said) for said in CAPTIONS]
    np.testing.assert_array_equal(model.score(context.embeddings.video, texts), expected)
    assert len(np.unique(expected)) == expected.size


def test_a_model_is_known_to_a_version_that_has_more_keys(tmp_path, monkeypatch):
    model = make_model(tmp_path)
    before = model.fingerprint
    del model.fingerprint  # it is computed once
    name = "model.vision.mean"
    value = config_lib.flatten(model.config)[name]
    monkeypatch.setitem(config_lib.KEYS, name, config_lib.KEYS[name]._replace(before=None))
    assert model.fingerprint != before  # as if the key had always been there
    del model.fingerprint
    monkeypatch.setitem(config_lib.KEYS, name, config_lib.KEYS[name]._replace(before=value))
    assert model.fingerprint == before
    assert make_model(tmp_path, seed=1).fingerprint != before


def test_the_package_imports_nothing_heavy():
    code = "import sys, mova_jax; print({'jax', 'numpy', 'transformers', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
