"""Global heads: the mean worked by hand, the sequence head against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from mova_jax.models.heads import LAYERS, MeanHead, SequenceHead, global_head, masked_mean
from tests import tiny

WIDTH, HEADS = 128, 2  # heads of 64, as in CLIP4Clip
MASK = tiny.masks_of_lengths([3, 1, 2, 0], 3)


def frames(width=WIDTH):
    return np.random.default_rng(0).normal(size=(4, 3, width)).astype(np.float32)


def test_masked_mean_and_mean_head_by_hand():
    x = np.array([[[3.0, 4], [0, 2], [9, 9]]], np.float32)
    mask = np.array([[True, True, False]])
    np.testing.assert_allclose(masked_mean(x, mask), [[1.5, 3.0]])
    # Unit frames (0.6, 0.8) and (0, 1): their sum (0.6, 1.8) at unit length.
    expected = np.array([[0.6, 1.8]]) / np.sqrt(0.6**2 + 1.8**2)
    np.testing.assert_allclose(MeanHead()(x, mask), expected, rtol=1e-6)
    np.testing.assert_array_equal(MeanHead()(x, np.zeros((1, 3), bool)), [[0.0, 0.0]])


def sequence_head():
    cfg = tiny.config(
        model__embed_dim=WIDTH,
        model__global_head="seq_transformer",
        model__activation="quick_gelu",
    ).model
    head = tiny.drawn(lambda: global_head(cfg, rngs=nnx.Rngs(0), dtype=jnp.float32))
    assert isinstance(head, SequenceHead)
    return head


class TorchBlock(torch.nn.Module):
    """CLIP's residual block, as OpenAI's code writes it."""

    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.c_fc = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.c_proj = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, padding):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        y = self.c_fc(self.ln_2(x))
        return x + self.c_proj(y * torch.sigmoid(1.702 * y))

    def weights(self):
        w = {name: jnp.asarray(value.numpy()) for name, value in self.state_dict().items()}
        kernel, bias = w["attn.in_proj_weight"].T, w["attn.in_proj_bias"]
        qkv = {"kernel": kernel.reshape(WIDTH, 3, HEADS, -1), "bias": bias.reshape(3, HEADS, -1)}
        out = w["attn.out_proj.weight"].T.reshape(HEADS, -1, WIDTH)
        norm, mlp = (
            {x: {name: w[f"{x}.weight"].T, "bias": w[f"{x}.bias"]} for x in names}
            for name, names in (("scale", ("ln_1", "ln_2")), ("kernel", ("c_fc", "c_proj")))
        )
        return {
            "norm_attention": norm["ln_1"],
            "norm_mlp": norm["ln_2"],
            "attention": {"qkv": qkv, "out": {"kernel": out, "bias": w["attn.out_proj.bias"]}},
            "mlp": {"up": mlp["c_fc"], "down": mlp["c_proj"]},
        }


def positions_of(table, mask):
    """The interpolated row of the table for each valid frame of each video."""
    out = np.zeros((*mask.shape, table.shape[1]), np.float32)
    for b, f in np.argwhere(mask):
        before, valid = mask[b, :f].sum(), mask[b].sum()
        at = before * (len(table) - 1) / max(valid - 1, 1)
        rows = np.arange(len(table))
        out[b, f] = [np.interp(at, rows, column) for column in table.T]
    return out


def test_sequence_head_equals_pytorch():
    torch.manual_seed(0)
    blocks = [TorchBlock() for _ in range(LAYERS)]
    with torch.no_grad():
        for parameter in (p for block in blocks for p in block.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    positions = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(block.weights() for block in blocks))
    weights = {"positions": jnp.asarray(positions), "blocks": {"blocks": stacked}}
    ours = nnx.merge(nnx.graphdef(sequence_head()), weights)
    valid = torch.tensor(MASK[:3])  # PyTorch gives NaN for a video without frames
    original = torch.tensor(frames()[:3])
    with torch.no_grad():
        x = original + torch.tensor(positions_of(positions, MASK[:3]))
        for block in blocks:
            x = block(x, ~valid)
        x = x + original
        x = x / x.norm(dim=-1, keepdim=True)
        x = torch.stack([row[mask].mean(0) for row, mask in zip(x, valid, strict=True)])
        expected = (x / x.norm(dim=-1, keepdim=True)).numpy()
    got = tiny.jit(ours)(frames()[:3], MASK[:3])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["mean", "seq_transformer"])
def test_padded_frames_change_nothing_and_get_no_gradient(kind):
    head = sequence_head() if kind == "seq_transformer" else MeanHead()
    weights = np.random.default_rng(2).normal(size=(4, WIDTH))

    @tiny.jit
    @jax.value_and_grad
    def loss(frames):
        return (head(frames, jnp.asarray(MASK)) * weights).sum()

    clean, gradient = loss(frames())
    dirty, same = loss(np.where(MASK[..., None], frames(), 1e4))
    np.testing.assert_allclose(dirty, clean, rtol=1e-5)
    np.testing.assert_allclose(same, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(same[~MASK], 0.0)
    assert np.isfinite(same).all() and np.abs(same[MASK]).max() > 1e-3


def test_sequence_head_depends_on_the_order_of_frames():
    head, full = tiny.jit(sequence_head()), np.ones((4, 3), bool)
    forward, backward = head(frames(), full), head(frames()[:, ::-1], full)
    assert np.abs(forward - backward).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(forward, axis=-1), 1.0, rtol=1e-5)
