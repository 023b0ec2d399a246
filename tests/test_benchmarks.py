"""What the benchmarks count and print; their timings are looked at, not tested."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import compare_objectives, train_step


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(train_step)/jvp(vision_tower)/while/body/dot_general", "vision tower"),
        ("jit(train_step)/transpose(jvp(text_tower))/while/body/add", "text tower"),
        ("jit(train_step)/jvp(pairs)/vmap(tmn)/dot_general", "TMN"),
        ("jit(train_step)/transpose(jvp(masks))/cmn/mul", "CMN"),
        ("jit(train_step)/jvp(sfdm)/reduce_max", "modular losses"),
        ("jit(train_step)/optimizer/mul", "optimizer"),
        ("jit(train_step)/transpose", "other"),
    ],
)
def test_an_instruction_counts_under_its_innermost_part(op_name, part):
    assert train_step.part_of(op_name) == part


def test_instructions_of_a_compiled_program_are_found_by_their_scope():
    def function(x):
        with jax.named_scope("tmn"):
            y = x @ x
        with jax.named_scope("optimizer"):
            return y @ x

    text = jax.jit(function).lower(jnp.ones((4, 4))).compile().as_text()
    parts = set(train_step.parts_by_instruction(text).values())
    assert {"TMN", "optimizer"} <= parts


def write_run(folder, **figures):
    folder.mkdir()
    rows = [{"step": 1, "test/global/t2v/r1": 1.0}, {"step": 2} | figures]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare_objectives.figures(folder, "test")


def test_the_table_has_the_mean_and_the_range_of_the_last_figures(tmp_path):
    a = write_run(tmp_path / "a", **{"test/global/t2v/r1": 40.0, "test/kept_text": 0.5})
    b = write_run(tmp_path / "b", **{"test/global/t2v/r1": 50.0, "test/kept_text": 0.7})
    plain = write_run(tmp_path / "c", **{"test/global/t2v/r1": 30.0})
    lines = compare_objectives.table({"full": [a, b], "global_only": [plain, {}]}).splitlines()
    assert lines[0] == "| | full | global_only |"
    assert "| seeds | 2 | 1 |" in lines
    assert "| T2V R@1, %: global | 45.0 (40.0 to 50.0) | 30.0 |" in lines
    assert "| Masks: kept of the caption, % | 60.0 (50.0 to 70.0) |  |" in lines
