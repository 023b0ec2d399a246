"""Videos and captions whose latent concepts are known: the generative model of the theory.

A video has K concept blocks of D numbers. It is a sequence of events of a few frames. Each frame
shows a few of the blocks, as its event does, and each sentence names some of the blocks of its
event. Both are observed through mixings that nothing but their own encoder can undo:

    frame    = mix_frames(values of the shown blocks, 0 for the others; private numbers)
    sentence = mix_sentences(values of the named blocks, 0 for the others; private numbers)

A named block has one value in the whole video, and no two sentences of a caption name the same.
The values of blocks that no sentence names are private to each frame: they are drawn again.

Letters: b videos, f frames, p sentences (one an event), k blocks, v values of a block, x numbers
that are observed.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LAYERS, SLOPE = 2, 0.2  # of a mixing: rotations, and the slope of its leaky ReLU below 0


@dataclasses.dataclass(frozen=True)
class World:
    """A generative model. The fields of the last lines break what the theory assumes."""

    blocks: int = 8  # K
    width: int = 2  # D, numbers in a block
    events: int = 3  # of a video; each has a sentence
    frames: int = 1  # of an event
    shown: int = 4  # blocks that a frame shows
    named: int = 2  # most blocks that a sentence names, at least 1
    alike: int = 8  # videos in a row that show and name the same blocks, with other values
    together: int = 1  # blocks that are always shown and named together
    observed: float = 1.0  # numbers that a mixing returns, as a share of those that go in
    dependence: float = 0.0  # correlation of the values of any two blocks of a frame

    @property
    def latents(self) -> int:
        """Numbers that go into a mixing: all blocks, and a private one."""
        return (self.blocks + 1) * self.width

    @property
    def observations(self) -> int:
        """Numbers that come out of it, x."""
        return round(self.latents * self.observed)


class Videos(NamedTuple):
    """Videos and captions, as they are observed, and the truth about them."""

    frames: Float[Array, "b f x"]
    sentences: Float[Array, "b p x"]
    values: Float[Array, "b f k v"]  # of all blocks, also of those that are not shown
    shown: Bool[Array, "b f k"]
    named: Bool[Array, "b p k"]

    @property
    def shared(self) -> Bool[Array, "b f k"]:
        """The support of a frame with its caption: what it shows of what the caption names."""
        return self.shown & self.named.any(1, keepdims=True)

    @property
    def named_by_own(self) -> Bool[Array, "b f k"]:
        """The support of a frame with the sentence of its event."""
        return jnp.repeat(self.named, self.shown.shape[1] // self.named.shape[1], axis=1)


def make_mixings(key: Array, world: World) -> dict[str, list[Float[Array, "i o"]]]:
    """Random mixings of frames and of sentences: the matrices of `mix`."""
    sizes = [world.latents] * LAYERS + [world.observations]
    keys = iter(jax.random.split(key, 2 * LAYERS))
    return {
        name: [
            jnp.linalg.qr(jax.random.normal(next(keys), (before, before)))[0][:, :after]
            for before, after in itertools.pairwise(sizes)
        ]
        for name in ("frames", "sentences")
    }


def mix(matrices: list[Float[Array, "i o"]], latents: Float[Array, "... i"]):
    """Rotations with leaky ReLUs between them: invertible as long as all matrices are square."""
    *first, last = matrices
    for matrix in first:
        latents = jax.nn.leaky_relu(latents @ matrix, SLOPE)
    return latents @ last


def unmix(matrices: list[Float[Array, "i o"]], observed: Float[Array, "... o"]):
    """The inverse of `mix`, for square matrices."""
    *first, last = matrices
    latents = observed @ last.T
    for matrix in reversed(first):
        latents = jnp.where(latents > 0, latents, latents / SLOPE) @ matrix.T
    return latents


def draw_videos(key: Array, world: World, mixings: dict[str, Any], count: int) -> Videos:
    """Draws videos with their captions.

    Args:
        key: of the random numbers.
        world: the generative model.
        mixings: of `make_mixings`.
        count: number of videos, b.
    """
    keys = jax.random.split(key, 4)
    supports = _supports(keys[0], world, -(-count // world.alike))
    shown, named = (jnp.repeat(x, world.alike, axis=0)[:count] for x in supports)
    shown = jnp.repeat(shown, world.frames, axis=1)
    values = _values(keys[1], world, named.any(1), shown.shape[1])
    videos = _observe(keys[2], mixings["frames"], values, shown)
    of_video = values[:, :1]  # those of named blocks are the same in all frames
    sentences = _observe(keys[3], mixings["sentences"], of_video, named)
    return Videos(videos, sentences, values, shown, named)


def _supports(key, world: World, count: int):
    """Shown and named blocks of each event, `[b p k]`; groups of blocks come together."""
    groups = world.blocks // world.together
    most = max(1, world.named // world.together)
    in_order, sizes, rest = jax.random.split(key, 3)
    # The groups in a random order: the first ones are for the first sentence, and so on.
    place = jnp.argsort(jax.random.uniform(in_order, (count, groups)), axis=-1)[:, None]
    first = most * jnp.arange(world.events)[:, None]
    number = jax.random.randint(sizes, (count, world.events, 1), 1, most + 1)
    named = (place >= first) & (place < first + number)
    # A frame shows what its sentence names, and any others up to its number.
    chance = jax.random.uniform(rest, named.shape) + named
    rank = jnp.argsort(jnp.argsort(-chance, axis=-1), axis=-1)
    shown = (rank < max(1, world.shown // world.together)) | named
    return tuple(jnp.repeat(x, world.together, axis=-1) for x in (shown, named))


def _values(key, world: World, named: Bool[Array, "b k"], frames: int):
    """Values `[b f k v]`: of named blocks one for the video, of the others one for each frame."""
    shape = (len(named), frames, world.blocks, world.width)
    own, common = jax.random.split(key)
    values = jax.random.normal(own, shape)
    if world.dependence:
        common = jax.random.normal(common, (shape[0], 1, 1, world.width))
        values = world.dependence**0.5 * common + (1 - world.dependence) ** 0.5 * values
    return jnp.where(named[:, None, :, None], values[:, :1], values)


def _observe(key, matrices, values, present):
    """The mixture of present blocks and of private numbers, `[b n x]`."""
    latents = jnp.where(present[..., None], values, 0.0)
    private = jax.random.normal(key, (*present.shape[:2], values.shape[-1]))
    return mix(matrices, jnp.concatenate([latents.reshape(*present.shape[:2], -1), private], -1))
