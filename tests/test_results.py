"""The document of results: blocks that a command replaces."""

import pytest

from benchmarks import results
from mova_jax.suites import Curve, SuiteResult, SuiteTable


def test_a_block_is_replaced_and_nothing_else():
    document = "before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n"
    made = results.replace_block(document, "a", "new")
    assert made == "before\n<!-- a:begin -->\n\nnew\n\n<!-- a:end -->\nafter\n"
    assert results.replace_block(made, "a", "new") == made
    with pytest.raises(ValueError, match="b:begin"):
        results.replace_block(document, "b", "new")


def test_numbers_of_seeds_are_averaged():
    columns = {"name": "name", "r1": "R@1", "share": "hit (95 %)"}
    seeds = [
        SuiteResult(
            f"Seed {r1}.\nMore of {r1}.",
            "8 videos",
            [SuiteTable("T", columns, [{"name": "a", "r1": r1, "share": f"{r1 + 1} (0 to 99)"}])],
        )
        for r1 in (10.0, 20.0)
    ]
    (table,) = results.averaged(seeds)
    assert table.rows == [{"name": "a", "r1": 15.0, "share": "16.0 (11.0 to 21.0)"}]
    text = results.suite_block("longform", {"parts": seeds})
    assert "| name | R@1 | hit (seeds) |" in text and "| a | 15 |" in text
    assert "- More of 10.0." in text and "- Another seed: Seed 20.0." in text
    assert "More of 20.0" not in text
    assert "(95 %)" in results.suite_block("longform", {"parts": seeds[:1]})


def test_the_picture_has_a_line_for_each_objective(monkeypatch):
    drawn = {}
    monkeypatch.setattr(results, "interval_plot", lambda series, *_, **__: drawn.update(series))
    lines = [
        [(1, 90.0, 80.0, 95.0), (10, 50.0, 40.0, 60.0)],
        [(1, 70.0, 60.0, 75.0), (10, 40.0, 30.0, 50.0)],
    ]
    seeds = [SuiteResult("", "", curves=[Curve("", "", "", {"in domain": line})]) for line in lines]
    results.duration_plot({"parts": seeds, "full": seeds[:1]}, "in domain")
    assert drawn["parts"] == [(1, 80.0, 70.0, 90.0), (10, 45.0, 40.0, 50.0)]
    assert drawn["full"] == lines[0]  # of one seed: the interval over queries
