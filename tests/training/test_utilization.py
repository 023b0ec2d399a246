"""Utilization of the devices, computed by hand."""

import types

import pytest

from mova_jax.cost import chips
from mova_jax.cost.flops import model_flops
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from mova_jax.training.utilization import Utilization
from tests import tiny


def test_mfu_is_model_flops_over_what_all_chips_could_do(monkeypatch):
    config = tiny.config()
    mesh = mesh_lib.make_mesh(data=4)
    chip = types.SimpleNamespace(peak_flops=1e9, devices=2)
    monkeypatch.setattr(chips, "of_kind", lambda kind: chip)
    utilization = Utilization(make_train_spec(config, mesh), mesh)
    found = utilization.metrics(tiny.batch(), step_s=0.5)
    needed = sum(cost.total for cost in model_flops(config, tiny.L, batch=tiny.B).values())
    assert found["time/mfu"] == pytest.approx(needed / (0.5 * 4 * 0.5e9))
    assert "time/mfu" not in utilization.metrics(tiny.batch(), step_s=None)


def test_a_cpu_has_neither_a_peak_nor_memory_statistics():
    mesh = mesh_lib.make_mesh(data=1)
    utilization = Utilization(make_train_spec(tiny.config(), mesh), mesh)
    assert utilization.metrics(tiny.batch(), step_s=0.5) == {}
