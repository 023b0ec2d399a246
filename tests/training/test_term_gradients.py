"""The gradients of single terms against objectives of one term, on one device and on a mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from mova_jax.losses.objective import objective
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.training.term_gradients import make_term_gradients
from mova_jax.typing import Batch
from tests import tiny

ROWS = 8
MODULAR = ("frame", "sfdm", "dfsm", "sparsity")
WEIGHTS = {"losses__frame": 0.5, "losses__sparsity": 2.0}


def spec_on(mesh, name="full", **changes):
    return make_train_spec(tiny.config(name, train__batch_size=ROWS, **changes), mesh)


def norms_of_single_terms(spec, params, batch) -> dict[str, float]:
    """The loss with one term alone, differentiated by all parameters on one device."""
    losses, norms = spec.config.losses, {}
    for term in ("frame", "sparsity"):
        others = {name: 0.0 for name in ("contrast", *MODULAR) if name != term}
        cfg = dataclasses.replace(losses, **others)

        def loss(params, cfg=cfg):
            return objective(spec.model(params), batch, cfg)[0]

        gradient = tiny.jit(jax.grad(loss))(params)
        for network in ("tmn", "cmn"):
            leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient[network])]
            norms[f"gradient/{term}/{network}"] = np.linalg.norm(np.concatenate(leaves))
    return norms


def test_norms_are_those_of_objectives_of_one_term_and_nothing_is_changed():
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    spec = spec_on(mesh, **WEIGHTS)
    params = jax.device_get(tiny.initial(spec).params)
    placed = jax.device_put(params, sharding.state_sharding(mesh, spec.shapes.params))
    arrays = tiny.batch_arrays(ROWS)
    for name in ("frame_mask", "token_mask"):
        arrays[name][-1:] = False  # a row of padding
    measure = make_term_gradients(spec, mesh)
    batch = sharding.put_batch(mesh, arrays)
    found = {name: float(value) for name, value in measure(placed, batch, 0).items()}
    assert found.keys() == {f"gradient/{t}/{n}" for t in MODULAR for n in ("tmn", "cmn")}
    expected = norms_of_single_terms(spec, params, Batch(**arrays))
    for name, norm in expected.items():
        assert found[name] == pytest.approx(norm, rel=1e-4), name
    assert expected["gradient/frame/tmn"] > 0 == expected["gradient/frame/cmn"]
    assert all(found[f"gradient/{t}/{n}"] > 0 for t in ("sfdm", "dfsm") for n in ("tmn", "cmn"))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_that_a_model_does_not_have_are_left_out():
    mesh = mesh_lib.make_mesh(data=1)
    for name in ("global_only", "frame_weighting"):
        assert make_term_gradients(spec_on(mesh, name), mesh) is None
    spec = spec_on(mesh, "cmn_only")
    batch = jax.eval_shape(lambda: tiny.batch(ROWS))
    found = jax.eval_shape(make_term_gradients(spec, mesh), spec.shapes.params, batch, 0)
    assert set(found) == {f"gradient/{term}/cmn" for term in ("sfdm", "dfsm", "sparsity")}


def test_annealed_masks_of_hard_pairs_are_measured_in_training():
    """Step by step: what is traced once must not be compared with what is traced anew."""
    mesh = mesh_lib.make_mesh()
    spec = spec_on(mesh, "part_masks", model__masks__kind="annealed", losses__sparsity=0.3)
    params = tiny.initial(spec).params
    train_step, state = make_train_step(spec, mesh), tiny.initial(spec)
    measure = make_term_gradients(spec, mesh)
    batch = sharding.put_batch(mesh, tiny.batch_arrays(ROWS) | tiny.part_arrays(ROWS))
    state, _ = train_step(state, batch)
    for step in (0, 1):
        found = measure(params, batch, step)
        assert all(np.isfinite(float(value)) for value in found.values())
        assert float(found["gradient/sfdm/tmn"]) > 0
