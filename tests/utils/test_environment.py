"""What a run keeps of the environment, and what it refuses."""

import json

import pytest

from mova_jax.utils import environment


def test_what_changes_figures_is_kept_and_a_change_is_said(tmp_path):
    first = {"XLA_FLAGS": "--a", "JAX_DEFAULT_MATMUL_PRECISION": "highest", "HOME": "/secret"}
    lines = environment.record(tmp_path, first)
    assert [line.split(" ")[0] for line in lines] == [
        "JAX_DEFAULT_MATMUL_PRECISION=highest",
        "XLA_FLAGS=--a",
    ]
    kept = json.loads((tmp_path / environment.FILE).read_text())
    assert kept == {"XLA_FLAGS": "--a", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    assert environment.record(tmp_path, first) == []
    (line,) = environment.record(tmp_path, first | {"XLA_FLAGS": "--b"})
    assert "XLA_FLAGS was '--a' when the run started and is '--b' now" in line
    assert len(environment.record(tmp_path, {})) == 2
    assert json.loads((tmp_path / environment.FILE).read_text()) == kept


def test_variables_that_make_another_program_are_refused_by_name():
    harmless = {"JAX_ENABLE_X64": "0", "JAX_NUMPY_RANK_PROMOTION": "warn", "OTHER": "1"}
    assert environment.refused(harmless) == ""
    found = environment.refused({"JAX_ENABLE_X64": "True", "JAX_DISABLE_JIT": "1"})
    assert "JAX_ENABLE_X64=True" in found and found.endswith("unset JAX_DISABLE_JIT JAX_ENABLE_X64")


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / environment.FILE).write_text("{]")
    with pytest.raises(ValueError, match=r"environment.json is damaged .*: delete it"):
        environment.record(tmp_path, {})
