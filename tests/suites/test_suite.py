"""Results of suites on disk."""

from mova_jax.suites import Curve, SuiteResult, SuiteTable
from mova_jax.suites.suite import load_result, save_result


def test_a_result_is_read_as_it_was_written(tmp_path):
    assert load_result(tmp_path) is None
    table = SuiteTable("R@1", {"minutes": "minutes", "r1": "R@1"}, [{"minutes": 1, "r1": 50.0}])
    curve = Curve("R@1", "minutes", "%", {"parts": [(1.0, 50.0, 40.0, 60.0)]}, log_x=True)
    made = SuiteResult("It holds.", "64 videos, seed 0", [table], [curve])
    save_result(tmp_path, made)
    assert load_result(tmp_path) == made
