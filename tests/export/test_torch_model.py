"""The PyTorch model against the JAX model: outputs, gradients, and the file by itself."""

import ast
import dataclasses
import functools
import json
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import save_file

from mova_jax.config import KEYS, flatten
from mova_jax.export import torch_model
from mova_jax.export.torch_model import mova
from mova_jax.export.torch_model.masks import straight_through
from mova_jax.export.torch_model.towers import attend, positions_of
from mova_jax.losses.scores import global_scores, pair_scores, pair_sums, search_scoring
from mova_jax.models import layers
from mova_jax.typing import Batch
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.torch_names import from_torch, to_torch
from tests import tiny

B, BLEND = 6, 0.5
# Together they have every layout, head, pool and kind of masks.
VARIANTS = {
    # Evaluated with another pool than it is trained with.
    "full": {"losses__pool": "aligned", "eval__pool": "joint"},
    "paper": {"objective": "paper", "model__tmn__detach_tokens": True, "losses__pool": "mean"},
    "joint": {
        "model__tmn__layout": "joint",
        "model__masks__kind": "soft",
        "model__cmn__sees_frame": True,
        "model__cmn__detach_tokens": False,
        "model__activation": "quick_gelu",
        "losses__pool": "softmax",
    },
    "tokens": {
        "objective": "token_mask",
        "model__masks__init_bias": 2.0,
        "model__tmn__layers": 1,
        "losses__pool": "joint",
    },
    "no_cmn": {
        "model__cmn__kind": "none",
        "model__embed_dim": tiny.W,
        "model__text__frozen_positions": 2,
        "model__text__layers": 2,
        "losses__pool": "mean",
    },
    "cmn_only": {
        "objective": "cmn_only",
        "losses__pool": "aligned",
        "model__masks__kind": "annealed",
    },
    "frame_weighting": {"objective": "frame_weighting", "losses__pool": "aligned"},
    "global_only": {"objective": "global_only", "model__global_head": "seq_transformer"},
    # Captions by parts: with no masks, with those of texts, with those of frames and texts.
    "parts_ordered": {"objective": "parts_ordered"},
    "part_concepts": {"objective": "part_concepts", "losses__pool": "max"},
    "part_masks": {"objective": "part_masks", "losses__hard_pairs": 2},
    # The order alone counts; masks differ from frame to frame.
    "part_masks_ordered": {
        "objective": "part_masks_ordered",
        "losses__hard_pairs": 2,
        "losses__order": 1.0,
        "model__masks__kind": "soft",
    },
    # Most masks are closed, so that parts have no length.
    "closed": {"model__masks__init_bias": -1.0, "losses__pool": "joint"},
}


def changes(variant):
    """The configuration's changes; frames lie between the rows of four positions."""
    common = {"model__frame_positions": 4, "train__batch_size": B, "eval__pool": "training"}
    return common | VARIANTS[variant]


@functools.cache
def arrays():
    """Several lengths, fewer tokens than the context, a row without frames and one without text."""
    found = tiny.batch_arrays(B) | tiny.part_arrays(B)
    found["frame_mask"][-1] = False
    found["frame_mask"][0] = [True, False, True]
    found["part_token_mask"][-2] = False
    found["tokens"] = found["tokens"][:, 1:].copy()
    found["token_mask"] = tiny.masks_of_lengths([4, 5, 3, 2, 0, 5], tiny.L - 1)
    return found


def weighted_sum(found):
    """A scalar whose gradient runs through every score and cosine."""
    rng, total = np.random.default_rng(1), 0.0
    for name in ("global", "modular", "timeline"):
        if name in found:
            weights = rng.normal(size=tuple(found[name].shape)).astype(np.float32)
            tensor = isinstance(found[name], torch.Tensor)
            total = total + (found[name] * (torch.from_numpy(weights) if tensor else weights)).sum()
    return total


@functools.partial(tiny.jit, static_argnums=2)
def jax_outputs(model, batch, cfg):
    """Every named output of the JAX model, and the gradient of their weighted sum."""

    def outputs(model):
        video = model.encode_video(batch.frames, batch.frame_mask)
        texts = batch.tokens, batch.token_mask, batch.part_tokens, batch.part_token_mask
        text = model.encode_text(*texts if cfg.data.parts else texts[:2])
        captions = model.prepare(text)
        masks = model.own_masks(video, captions)
        found = {"zv": video.frames, "pooled": video.pooled, "y": text.tokens, "zt": text.pooled}
        found |= {"masks.text": masks.text, "masks.video": masks.video, "masks.part": masks.part}
        frames = video.frames[:, None] if cfg.data.parts else video.frames
        found["timeline"] = pair_sums(frames, masks).cosine
        found["global"] = global_scores(video, text)
        if cfg.model.modular_scale:
            scoring = search_scoring(cfg.losses, cfg.eval)._asdict()
            found["modular"] = pair_scores(model, video, captions, **scoring)
            found["blend"] = found["global"] + BLEND * found["modular"]
        return weighted_sum(found), found

    (_, found), gradient = jax.value_and_grad(outputs, has_aux=True)(model)
    return found, gradient


def numpy_of(tree):
    """Parameters or gradients by name."""
    return {n: np.asarray(x) for n, x in parameter_names(nnx.to_pure_dict(tree)).items()}


@functools.cache
def in_jax(variant):
    """Parameters, outputs and gradients of the JAX model, by name."""
    cfg, model = tiny.config(**changes(variant)), tiny.model(**changes(variant))
    batch = Batch(**{name: jnp.asarray(x) for name, x in arrays().items()})
    found, gradient = jax_outputs(model, batch, cfg)
    found = {name: np.asarray(x) for name, x in found.items()}
    return numpy_of(nnx.state(model)), found, numpy_of(nnx.state(gradient))


def config_of(variant):
    """config.json."""
    cfg = tiny.config(**changes(variant))
    scoring = search_scoring(cfg.losses, cfg.eval)
    made = {"format": "mova_jax", "format_version": 3, "blend_weight": BLEND}
    made |= {"model": dataclasses.asdict(cfg.model), "parts": cfg.data.parts}
    made |= {"score_pool": scoring.pool, "score_order": scoring.order}
    return json.loads(json.dumps(made))


def torch_model_of(variant):
    """The PyTorch model with the weights of the JAX model."""
    model = torch_model.Mova(config_of(variant))
    tensors = to_torch(in_jax(variant)[0])
    model.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    return model


def encoded(model):
    """`arrays` through the PyTorch encoders."""
    names = ("frames", "frame_mask", "tokens", "token_mask", "part_tokens", "part_token_mask")
    frames, frame_mask, *texts = (torch.from_numpy(arrays()[name]) for name in names)
    texts = texts if model.config["parts"] else texts[:2]
    return model.encode_video(frames, frame_mask), model.encode_text(*texts)


@functools.cache
def in_torch(variant):
    """Outputs of the PyTorch model, gradients by our names, and the logits of its masks."""
    model = torch_model_of(variant)
    video, text = encoded(model)
    spy = mock.patch.object(mova, "straight_through", wraps=straight_through)
    with torch.no_grad(), spy as called:
        masks = model.masks(video, text)
    found = {"zv": video.frames, "pooled": video.pooled, "y": text.tokens, "zt": text.pooled}
    found |= {f"masks.{name}": x for name, x in masks._asdict().items()}
    found |= {"timeline": model.timeline(video, text)} | model.scores(video, text)
    weighted_sum(found).backward()
    gradients = {
        name: (torch.zeros_like(x) if x.grad is None else x.grad).numpy()
        for name, x in model.named_parameters()
    }
    shapes = {name: x.shape for name, x in in_jax(variant)[0].items()}
    logits = [(call.args[0] + call.args[1]["init_bias"]).numpy() for call in called.call_args_list]
    gradients, _ = from_torch(gradients, shapes)
    return {n: x.detach().numpy() for n, x in found.items()}, gradients, logits


def assert_near(got, expected, relative, name=""):
    """The largest difference against the largest value."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, name
    assert np.isfinite(got).all(), name
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max(), name


# -- parity


def test_the_variants_have_every_choice_of_the_model_and_every_pool():
    made = [flatten(tiny.config(**changes(variant))) for variant in VARIANTS]
    names = {name for name in KEYS if KEYS[name].choices and name.startswith("model.")} | {
        "losses.pool"
    }
    # How JAX computes, which the model in PyTorch does not know of: it computes in float32.
    for name in names - {"model.dtype", "model.remat", "model.attention"}:
        assert {config[name] for config in made} == set(KEYS[name].choices), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_is_that_of_jax(variant):
    expected, got = in_jax(variant)[1], in_torch(variant)[0]
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert_near(got[name], value, 1e-5, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_gradient_through_the_scores_is_that_of_jax(variant):
    expected, got = in_jax(variant)[2], in_torch(variant)[1]
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert_near(got[name], value, 1e-4, name)
    assert np.abs(expected["text/token_embedding"]).max() > 0


@pytest.mark.parametrize("variant", ["full", "paper", "no_cmn", "cmn_only", "part_masks", "closed"])
def test_hard_masks_differ_at_the_threshold_only(variant):
    expected, (got, _, logits) = in_jax(variant)[1], in_torch(variant)
    names = {"no_cmn": ["masks.text"], "cmn_only": ["masks.video"]}
    names = names.get(variant, ["masks.text", "masks.video"])
    for name, logit in zip(names, logits, strict=True):
        assert set(np.unique(got[name])) <= {0.0, 1.0}
        same = (got[name] == expected[name]) | (np.abs(logit) < 1e-6)
        assert same.all() and 0 < got[name].mean() < 1


def test_closed_masks_leave_parts_without_length():
    found = in_jax("closed")[1]
    empty = ~found["masks.part"].any(-1)
    assert 0.1 < empty[arrays()["frame_mask"]].mean() < 0.9
    assert not found["timeline"][empty].any()


@pytest.mark.parametrize("variant", ["joint", "parts_ordered"])
def test_scores_by_blocks_of_videos_are_the_same(variant):
    model = torch_model_of(variant)
    with torch.no_grad():
        video, text = encoded(model)
        video = torch_model.Video(*(x[:3] for x in video))
        whole, blocks = model.scores(video, text), model.scores(video, text, block=2)
    assert whole["modular"].shape == (3, B)
    for name, value in whole.items():
        assert_near(blocks[name], value, 1e-6, name)


# -- parts of the model


def test_positions_are_those_of_jax_for_any_frames():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    mask = rng.random((20, 9)) < 0.6
    mask[0], mask[1] = False, True
    got = positions_of(torch.from_numpy(rows), torch.from_numpy(mask))
    assert_near(got, layers.positions_of(jnp.asarray(rows), jnp.asarray(mask)), 1e-6)


def test_a_query_that_may_see_nothing_returns_zeros():
    query, key, value = torch.randn(3, 2, 4, 6, requires_grad=True).unbind(0)
    mask = torch.tensor([[True, False, True, True], [False] * 4])[:, None]
    found = attend(3, query, key, value, mask)
    (gradient,) = torch.autograd.grad(found.square().sum(), value)
    assert found[0].abs().min() > 0 and not found[1].any()
    assert gradient[0, 0].abs().min() > 0 and not gradient[0, 1].any() and not gradient[1].any()


def test_frozen_positions_are_the_only_parameters_without_a_gradient():
    parameters = torch_model_of("no_cmn").named_parameters()
    assert [n for n, x in parameters if not x.requires_grad] == ["text.positions_frozen"]


# -- files


def exported(folder, variant, **config):
    """Weights and configuration in a folder."""
    save_file(torch_model_of(variant).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(variant) | config))
    return folder


def test_the_files_import_torch_and_safetensors_only():
    roots = set()
    for file in pathlib.Path(torch_model.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.split(".")[0])
    assert {"torch", "safetensors"} < roots
    assert roots - {"torch", "safetensors"} <= set(sys.stdlib_module_names)


def test_one_error_names_all_that_is_wrong_with_weights(tmp_path):
    tensors = torch_model_of("full").state_dict()
    del tensors["logit_scale"]
    tensors["cmn.colour"] = torch.zeros(2)
    tensors["text.positions"] = torch.zeros(3, tiny.W)
    folder = exported(tmp_path, "full")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RuntimeError) as error:
        torch_model.Mova.from_pretrained(folder)
    names = ("logit_scale", "cmn.colour", "text.positions")
    assert all(name in str(error.value) for name in names)


def test_formats_1_to_3_are_read_and_others_refused(tmp_path):
    for version in (1, 2, 3):
        torch_model.Mova.from_pretrained(exported(tmp_path, "full", format_version=version))
    folder = exported(tmp_path, "full", format_version=4)
    with pytest.raises(ValueError, match="format_version"):
        torch_model.Mova.from_pretrained(folder)


def test_keys_of_format_1_count():
    """Heads, layers and temperature had keys of their own in format 1."""
    config = config_of("full")
    config["model"]["tmn"] |= {"heads": 4, "token_layers": 1}
    config["model"]["cmn"] |= {"heads": 1}
    model = torch_model.Mova(config)
    assert config["model"]["text"]["heads"] == 2
    assert {reader.heads for reader in model.tmn.readers} == {4} and len(
        model.tmn.token_blocks
    ) == 1
    assert model.cmn.blocks[0].attention.heads == 1
    logits, masks = torch.randn(5), {"kind": "soft", "init_bias": 0.0}
    steep = straight_through(logits, masks | {"temperature": 0.5})
    assert torch.equal(steep, straight_through(2 * logits, masks))
    head = {"head_layers": 2, "global_head": "seq_transformer"}
    assert len(torch_model.Mova({"model": config["model"] | head}).head.blocks) == 2
