"""The whole objective on a batch that is split over devices, against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax import mesh as mesh_lib
from mova_jax.losses import ring
from mova_jax.losses.objective import objective
from mova_jax.typing import Batch
from tests import tiny
from tests.losses import dense

ROWS = 16
EMPTY = (4, 5, 11)  # 4 and 5 are all that one of eight parties has
SMOOTH = {"model__masks__kind": "soft"}  # no mask that may flip by a rounding error


def batch():
    """Rows of several lengths, some of them empty; what is padded holds garbage."""
    arrays = tiny.batch_arrays(ROWS)
    for name in ("frame_mask", "token_mask"):
        arrays[name][list(EMPTY)] = False
    return Batch(**{name: jnp.asarray(x) for name, x in arrays.items()})


VALID = np.setdiff1d(np.arange(ROWS), EMPTY)


def run(loss_of, model, batch):
    """Loss, metrics, and the gradient by all parameters."""
    return tiny.jit(jax.value_and_grad(loss_of, has_aux=True))(model, batch)


def split(devices, name="full", microbatch=0, **options):
    mesh = mesh_lib.make_mesh(devices)
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)

    def loss_of(model, batch):
        return objective(model, batch, cfg, 0.0, mesh_lib.parties(mesh), microbatch)

    rows = jax.device_put(batch(), mesh_lib.batch_sharding(mesh))
    return run(loss_of, jax.device_put(model, mesh_lib.replicated(mesh)), rows)


def plain(name="full", **options):
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)
    return run(lambda model, batch: dense.objective(model, batch, cfg, VALID), model, batch())


def assert_as_dense(devices, name="full", **options):
    (loss, metrics), gradient = split(devices, name, **options)
    (expected, terms), reference = plain(name, **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    cfg = tiny.config(name, **options).losses
    for term, value in terms.items():
        if getattr(cfg, term):
            np.testing.assert_allclose(metrics[term], value, rtol=2e-5, atol=1e-6, err_msg=term)
    tiny.assert_near(gradient, reference, 3e-5)


@pytest.mark.parametrize(
    ("devices", "name", "options"),
    [
        (8, "full", SMOOTH),
        (4, "full", {"losses__pair_block": 3, "losses__pool": "aligned", **SMOOTH}),
        (8, "paper", SMOOTH),
        (8, "global_only", {}),
        (8, "frame_weighting", {}),
        (
            8,
            "full",
            {"losses__hard_pairs": 3, "losses__dfsm_masks": "own", "losses__pool": "softmax"}
            | SMOOTH,
        ),
        (
            2,
            "full",
            {"losses__frame_negatives": "all", "losses__frame_form": "relative"} | SMOOTH,
        ),
    ],
    ids=["full", "blocks-aligned", "paper", "global", "weighting", "hard-own", "all-relative"],
)
def test_split_batch_equals_the_dense_objective(devices, name, options):
    assert_as_dense(devices, name, **options)


@pytest.mark.parametrize("name", ["full", "paper"])
def test_eight_parties_are_as_one_with_hard_masks(name):
    (one, metrics), gradient = split(1, name)
    (eight, same), other = split(8, name)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    tiny.assert_near(same, metrics, 1e-5)
    tiny.assert_near(other, gradient, 3e-5)


def test_one_party_in_tiles_is_as_one_party(monkeypatch):
    whole = split(1, **SMOOTH)
    monkeypatch.setattr(ring, "TILE_FLOATS", 1500)
    tiny.assert_near(split(1, **SMOOTH), whole, 3e-5)


@pytest.mark.parametrize(("devices", "microbatch"), [(1, 4), (1, 6), (8, 8)])
def test_towers_in_microbatches_change_nothing(devices, microbatch):
    whole = split(1, "global_only", model__global_head="seq_transformer")
    parts = split(
        devices, "global_only", microbatch=microbatch, model__global_head="seq_transformer"
    )
    tiny.assert_near(parts, whole, 1e-5)


def test_padding_is_never_read():
    """Other garbage in padded rows and frames, and not a bit changes."""
    cfg, model = tiny.config().losses, tiny.model()
    mesh = mesh_lib.make_mesh(8)
    rows = batch()
    frames = jnp.where(rows.frame_mask[..., None, None, None], rows.frames, 255)
    other = Batch(**{**vars(rows), "frames": frames, "tokens": rows.tokens * rows.token_mask})

    @tiny.jit
    def result(model, rows):
        def loss_of(model):
            return objective(model, rows, cfg, 0.0, mesh_lib.parties(mesh))

        return jax.value_and_grad(loss_of, has_aux=True)(model)

    first, second = result(model, rows), result(model, other)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


# -- everything with everything


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("pool", ["aligned", "softmax", "mean", "joint"])
@pytest.mark.parametrize("masks", ["pair", "own"])
@pytest.mark.parametrize("block", [0, 3])
def test_every_pool_on_every_number_of_devices(devices, pool, masks, block):
    options = {"losses__pool": pool, "losses__dfsm_masks": masks, "losses__pair_block": block}
    assert_as_dense(devices, **options, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("layout", ["cross", "joint", "tokens", "none"])
def test_every_layout(devices, layout):
    name = "cmn_only" if layout == "none" else "full"
    assert_as_dense(devices, name, model__tmn__layout=layout, losses__pair_block=1, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("form", ["hinge", "relative"])
@pytest.mark.parametrize("negatives", ["same_index", "all"])
@pytest.mark.parametrize("k", [1, 12])
def test_every_frame_contrast_and_hard_pairs(monkeypatch, devices, form, negatives, k):
    monkeypatch.setattr(ring, "TILE_FLOATS", 3000)
    options = {"losses__frame_form": form, "losses__frame_negatives": negatives}
    options |= {"losses__hard_pairs": k, "losses__dfsm_masks": "own"}
    assert_as_dense(devices, **options, **SMOOTH)
