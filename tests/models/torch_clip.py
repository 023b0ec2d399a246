"""A tiny CLIP of transformers with random weights, and its weights in the layout of this package.

Independent of the package's conversion, so that neither can hide an error of the other.
"""

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from tests import tiny

HEADS = 2
END = tiny.VOCAB - 1  # end-of-text


def torch_clip(activation: str) -> transformers.CLIPModel:
    """A CLIP of two layers with the other sizes of `tiny`, all weights random."""
    common = {
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "hidden_act": activation,
        "projection_dim": tiny.D,
    }
    text = {
        "hidden_size": tiny.W,
        "intermediate_size": 4 * tiny.W,
        "vocab_size": tiny.VOCAB,
        "max_position_embeddings": tiny.L,
        "eos_token_id": END,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {"hidden_size": 12, "intermediate_size": 48, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config=common | text, vision_config=common | vision, projection_dim=tiny.D
    )
    model = transformers.CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                value.add_(1.0)
    return model


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Weights by name."""
    return {name: value.numpy() for name, value in module.state_dict().items()}


def norm(w, name):
    """A layer norm."""
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def dense(w, name):
    """A dense layer `[out in]` with its bias."""
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def qkv(weights, biases, heads):
    """The fused projection of three `[out in]` matrices."""
    width = weights[0].shape[1]
    kernel = np.stack([w.T.reshape(width, heads, -1) for w in weights], axis=1)
    return {"kernel": kernel, "bias": np.stack([b.reshape(heads, -1) for b in biases])}


def layer(w, name, heads=HEADS):
    """One block of transformers' CLIP."""
    attention = f"{name}.self_attn."
    three = [f"{attention}{x}_proj" for x in "qkv"]
    out = w[f"{attention}out_proj.weight"].T
    return {
        "norm_attention": norm(w, f"{name}.layer_norm1"),
        "norm_mlp": norm(w, f"{name}.layer_norm2"),
        "attention": {
            "qkv": qkv([w[f"{x}.weight"] for x in three], [w[f"{x}.bias"] for x in three], heads),
            "out": {
                "kernel": out.reshape(heads, -1, out.shape[-1]),
                "bias": w[f"{attention}out_proj.bias"],
            },
        },
        "mlp": {
            ours: {
                "kernel": w[f"{name}.mlp.{theirs}.weight"].T,
                "bias": w[f"{name}.mlp.{theirs}.bias"],
            }
            for ours, theirs in (("up", "fc1"), ("down", "fc2"))
        },
    }


def stacked(layers):
    """Blocks stacked on a leading axis, as in `layers.Stack`."""
    first = layers[0]
    if isinstance(first, dict):
        return {name: stacked([one[name] for one in layers]) for name in first}
    return np.stack(layers)


def vision_weights(w):
    """The parameters of a `VisionTower`."""
    name = "vision_model."
    patches = w[f"{name}embeddings.patch_embedding.weight"]  # [w 3 p p]
    return {
        "patch_embedding": {"kernel": patches.transpose(2, 3, 1, 0).reshape(-1, len(patches))},
        "class_embedding": w[f"{name}embeddings.class_embedding"],
        "positions": w[f"{name}embeddings.position_embedding.weight"],
        "norm_pre": norm(w, f"{name}pre_layrnorm"),
        "norm_post": norm(w, f"{name}post_layernorm"),
        "projection": {"kernel": w["visual_projection.weight"].T},
        "blocks": {"blocks": stacked([layer(w, f"{name}encoder.layers.{i}") for i in range(2)])},
    }


def text_weights(w):
    """The parameters of a `TextTower`."""
    name = "text_model."
    return {
        "token_embedding": w[f"{name}embeddings.token_embedding.weight"],
        "positions": w[f"{name}embeddings.position_embedding.weight"],
        "norm_final": norm(w, f"{name}final_layer_norm"),
        "projection": {"kernel": w["text_projection.weight"].T},
        "blocks": {"blocks": stacked([layer(w, f"{name}encoder.layers.{i}") for i in range(2)])},
    }


def load(module: nnx.Module, weights) -> nnx.Module:
    """The module with these weights, which must have all its parameters in their shapes."""
    graphdef, state = nnx.split(module)
    old = nnx.to_pure_dict(state)

    def check(new, old, name):
        if isinstance(old, dict):
            assert set(new) == set(old), name
            return {key: check(new[key], old[key], f"{name}/{key}") for key in old}
        assert new.shape == old.shape, (name, new.shape, old.shape)
        return jnp.asarray(new)

    return nnx.merge(graphdef, check(weights, old, ""))


def assert_close(got, expected, relative=1e-5):
    """Compares the largest difference with the largest value."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max()
