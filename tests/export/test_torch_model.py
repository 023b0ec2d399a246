"""The PyTorch twin against our model, output by output and gradient by gradient, and alone."""

import ast
import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import save_file

from mova_jax.config import CHOICES, flatten
from mova_jax.export import torch_model
from mova_jax.losses import objective
from mova_jax.losses import scores as scores_lib
from mova_jax.models import layers
from mova_jax.typing import Batch
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.torch_names import from_torch, to_torch
from tests import tiny

B, BLEND, STEP = 6, 0.5, 1
# Together they have every layout, head, pool, kind of masks and form of a loss.
VARIANTS = {
    # Scores by another pool than it is trained with.
    "full": {"losses__pair_block": 2, "losses__pool": "aligned", "eval__pool": "joint"},
    "paper": {"objective": "paper", "model__tmn__detach_tokens": True, "losses__pool": "mean"},
    "joint": {
        "model__tmn__layout": "joint",
        "model__masks__kind": "soft",
        "model__masks__temperature": 0.5,
        "model__cmn__sees_frame": True,
        "model__cmn__detach_tokens": False,
        "model__activation": "quick_gelu",
        "losses__pool": "softmax",
        "losses__frame_form": "relative",
        "losses__frame_negatives": "all",
    },
    "tokens": {
        "objective": "token_mask",
        "model__masks__init_bias": 2.0,
        "model__tmn__layers": 1,
        "losses__pool": "joint",
        "losses__hard_pairs": 2,
        "losses__dfsm_masks": "own",
        "losses__warmup_steps": 4,
    },
    "no_cmn": {
        "model__cmn__kind": "none",
        "model__embed_dim": tiny.W,
        "model__tmn__token_layers": 1,
        "model__text__frozen_positions": 2,
        "model__text__layers": 2,
        "losses__pool": "mean",
        "losses__dfsm": 0.0,
        "losses__hard_pairs": B - 1,
        "losses__pair_block": 3,
        "losses__detach_towers": True,
    },
    "cmn_only": {"objective": "cmn_only", "losses__pool": "aligned", "losses__dfsm_masks": "own"},
    "frame_weighting": {"objective": "frame_weighting", "losses__pool": "aligned"},
    "global_only": {"objective": "global_only", "model__global_head": "seq_transformer"},
    # Most masks are closed, so that parts have no length, and the scales are above their cap.
    "closed": {"model__masks__init_bias": -1.0, "losses__pool": "joint", "losses__frame": 1.0},
}


def changes(variant):
    """The configuration's changes; frames lie between the rows of four positions."""
    common = {"model__frame_positions": 4, "train__batch_size": B, "eval__pool": "training"}
    return common | VARIANTS[variant]


def arrays():
    """Several lengths, fewer tokens than the context, a row without frames and one without text."""
    found = tiny.batch_arrays(B)
    found["frame_mask"][-1] = False
    found["tokens"] = found["tokens"][:, 1:].copy()
    found["token_mask"] = tiny.masks_of_lengths([4, 5, 3, 2, 0, 5], tiny.L - 1)
    return found


@functools.partial(tiny.jit, static_argnums=2)
def outputs(model, batch, cfg):
    """Every named output of ours, the loss with its parts, and its gradient."""

    def loss(model):
        return objective.objective(model, batch, cfg.losses, jnp.float32(STEP))

    (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(model)
    video = model.encode_video(batch.frames, batch.frame_mask)
    text = model.encode_text(batch.tokens, batch.token_mask)
    captions = model.prepare(text)
    masks = model.own_masks(video, captions)
    found = {
        "zv": video.frames,
        "pooled": video.pooled,
        "y": text.tokens,
        "zt": text.pooled,
        "masks.text": masks.text,
        "masks.video": masks.video,
        "masks.part": masks.part,
        "masks.kept_text": masks.text_mask_density,
        "timeline": scores_lib.pair_parts(video.frames, masks).cosine,
        "global": objective.global_scores(video, text),
        "loss": value,
        **{f"loss.{name}": part for name, part in parts.items()},
    }
    if cfg.model.modular_scale:
        how = objective.pair_scoring(cfg.losses, cfg.eval.pool)
        found["modular"] = objective.pair_scores(model, video, captions, None, how).score
        found["blend"] = found["global"] + BLEND * found["modular"]
    return found, gradient


def numpy_of(tree):
    """Parameters or gradients by name."""
    return {n: np.asarray(x) for n, x in parameter_names(nnx.to_pure_dict(tree)).items()}


@functools.cache
def ours(variant):
    """Parameters, outputs and gradients, by name."""
    cfg = tiny.config(**changes(variant))
    model = tiny.model(**changes(variant))
    if variant == "closed":
        model.logit_scale[...], model.modular_logit_scale[...] = 5.0, 6.0
    batch = Batch(**{name: jnp.asarray(x) for name, x in arrays().items()})
    found, gradient = outputs(model, batch, cfg)
    return (
        numpy_of(nnx.state(model)),
        jax.tree.map(np.asarray, found),
        numpy_of(nnx.state(gradient)),
    )


def config_of(variant):
    """config.json."""
    cfg = tiny.config(**changes(variant))
    made = {"format": "mova_jax", "format_version": 1, "blend_weight": BLEND}
    made |= {"model": dataclasses.asdict(cfg.model), "losses": dataclasses.asdict(cfg.losses)}
    made["score_pool"] = objective.pair_scoring(cfg.losses, cfg.eval.pool).pool
    return json.loads(json.dumps(made))


def twin(variant):
    """The twin with our weights."""
    model = torch_model.Mova(config_of(variant))
    tensors = to_torch(ours(variant)[0])
    model.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    return model


@functools.cache
def inputs():
    """Of the twin."""
    names = ("frames", "frame_mask", "tokens", "token_mask")
    return tuple(torch.from_numpy(arrays()[name]) for name in names)


@functools.cache
def theirs(variant):
    """Outputs of the twin, its gradients by our names, and the logits of its masks."""
    model = twin(variant)
    frames, frame_mask, tokens, token_mask = inputs()
    spy = mock.patch.object(torch_model, "straight_through", wraps=torch_model.straight_through)
    with torch.no_grad():
        video, text = model.encode_video(frames, frame_mask), model.encode_text(tokens, token_mask)
        with spy as called:
            masks = model.masks(video, text)
        found = {"zv": video.frames, "pooled": video.pooled, "y": text.tokens, "zt": text.pooled}
        found |= {f"masks.{name}": x for name, x in masks._asdict().items()}
        found |= {"timeline": model.timeline(video, text)} | model.scores(video, text)
    loss, parts = model.losses(frames, frame_mask, tokens, token_mask, STEP)
    loss.backward()
    found |= {"loss": loss.detach()} | {f"loss.{name}": x for name, x in parts.items()}
    gradients = {
        name: (torch.zeros_like(x) if x.grad is None else x.grad).numpy()
        for name, x in model.named_parameters()
    }
    shapes = {name: x.shape for name, x in ours(variant)[0].items()}
    logits = [(call.args[0] + call.args[1]["init_bias"]).numpy() for call in called.call_args_list]
    return {n: x.numpy() for n, x in found.items()}, from_torch(gradients, shapes), logits


def assert_near(got, expected, relative, name=""):
    """The largest difference against the largest value."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, name
    assert np.isfinite(got).all(), name
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max(), name


# -- parity


def test_the_variants_have_every_choice_there_is():
    made = [flatten(tiny.config(**changes(variant))) for variant in VARIANTS]
    # The twin computes in float32, and scores by the pools that it trains by.
    of_the_model = {name for name in CHOICES if name.startswith(("model.", "losses."))}
    for name in of_the_model - {"model.dtype", "model.remat"}:
        assert {config[name] for config in made} == set(CHOICES[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_and_every_part_of_the_loss_is_ours(variant):
    _, expected, _ = ours(variant)
    got, _, _ = theirs(variant)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert_near(got[name], value, 1e-5, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_gradient_is_ours(variant):
    _, _, expected = ours(variant)
    _, got, _ = theirs(variant)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert_near(got[name], value, 1e-4, name)
    assert np.abs(expected["logit_scale"]) > 0


@pytest.mark.parametrize("variant", ["full", "paper", "no_cmn", "cmn_only", "closed"])
def test_hard_masks_are_the_same_but_at_the_threshold(variant):
    _, expected, _ = ours(variant)
    got, _, logits = theirs(variant)
    names = {"no_cmn": ["masks.text"], "cmn_only": ["masks.video"]}
    names = names.get(variant, ["masks.text", "masks.video"])
    for name, logit in zip(names, logits, strict=True):
        assert set(np.unique(got[name])) <= {0.0, 1.0}
        same = (got[name] == expected[name]) | (np.abs(logit) < 1e-6)
        assert same.all() and 0 < got[name].mean() < 1


def test_parts_without_length_are_met():
    _, found, _ = ours("closed")
    valid = arrays()["frame_mask"]
    empty = ~found["masks.part"].any(-1)
    assert 0.1 < empty[valid].mean() < 0.9
    assert not found["timeline"][empty].any()
    assert found["loss.scale"] == found["loss.modular_scale"] == 100.0


def test_blocks_of_pairs_change_nothing():
    model = twin("joint")
    frames, frame_mask, tokens, token_mask = inputs()
    with torch.no_grad():
        video, text = model.encode_video(frames, frame_mask), model.encode_text(tokens, token_mask)
        video = torch_model.Video(*(x[:3] for x in video))
        whole, parts = model.scores(video, text), model.scores(video, text, block=2)
    assert whole["modular"].shape == (3, B)
    for name, value in whole.items():
        assert_near(parts[name], value, 1e-6, name)


def test_a_block_of_pairs_is_made_again_in_the_backward_pass():
    model, calls = twin("full"), []
    model.tmn.register_forward_hook(lambda *_: calls.append(1))
    loss, _ = model.losses(*inputs(), STEP)
    assert len(calls) == 1 + B // 2  # masks of the own pairs, and blocks of two videos
    loss.backward()
    assert len(calls) == 1 + 2 * (B // 2)


def test_a_frame_alone_is_the_frame_in_its_video():
    frames, frame_mask, _, _ = inputs()
    with torch.no_grad():
        alone = twin("full").encode_frames(frames[frame_mask])
    assert_near(alone, ours("full")[1]["zv"][frame_mask], 1e-5)


# -- pieces


def test_positions_are_ours_for_any_frames():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    mask = rng.random((20, 9)) < 0.6
    mask[0], mask[1] = False, True
    got = torch_model.positions_of(torch.from_numpy(rows), torch.from_numpy(mask))
    assert_near(got, layers.positions_of(jnp.asarray(rows), jnp.asarray(mask)), 1e-6)


def test_a_query_with_nothing_to_look_at_returns_nothing():
    query, key, value = torch.randn(3, 2, 4, 6, requires_grad=True).unbind(0)
    mask = torch.tensor([[True, False, True, True], [False] * 4])[:, None]
    found = torch_model.attend(3, query, key, value, mask)
    (gradient,) = torch.autograd.grad(found.square().sum(), value)
    assert found[0].abs().min() > 0 and not found[1].any()
    assert gradient[0, 0].abs().min() > 0 and not gradient[0, 1].any() and not gradient[1].any()


def test_hard_candidates_are_ours_also_where_scores_tie():
    scores = np.array([[0, 3, 3, 1, 3], [2, 9, 2, 2, 2], [0, 0, 0, 0, 0], [4, 3, 2, 9, 1], [0] * 5])
    valid = np.array([True, True, False, True, True])
    for k in (1, 2, 4):
        masked = jnp.where(jnp.asarray(valid), scores, -jnp.inf)
        expected = scores_lib.hard_candidates(masked, k)
        tensors = torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(valid)
        np.testing.assert_array_equal(torch_model.hard_candidates(*tensors, k), expected)


# -- a file that stands alone


def exported(folder, variant):
    """Weights, configuration and the code itself in one folder, as a user has them."""
    save_file(twin(variant).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(variant)))
    return folder


def test_the_file_imports_torch_and_safetensors_only():
    tree = ast.parse(pathlib.Path(torch_model.__file__).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module)
    roots = {name.split(".")[0] for name in found}
    assert {"torch", "safetensors"} < roots
    assert roots - {"torch", "safetensors"} <= set(sys.stdlib_module_names)


ALONE = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"jax", "jaxlib", "flax", "numpy", "mova_jax", "tests"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file
from torch_model import Mova

model, batch = Mova.from_pretrained(sys.argv[1]), load_file(sys.argv[1] + "/batch.safetensors")
with torch.no_grad():
    video = model.encode_video(batch["frames"], batch["frame_mask"])
    text = model.encode_text(batch["tokens"], batch["token_mask"])
    found = model.scores(video, text) | {"loss": model.losses(**batch, step=1)[0]}
print(json.dumps({name: x.tolist() for name, x in found.items()}))
assert not any(x.requires_grad for n, x in model.named_parameters() if "frozen" in n)
assert all(x.requires_grad for n, x in model.named_parameters() if "frozen" not in n)
"""


def test_a_copy_of_the_file_beside_the_weights_is_all_there_has_to_be(tmp_path):
    folder = exported(tmp_path, "no_cmn")
    shutil.copy(torch_model.__file__, folder)
    names = ("frames", "frame_mask", "tokens", "token_mask")
    save_file(dict(zip(names, inputs(), strict=True)), folder / "batch.safetensors")
    command = [sys.executable, "-I", "-c", ALONE, str(folder)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found, expected = json.loads(run.stdout), theirs("no_cmn")[0]
    assert set(found) == {"global", "modular", "blend", "loss"}
    for name, value in found.items():
        assert_near(value, expected[name], 1e-6, name)


def test_all_that_is_wrong_with_weights_is_told_at_once(tmp_path):
    tensors = twin("full").state_dict()
    del tensors["logit_scale"]
    tensors["cmn.colour"] = torch.zeros(2)
    tensors["text.positions"] = torch.zeros(3, tiny.W)
    folder = exported(tmp_path, "full")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RuntimeError) as error:
        torch_model.Mova.from_pretrained(folder)
    told = str(error.value)
    assert all(name in told for name in ("logit_scale", "cmn.colour", "text.positions"))


def test_another_format_is_refused(tmp_path):
    folder = exported(tmp_path, "full")
    (folder / "config.json").write_text(json.dumps(config_of("full") | {"format_version": 2}))
    with pytest.raises(ValueError, match="format_version 1"):
        torch_model.Mova.from_pretrained(folder)
