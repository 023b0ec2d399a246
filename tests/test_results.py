"""The document of results: blocks that a command replaces."""

import pytest

from benchmarks import results
from mova_jax.suites import SuiteResult, SuiteTable


def test_a_block_is_replaced_and_nothing_else():
    document = "before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n"
    made = results.replace_block(document, "a", "new")
    assert made == "before\n<!-- a:begin -->\n\nnew\n\n<!-- a:end -->\nafter\n"
    assert results.replace_block(made, "a", "new") == made
    with pytest.raises(ValueError, match="b:begin"):
        results.replace_block(document, "b", "new")


def test_numbers_of_seeds_are_averaged():
    columns = {"name": "name", "r1": "R@1"}
    seeds = [
        SuiteResult(
            f"Seed {r1}.", "8 videos", [SuiteTable("T", columns, [{"name": "a", "r1": r1}])]
        )
        for r1 in (10.0, 20.0)
    ]
    (table,) = results.averaged(seeds)
    assert table.rows == [{"name": "a", "r1": 15.0}]
    text = results.suite_block("longform", {"parts": seeds})
    assert "| a | 15 |" in text and "- Seed 10.0." in text and "- Seed 20.0." in text
