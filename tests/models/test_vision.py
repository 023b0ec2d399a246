"""The frame encoder, and parameter counts against papers. tests/weights compares it with CLIP."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.config.schema import CLIP_MEAN, CLIP_STD
from mova_jax.models.mova import Mova, count_parameters
from mova_jax.models.vision import VisionTower
from tests import tiny


def tower(dtype=jnp.float32, remat="none", **changes):
    cfg = tiny.config(model__vision__layers=2, **changes).model.vision
    options = {"dtype": dtype, "remat": remat}
    return tiny.drawn(lambda: VisionTower(cfg, tiny.D, "gelu", rngs=nnx.Rngs(0), **options))


def test_pixels_are_normalised_as_configured():
    """(x - mean) / std of a tower is (x / 2 - mean / 2) / (std / 2) of another."""

    def of(pictures, mean, std):
        ours = tower(model__vision__mean=mean, model__vision__std=std)
        return np.asarray(tiny.jit(ours)(pictures))

    even = frames() // 2 * 2
    one = of(even, (0.2, 0.4, 0.6), (0.5, 0.25, 1.0))
    other = of(even // 2, (0.1, 0.2, 0.3), (0.25, 0.125, 0.5))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())
    assert np.abs(one - of(even, CLIP_MEAN, CLIP_STD)).max() > 1e-2 * np.abs(one).max()


def frames(n=5):
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_frames_are_independent_and_bytes_do_not_overflow():
    ours = tiny.jit(tower())
    together = ours(frames())
    other = frames()
    other[1:] = 255 - other[1:]
    changed = ours(other)
    np.testing.assert_array_equal(changed[0], together[0])
    assert np.abs(changed[1:] - together[1:]).max() > 1e-3
    # Three grey levels have three embeddings.
    ends = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 128, 255)])
    assert len(np.unique(np.asarray(ours(ends)).round(5), axis=0)) == 3


def test_remat_gives_the_same_gradient_and_bfloat16_nearly_the_same_value():
    def loss(tower):
        return jnp.square(tower(frames(2))).sum()

    plain, again = (tiny.jit(jax.grad(loss))(tower(remat=remat)) for remat in ("none", "full"))
    tiny.assert_near(again, plain, 1e-5)
    half = tiny.jit(tower(dtype=jnp.bfloat16))(frames())
    assert half.dtype == jnp.float32
    exact = np.asarray(tiny.jit(tower())(frames()))
    np.testing.assert_allclose(half, exact, rtol=0, atol=0.03 * np.abs(exact).max())


def parameters(argument, **changes):
    """Number of parameters of a B/16 with CLIP's vocabulary and 77 text positions."""
    made = get_config(f"model=b16,{argument}")
    clip = {
        "model.text.vocab_size": 49408,
        "model.text.context": 77,
        "data.token_buckets": (77,),
        "model.frame_positions": 77,
    }
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    made.update_from_flattened_dict(clip | changes)
    cfg = from_config_dict(made).model
    return count_parameters(nnx.eval_shape(lambda: Mova(cfg, rngs=nnx.Rngs(0))))


def test_parameter_counts_are_those_of_clip_clip4clip_and_the_paper():
    clip = parameters("objective=global_only")
    assert clip == 149_620_737
    head = parameters("objective=global_only", model__global_head="seq_transformer")
    assert head == 162_269_697
    paper = parameters("objective=paper")  # cross layout, seq_transformer
    assert abs(paper - 174.7e6) < 0.1e6
