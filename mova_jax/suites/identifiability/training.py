"""Trains the method on known blocks: small encoders in place of the towers, the rest as it is.

`BlockModel` is `Mova` with other towers, so that its mask networks, its pools and its losses are
those of every run. All seeds of a row are trained at once, by `jax.vmap`.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mova_jax.config import Config, apply, defaults, from_config_dict
from mova_jax.config.presets import OBJECTIVES
from mova_jax.losses.objective import loss_of_embeddings
from mova_jax.models import layers
from mova_jax.models.mova import Mova
from mova_jax.suites.identifiability.data import Videos, World, draw_videos, make_mixings
from mova_jax.training.optim import make_optimizer, mask_hardness
from mova_jax.typing import TextEmbedding, VideoEmbedding
from mova_jax.utils.progress_bar import bar_of

HIDDEN = 128  # width of the encoders
TOKENS = 4  # of a sentence: its encoder returns several, for masks look for them by attention

SIZES = {
    # The towers of the config are replaced, so they may be of any size.
    "model.vision.width": 8,
    "model.vision.layers": 1,
    "model.vision.heads": 1,
    "model.text.width": 32,
    "model.text.layers": 1,
    "model.text.heads": 4,
    "model.text.vocab_size": 2,
    "model.embed_dim": 32,
    "train.image_share": 0.0,
    "optim.learning_rate": 2e-3,
    "optim.weight_decay": 0.0,
    "optim.warmup_steps": 10,
    "losses.order": 0.0,
}


def block_config(objective: str, steps: int, changes: dict[str, Any]) -> Config:
    """The checked configuration of a preset on known blocks."""
    config = defaults()
    apply(config, OBJECTIVES, objective)
    config.objective = objective
    config.update_from_flattened_dict(SIZES | {"train.steps": steps} | changes)
    return from_config_dict(config)


class Encoder(nnx.Module):
    """An MLP with two hidden layers."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        sizes = (inputs, HIDDEN, HIDDEN, outputs)
        self.linears = nnx.List(
            [
                layers.linear(i, o, std=(2 / i) ** 0.5, rngs=rngs, dtype=jnp.float32)
                for i, o in itertools.pairwise(sizes)
            ]
        )

    def __call__(self, x: Float[Array, "... x"]) -> Float[Array, "... y"]:
        *first, last = self.linears
        for linear in first:
            x = nnx.gelu(linear(x))
        return last(x)


class SentenceEncoder(nnx.Module):
    """Tokens of each sentence; the vector of a text is made from the sum of its tokens."""

    def __init__(self, cfg, inputs: int, *, rngs: nnx.Rngs):
        width = cfg.text.width
        self.encoder = Encoder(inputs, TOKENS * width, rngs=rngs)
        self.norm = layers.LayerNorm(width, rngs=rngs)
        self.projection = layers.linear(
            width, cfg.embed_dim, std=width**-0.5, use_bias=False, rngs=rngs, dtype=jnp.float32
        )

    def __call__(self, sentences: Float[Array, "b p x"]) -> TextEmbedding:
        """Encodes captions `[b p t]` as parts; and whole, as all their tokens."""
        b, p, _ = sentences.shape
        states = self.encoder(sentences).reshape(b, p, TOKENS, -1)
        tokens, mask = self.norm(states), jnp.ones((b, p, TOKENS), bool)
        pooled = self.projection(states.sum(2))
        parts = TextEmbedding(tokens, mask, pooled)
        whole = tokens.reshape(b, p * TOKENS, -1), mask.reshape(b, -1), pooled.sum(1)
        return TextEmbedding(*whole, parts=parts)


class BlockModel(Mova):
    """The model with MLPs in place of the towers."""

    def __init__(self, config: Config, observations: int, *, rngs: nnx.Rngs):
        """Initialises the model for frames and sentences of that many numbers."""
        super().__init__(config.model, rngs=rngs)
        self.vision = Encoder(observations, config.model.embed_dim, rngs=rngs)
        self.text = SentenceEncoder(config.model, observations, rngs=rngs)

    def embed(self, videos: Videos, divided: bool) -> tuple[VideoEmbedding, TextEmbedding]:
        """The embeddings; captions by their sentences, or whole."""
        video = self.encode_video(videos.frames, jnp.ones(videos.frames.shape[:2], bool))
        text = self.text(videos.sentences)
        if not divided:
            text = TextEmbedding(text.tokens, text.token_mask, text.pooled)
        return video, text


class Trained(NamedTuple):
    """Models of one row of the table, by seed."""

    config: Config
    world: World
    graphdef: Any
    params: Any  # leaves `[s ...]`, s seeds
    mixings: Any  # the same
    losses: Float[Array, "s n"]  # by step


def train(
    world: World,
    objective: str,
    seeds: tuple[int, ...],
    steps: int,
    changes: dict[str, Any] | None = None,
    name: str = "",
) -> Trained:
    """Trains a preset on new videos at each step, with all seeds at once.

    Args:
        world: the generative model; each seed has its own mixings.
        objective: a name in `config.presets.OBJECTIVES`.
        seeds: of the weights, the mixings and the videos.
        steps: of the training.
        changes: of config keys, by dotted name.
        name: label of the progress bar.
    """
    config = block_config(objective, steps, changes or {})

    def make(key):
        return BlockModel(config, world.observations, rngs=nnx.Rngs(key))

    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    graphdef, _ = nnx.split(nnx.eval_shape(make, keys[0]))
    params = jax.jit(jax.vmap(lambda key: nnx.to_pure_dict(nnx.split(make(key))[1])))(keys)
    mixings = jax.vmap(partial(make_mixings, world=world))(keys)
    optimizer = make_optimizer(config.optim, steps, jax.tree.map(lambda x: x[0], params))
    step = _make_step(config, world, graphdef, optimizer)
    every = max(1, steps // 20)

    @partial(jax.jit, donate_argnums=0)
    def run(states, first):
        numbers = first + jnp.arange(every)
        return jax.vmap(lambda *x: jax.lax.scan(partial(step, *x[1:]), x[0], numbers))(
            states, keys, mixings
        )

    states, losses = (params, jax.vmap(optimizer.init)(params)), []
    for first in bar_of(name or objective, steps // every, range(0, steps, every), unit="chunk"):
        states, found = run(states, first)
        losses.append(jax.block_until_ready(found))
    return Trained(config, world, graphdef, states[0], mixings, jnp.concatenate(losses, axis=1))


def _make_step(config: Config, world: World, graphdef, optimizer) -> Callable:
    """`(key, mixings, state, number) -> (state, loss)`, for one seed."""
    divided = config.data.parts > 0
    rows = jnp.ones(config.train.batch_size, bool)

    def loss_of(params, videos, number):
        model = nnx.merge(graphdef, params)
        hardness = mask_hardness(config, number)
        embeddings = model.embed(videos, divided)
        return loss_of_embeddings(model, *embeddings, rows, config.losses, None, hardness)[0]

    def step(key, mixings, state, number):
        params, moments = state
        key = jax.random.fold_in(key, number)
        videos = draw_videos(key, world, mixings, config.train.batch_size)
        loss, gradient = jax.value_and_grad(loss_of)(params, videos, number)
        updates, moments = optimizer.update(gradient, moments, params)
        return (jax.tree.map(jnp.add, params, updates), moments), loss

    return step
