"""Progress of the commands that fill an index: added up until they end."""

import json
import subprocess
import sys

from mova_jax.search import progress
from mova_jax.search.progress import Indexing, now_indexing, reported
from mova_jax.utils import lock


def test_commands_are_added_up_until_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    assert now_indexing(tmp_path) is None
    with reported(tmp_path, 10) as one, reported(tmp_path, 5) as other:
        one(3)
        other(1)
        assert now_indexing(tmp_path) == Indexing(4, 15)
    assert now_indexing(tmp_path) is None and not list((tmp_path / "indexing").iterdir())


def test_a_killed_command_is_not_shown_and_deleted_by_the_next(tmp_path, monkeypatch):
    code = (
        "import os, sys\n"
        "from mova_jax.search.progress import reported\n"
        "with reported(sys.argv[1], 7): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = (tmp_path / "indexing").glob("*/progress.json")
    assert json.loads(left.read_text())["files"] == 7 and now_indexing(tmp_path) is None
    monkeypatch.setattr(lock, "_YOUNG", -1.0)
    with reported(tmp_path, 2):
        assert now_indexing(tmp_path) == Indexing(0, 2) and not left.exists()
