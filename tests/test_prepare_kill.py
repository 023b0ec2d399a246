"""A `prepare` that is killed at any moment, again and again, ends like one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.clips import assert_same_files, line, write_lines, write_video

VIDEOS, WORKERS, KILLS = 60, 2, 4

# The command, with shards of eight records and a line in a log for every video that is begun. The
# worker processes import it too.
_PROGRAM = """
import os, sys, time
from mova_jax import prepare
from mova_jax.data.ingest import partial_output, tasks

decode = tasks.decode_or_raise

def logged(item, *args):
    with open(os.environ["BEGUN"], "a") as log:
        log.write(item.id + "\\n")
    time.sleep(0.1)
    return decode(item, *args)

tasks.decode_or_raise = logged
partial_output.SHARD_RECORDS = 8
if __name__ == "__main__":
    sys.exit(prepare.main())
"""


@pytest.fixture
def command(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames)
    splits = {i: ("train", "test")[i % 3 == 0] for i in range(VIDEOS)}
    lines = [
        line("a.mp4", f"Cat {i} sits.", id=f"{i:02d}", end=0.5 + i / 30, split=split)
        for i, split in splits.items()
    ]
    write_lines(tmp_path / "all.jsonl", *lines)
    (tmp_path / "program.py").write_text(_PROGRAM)
    arguments = [sys.executable, tmp_path / "program.py", "--input", tmp_path / "all.jsonl"]
    arguments += ["--workers", WORKERS, "--fps", 4]
    return list(map(str, arguments))


def _done(folder):
    """Items that the next call need not decode."""
    alone = {path.stem for path in folder.glob(".partial/items/*.json")}
    shards = folder.glob(".partial/shards/*.json")
    return alone.union(*(json.loads(path.read_text())["outcomes"] for path in shards))


@pytest.mark.slow
def test_kill_9_costs_what_was_in_flight(command, tmp_path):
    env = os.environ | {"BEGUN": str(tmp_path / "begun"), "PYTHONPATH": os.getcwd()}
    subprocess.run([*command, "--output", tmp_path / "whole"], check=True, env=env)
    (tmp_path / "begun").unlink()
    folder, seed = tmp_path / "killed", random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for kill in range(KILLS):
        run = subprocess.Popen([*command, "--output", folder], env=env, stderr=subprocess.PIPE)
        enough = (kill + rng.random()) * VIDEOS / KILLS
        while len(_done(folder)) < enough and run.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() / 5)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        time.sleep(2)  # until its workers have seen that
        assert not [path for path in folder.glob("*") if path.name != ".partial"]
    before = len(_done(folder))
    last = subprocess.run(
        [*command, "--output", folder], check=True, env=env, capture_output=True, text=True
    )
    assert f"{before} of {VIDEOS} videos are done already." in last.stderr
    assert len(list(folder.iterdir())) > VIDEOS // 8
    assert_same_files(tmp_path / "whole", folder)
    begun = (tmp_path / "begun").read_text().split()
    assert len(set(begun)) == VIDEOS
    print(f"{len(begun) - VIDEOS} of {VIDEOS} videos were decoded twice, {KILLS} kills")
    assert len(begun) - VIDEOS <= KILLS * WORKERS
