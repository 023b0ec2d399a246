"""Modules that CLIP lacks start from SmartCLIP's mask network and from CLIP4Clip's rule."""

import jax
import numpy as np
import pytest
import torch

from mova_jax.models import heads
from mova_jax.weights.files import WeightsError
from mova_jax.weights.layouts import to_flax
from tests import tiny
from tests.weights import clips

SQUARE = {"model__embed_dim": tiny.W}  # joint embedding as wide as the text tower


def tensors_of(make=clips.smartclip, **changes):
    return clips.arrays(make(clips.reference(**changes).state_dict()))


# -- SmartCLIP's mask network


class MaskNetwork(torch.nn.Module):
    """SmartCLIP's, after its paper: a CLIP block, then a softmax over tokens by one vector."""

    def __init__(self, w, heads=2):
        super().__init__()
        width = w["attn_pool.attention.weight"].shape[1]
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(width) for _ in range(2)])
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.pool = torch.nn.Linear(width, 1)
        for module, name in (
            (self.norms[0], "resblocks.0.ln_1"),
            (self.norms[1], "resblocks.0.ln_2"),
            (self.up, "resblocks.0.mlp.c_fc"),
            (self.down, "resblocks.0.mlp.c_proj"),
            (self.attention.out_proj, "resblocks.0.attn.out_proj"),
            (self.pool, "attn_pool.attention"),
        ):
            module.load_state_dict({x: w[f"{name}.{x}"] for x in ("weight", "bias")})
        self.attention.in_proj_weight.data = w["resblocks.0.attn.in_proj_weight"]
        self.attention.in_proj_bias.data = w["resblocks.0.attn.in_proj_bias"]

    def forward(self, y):
        x = self.norms[0](y)
        y = y + self.attention(x, x, x, need_weights=False)[0]
        x = self.up(self.norms[1](y))
        y = y + self.down(x * torch.sigmoid(1.702 * x))
        return (torch.softmax(self.pool(y), dim=-2) * y).sum(-2)


@tiny.jit
def cmn_logits(model, parts, frames, tokens, mask):
    """`[c f d]` of our concept mask network, for the same parts and frames of every caption."""
    prepared = model.cmn.prepare(tokens, mask)
    return jax.vmap(model.cmn, in_axes=(None, None, 0, 0))(parts, frames, prepared, mask)


@pytest.mark.parametrize("sees_frame", [False, True])
def test_our_concept_mask_network_gives_the_logits_of_smartclip(sees_frame):
    cfg = clips.config(**SQUARE, model__cmn__sees_frame=sees_frame)
    ours, report = to_flax(tensors_of(dim=tiny.W), "smartclip", clips.shapes(cfg))
    assert not any(name.startswith("cmn/") for name in report.initial)
    assert report.ignored == ["mask_net.attn_pool.attention.bias"]
    assert "cmn started as SmartCLIP's mask network" in report.changes[-1]
    model = clips.model(cfg, ours)
    _, tokens, mask = clips.inputs(lengths=(clips.CONTEXT,) * 2)  # no padding, which theirs reads
    y = tiny.jit(lambda model: model.encode_text(tokens, mask).tokens)(model)
    weights = {n.removeprefix("mask_net."): t for n, t in clips.mask_network(tiny.W).items()}
    with torch.no_grad():
        expected = MaskNetwork(weights)(torch.tensor(np.asarray(y))).numpy()
    parts, frames = np.random.default_rng(0).normal(size=(2, tiny.F, tiny.W)).astype(np.float32)
    got = np.asarray(cmn_logits(model, parts, frames, y, mask))
    assert got.shape == (2, tiny.F, tiny.W)
    for frame in range(tiny.F):
        assert np.abs(got[:, frame] - expected).max() <= 1e-5 * np.abs(expected).max()
    # The pooling matters: the mean of the tokens would be another mask.
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()


def test_a_mask_network_that_does_not_fit_is_listed_with_all_other_problems():
    tensors = tensors_of()
    del tensors["logit_scale"]
    like = clips.shapes(clips.config())
    with pytest.raises(WeightsError) as error:
        to_flax(tensors, "smartclip", like, init_bias=2.0)
    assert error.value.problems == [
        "missing logit_scale [], for logit_scale",
        "mask_net: its masks have the text tower's width 16, but model.embed_dim is 8; expected "
        "the same, or model.cmn.kind=none",
        "mask_net: model.masks.init_bias 2.0 would be added to its logits; expected 0",
    ]
    ours, report = to_flax(tensors, "smartclip", like, init_bias=2.0, strict=False)
    assert not any(name.startswith("cmn/") for name in ours)
    assert {name for name in like if name.startswith("cmn/")} <= set(report.initial)


def test_wrong_tensors_of_a_mask_network_are_listed():
    tensors = tensors_of(dim=tiny.W)
    del tensors["mask_net.resblocks.0.ln_1.bias"]
    tensors["mask_net.attn_pool.attention.weight"] = np.zeros((2, tiny.W), np.float32)
    tensors["mask_net.more"] = np.zeros(1, np.float32)
    with pytest.raises(WeightsError) as error:
        to_flax(tensors, "smartclip", clips.shapes(clips.config(**SQUARE)))
    assert [problem.split(" for ")[0] for problem in error.value.problems] == [
        "missing mask_net.resblocks.0.ln_1.bias [16],",
        "mask_net.attn_pool.attention.weight: got [2, 16] of float32, expected [1, 16] of floats",
        "unexpected mask_net.more [1]",
    ]


def test_a_model_without_concept_masks_ignores_the_mask_network():
    like = clips.shapes(clips.config(objective="global_only"))
    _, report = to_flax(tensors_of(), "smartclip", like, init_bias=2.0)
    assert report.initial == report.problems == []
    assert sorted(report.ignored) == sorted(clips.mask_network(tiny.W))
    assert "mask_net is not used: the model has no concept mask network" in report.changes


# -- CLIP4Clip's rule for seqTransf

HEAD = {
    "model__global_head": "seq_transformer",
    "model__text__heads": 1,
    "objective": "global_only",
}


def head_of(context=21, make=clips.open_clip, **changes):
    """The started parameters of a head, all parameters, the tensors, the report's lines."""
    tensors = tensors_of(make, context=context, dim=changes.get("model__embed_dim", tiny.D))
    like = clips.shapes(clips.config(**(HEAD | changes)))
    ours, report = to_flax(tensors, "open_clip", like)
    started = {name: value for name, value in ours.items() if name.startswith("head/")}
    assert {name for name in like if name.startswith("head/")} == set(started) | set(report.initial)
    return started, ours, tensors, report.changes


@pytest.mark.parametrize("layers", [1, 2])
def test_the_head_starts_from_the_first_text_blocks_and_positions(layers, monkeypatch):
    monkeypatch.setattr(heads, "LAYERS", layers)
    started, ours, tensors, changed = head_of(**SQUARE)
    assert len(started) == 13  # twelve of the blocks, and the positions
    for name, value in started.items():
        rows = 5 if name == "head/positions" else layers
        np.testing.assert_array_equal(value, ours[f"text{name[4:]}"][:rows])
        assert not np.shares_memory(value, ours[f"text{name[4:]}"])
    np.testing.assert_array_equal(started["head/positions"], tensors["positional_embedding"][:5])
    assert "head/blocks started from the first text blocks, as in CLIP4Clip" in changed
    assert "head/positions started from the first text positions" in changed


def test_a_head_that_does_not_fit_keeps_its_random_values_and_says_so(monkeypatch):
    for layers, changes in (
        (1, {}),  # of width 8, where the text tower has 16
        (1, SQUARE | {"model__text__heads": 2}),
        (3, SQUARE),  # of a text tower of two
    ):
        monkeypatch.setattr(heads, "LAYERS", layers)
        started, *_, changed = head_of(**changes)
        assert not any(name.startswith("head/blocks") for name in started)
        assert any(line.startswith("head/blocks keep their random start") for line in changed)
        assert ("head/positions" in started) == bool(changes)


def test_more_frame_positions_than_clip_has_come_from_the_stretched_table():
    started, ours, *_ = head_of(model__frame_positions=24, **SQUARE)
    np.testing.assert_array_equal(started["head/positions"], ours["text/positions"])
    split = head_of(model__frame_positions=24, model__text__frozen_positions=20, **SQUARE)[0]
    np.testing.assert_array_equal(split["head/positions"], ours["text/positions"])
    assert "head/positions" not in head_of(model__frame_positions=25, **SQUARE)[0]
