"""The library gives the scores of an evaluation, and costs nothing before it is used."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from mova_jax import config as config_lib
from mova_jax.data.images import encode_ppm
from mova_jax.evaluation.context import EvalContext
from mova_jax.evaluation.query_ranks import record_scores
from mova_jax.search.embedding import open_writer
from mova_jax.search.index_writer import IndexWriter
from mova_jax.utils.trees import parameter_names
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


def test_keys_of_speed_do_not_make_another_model(tmp_path):
    model = make_model(tmp_path)
    plain = config_lib.flatten(model.config)
    assert plain["model.remat"] == "none"
    before = model.fingerprint  # also that of versions in which the key counted
    for changes in ({"remat": "full"}, {"attention": "cudnn"}):
        other = make_model(tmp_path)
        changed = dataclasses.replace(model.config.model, **changes)
        other.config = dataclasses.replace(model.config, model=changed)
        assert other.fingerprint == before


def test_the_index_of_a_former_version_is_known_whatever_the_run_computes_again(tmp_path):
    model = make_model(tmp_path)
    values = config_lib.flatten(model.config) | {"model.remat": "dots"}
    former = {
        name: value
        for name, value in values.items()
        if name.startswith("model.") and value != config_lib.KEYS[name].before
    }
    digest = hashlib.blake2b(json.dumps(former, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(parameter_names(model.loaded.params).items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    about = {"model": "m", "fingerprint": digest.hexdigest(), "fps": 1.0, "dim": 8}
    IndexWriter(tmp_path / "index", about)
    assert model.fingerprint != about["fingerprint"]
    open_writer(model, tmp_path / "index", 1.0)
    assert model.has_fingerprint(about["fingerprint"])
    assert not make_model(tmp_path, seed=1).has_fingerprint(about["fingerprint"])


def test_the_package_imports_nothing_heavy():
    code = "import sys, mova_jax; print({'jax', 'numpy', 'transformers', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
