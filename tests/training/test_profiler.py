"""Which steps a trace covers."""

import jax
import pytest

from mova_jax.training.profiler import Trace


@pytest.mark.parametrize(("first", "last", "traced"), [(0, 0, []), (2, 3, [2, 3]), (4, 9, [4, 5])])
def test_a_trace_covers_its_steps_and_ends_with_them(tmp_path, monkeypatch, first, last, traced):
    running, covered = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", running.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", running.clear)
    trace = Trace(tmp_path, first, last)
    for step in range(1, 6):
        trace.before(step)
        covered += [step] if running == [tmp_path / "profile"] else []
        trace.after(step, jax.numpy.zeros(()))
    trace.close()
    assert covered == traced and not running
