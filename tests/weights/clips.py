"""A tiny CLIP with random weights in the layouts that CLIP is published in.

It does not use the tables of the package, so that neither can hide an error of the other. All
weights are representable in float16, so that files of either precision have the same values.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from mova_jax.models.build import make_model_spec
from mova_jax.models.layers import normalise
from mova_jax.models.mova import Mova
from mova_jax.utils.trees import parameter_shapes, unflatten
from tests import tiny

CONTEXT = 24  # text positions: more than the 20 that Long-CLIP keeps
LENGTHS = (CONTEXT, 9, 3)
END = tiny.VOCAB - 1  # end-of-text
SIZES = {"vision": 3, "text": 2}  # layers
# Our model of the same sizes.
SAME = {
    "model__vision__layers": SIZES["vision"],
    "model__text__layers": SIZES["text"],
    "model__text__context": CONTEXT,
    "data__token_buckets": (CONTEXT,),
    "model__activation": "quick_gelu",
}


def random_clip(text, vision, **common):
    """transformers' CLIPModel of two towers: width, layers, other keys."""
    towers = []
    for width, layers, keys in (text, vision):
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        towers.append({"num_attention_heads": 2} | common | sizes | keys)
    dim = common["projection_dim"]
    config = transformers.CLIPConfig(
        text_config=towers[0], vision_config=towers[1], projection_dim=dim
    )
    model = transformers.CLIPModel(config)
    draw(model, 0.3)
    return model.eval()


@functools.cache
def reference(activation: str = "quick_gelu", context: int = CONTEXT, dim: int = tiny.D):
    """A CLIPModel of `SIZES`; `dim` is the joint embedding's."""
    ids = {"eos_token_id": END, "bos_token_id": 0, "pad_token_id": 1}
    text = {"vocab_size": tiny.VOCAB, "max_position_embeddings": context} | ids
    vision = {"image_size": tiny.SIZE, "patch_size": 4}
    towers = (tiny.W, SIZES["text"], text), (12, SIZES["vision"], vision)
    return random_clip(*towers, hidden_act=activation, projection_dim=dim)


def draw(model: torch.nn.Module, size: float) -> None:
    """Random weights; layer norms are near 1, the scale is that of a trained CLIP."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(size * torch.randn(value.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                value.add_(1.0)
            if name == "logit_scale":
                value.fill_(np.log(50.0))
            value.copy_(value.half())


# -- layouts, from transformers' names


# OpenAI's names for the modules of a tower, of a block, and for what has a name of its own.
_TOWERS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_SINGLE = {
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
}


def _openai_names(w) -> dict[str, torch.Tensor]:
    """All weights under OpenAI's names."""
    modules, made = dict(_TOWERS), {ours: w[theirs] for theirs, ours in _SINGLE.items()}
    for tower, stack in (("vision", "visual.transformer"), ("text", "transformer")):
        for i in range(sum(f"{tower}_model.encoder" in n and n.endswith("fc1.bias") for n in w)):
            theirs, ours = f"{tower}_model.encoder.layers.{i}", f"{stack}.resblocks.{i}"
            modules |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in _BLOCK.items()}
            for x in ("weight", "bias"):
                three = [w[f"{theirs}.self_attn.{part}_proj.{x}"] for part in "qkv"]
                made[f"{ours}.attn.in_proj_{x}"] = torch.cat(three)
    for x in ("weight", "bias"):
        made |= {f"{ours}.{x}": w[f"{theirs}.{x}"] for theirs, ours in modules.items()}
    for theirs, ours in (("visual_projection", "visual.proj"), ("text_projection",) * 2):
        made[ours] = w[f"{theirs}.weight"].T.contiguous()
    return made


def openai(w) -> dict[str, torch.Tensor]:
    """OpenAI's state dict: linear maps in float16, and three numbers as buffers."""
    half = ("conv1.weight", "proj_weight", "proj_bias", "proj.weight", "proj.bias", "c_fc.weight")
    half += ("c_fc.bias", "visual.proj", "text_projection")
    made = {n: t.half() if n.endswith(half) else t for n, t in _openai_names(w).items()}
    numbers = {"input_resolution": 8, "context_length": CONTEXT, "vocab_size": tiny.VOCAB}
    return made | {name: torch.tensor(value) for name, value in numbers.items()}


def open_clip(w) -> dict[str, torch.Tensor]:
    """open_clip's CLIP with its mask as a buffer, as in older versions."""
    mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    return _openai_names(w) | {"attn_mask": mask}


def open_clip_custom(w, linear: bool = False) -> dict[str, torch.Tensor]:
    """open_clip's CustomTextCLIP; its scale can have an axis, its projection can be a layer."""
    texts = ("token_embedding", "positional_embedding", "ln_final", "text_projection", "transfor")
    made = {f"text.{n}" if n.startswith(texts) else n: t for n, t in _openai_names(w).items()}
    made["logit_scale"] = made["logit_scale"].reshape(1)
    if linear:
        made["text.text_projection.weight"] = made.pop("text.text_projection").T.contiguous()
    return made


def long_clip(w) -> dict[str, torch.Tensor]:
    """Long-CLIP: two tables, whose unused rows are noise."""
    made = _openai_names(w)
    table = made["positional_embedding"]
    noise = torch.full_like(table, 7.0)
    made["positional_embedding"] = torch.cat([table[:20], noise[20:]])
    made["positional_embedding_res"] = torch.cat([noise[:20], table[20:]])
    return made


def mask_network(width: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random weights of SmartCLIP's mask network."""
    layers = {"attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width)}
    layers |= {"mlp.c_proj": (width, 4 * width), "ln_1": (width,), "ln_2": (width,)}
    shapes = {f"resblocks.0.{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"resblocks.0.{name}.bias": shape[:1] for name, shape in layers.items()}
    shapes |= {"resblocks.0.attn.in_proj_weight": (3 * width, width)}
    shapes |= {"resblocks.0.attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn_pool.attention.weight": (1, width), "attn_pool.attention.bias": (1,)}
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: 0.3 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    return {f"mask_net.{name}": value for name, value in drawn.items()}


def smartclip(w) -> dict[str, torch.Tensor]:
    """Long-CLIP's names and the mask network."""
    return long_clip(w) | mask_network(w["text_projection.weight"].shape[1])


def arrays(tensors) -> dict[str, np.ndarray]:
    """Tensors as arrays, like those of `files.read_tensors`."""
    full = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    return {name: value.numpy() for name, value in full.items()}


# -- our model


def config(**changes):
    """`config.model` of ours with the sizes of `reference`."""
    return tiny.config(**(SAME | changes)).model


def shapes(cfg) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters by name."""
    return parameter_shapes(make_model_spec(cfg).abstract_params)


def model(cfg, ours) -> Mova:
    """Our model with these parameters by name; those that are not given are zero."""
    spec, params = make_model_spec(cfg), {}
    for name, shape in parameter_shapes(spec.abstract_params).items():
        value = ours.get(name, np.zeros(shape, np.float32))
        assert value.shape == shape and value.dtype == np.float32, name
        params[name] = jnp.asarray(value)
    return spec.model(unflatten(params, spec.abstract_params))


# -- the same inputs through both


def inputs(size: int = tiny.SIZE, lengths=LENGTHS, vocab: int = tiny.VOCAB):
    """Frames `u8[n H W 3]`, tokens `[n l]` that end with the last of the vocabulary, their mask."""
    rng = np.random.default_rng(2)
    n, context = len(lengths), max(lengths)
    frames = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(2, vocab - 1, (n, context))
    mask = tiny.masks_of_lengths(lengths, context)
    tokens[np.arange(n), np.array(lengths) - 1] = vocab - 1
    return frames, np.where(mask, tokens, 1), mask


def theirs(clip, frames, tokens, mask) -> dict[str, np.ndarray]:
    """Embeddings, not normalised, states of the valid tokens, and logits of all pairs."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.tensor((frames / 255 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    text = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask.astype(int))}
    with torch.no_grad():
        image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        words = clip.text_model(**text)
        sentences = clip.text_projection(words.pooler_output).numpy()
        logits = clip(pixel_values=pixels, **text).logits_per_image
    tokens = words.last_hidden_state.numpy() * mask[..., None]
    return {"image": image.numpy(), "text": sentences, "tokens": tokens, "logits": logits.numpy()}


def outputs(model: Mova, frames, tokens, mask) -> dict[str, jax.Array]:
    """The outputs of `theirs` by our model; to be compiled."""
    image, text = model.vision(frames), model.encode_text(tokens, mask)
    logits = model.scale * normalise(image) @ normalise(text.pooled).T
    return {"image": image, "text": text.pooled, "tokens": text.tokens, "logits": logits}


def assert_same(got, expected, relative: float = 1e-5) -> None:
    """Every output, against its largest value."""
    for name, value in expected.items():
        assert got[name].shape == value.shape and got[name].dtype == np.float32, name
        error = np.abs(np.asarray(got[name]) - value).max() / np.abs(value).max()
        assert error <= relative, f"{name} differs by {error} of the largest value"
