"""Loading the models of runs, also of a run that earlier code wrote."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from mova_jax.losses.scores import global_scores, pair_scores
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.checkpoint import CheckpointError, Checkpoints
from mova_jax.training.load_model import load_run
from mova_jax.training.state import make_train_spec
from mova_jax.training.workdir import RunError, claim
from mova_jax.utils.trees import parameter_names
from tests import tiny

# Written before image-caption steps, initial weights and frozen positions existed: `config.json`
# has none of their keys. `outputs.npz` holds the outputs of that code with the checkpoint.
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "0.1.0"


def test_a_checkpoint_of_an_earlier_version_loads_and_computes_the_same():
    run = load_run(GOLDEN)
    assert run.step == 4
    assert run.config.train.image_share == 0 and run.config.init_from == ""
    golden = np.load(GOLDEN / "outputs.npz")

    @tiny.jit
    def outputs(frames, frame_mask, tokens, token_mask):
        model = run.model
        video = model.encode_video(frames, frame_mask)
        text = model.encode_text(tokens, token_mask)
        captions = model.prepare(text)
        masks = model.own_masks(video, captions)
        pool = run.config.losses.pool
        return {
            "zv": video.frames,
            "pooled": video.pooled,
            "y": text.tokens,
            "zt": text.pooled,
            "text_mask": masks.text,
            "video_mask": masks.video,
            "global_scores": global_scores(video, text),
            "modular_scores": pair_scores(model, video, captions, pool=pool),
        }

    got = outputs(*(golden[k] for k in ("frames", "frame_mask", "tokens", "token_mask")))
    for name, value in got.items():
        assert np.abs(value - golden[name]).max() <= 1e-5 * np.abs(golden[name]).max(), name


def test_loading_a_run_changes_no_file(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    run = load_run(tmp_path / "run")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert run.tokenizer.is_dir() and run.metrics() == {}


def test_averaged_parameters_are_loaded_where_there_are_any(tmp_path):
    config = tiny.config(optim__ema=0.9, optim__groups=(("text/.*", 0.0), (".*", 1.0)))
    spec = make_train_spec(config, mesh_lib.make_mesh(data=1))
    state = tiny.initial(spec)
    state = dataclasses.replace(state, ema=jax.tree.map(lambda leaf: leaf + 1, state.ema))
    claim(tmp_path, config)
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save_last(state, {"next_batch": 0})
    checkpoints.close()
    found = parameter_names(load_run(tmp_path).params)
    for name, leaf in parameter_names(state.params).items():
        np.testing.assert_array_equal(found[name], leaf + (not name.startswith("text/")))


def test_a_folder_without_a_run_or_checkpoint_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.json"):
        load_run(tmp_path)
    shutil.copy(GOLDEN / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)
