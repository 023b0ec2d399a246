"""Answers as text and as JSON."""

import dataclasses
import json

from mova_jax.search.query import Searcher
from mova_jax.search.show import as_json, as_text, clock
from tests.search.made import MadeIndex, MadeModel, MadeScan


def test_answers_are_shown_with_the_seconds_of_each_sentence():
    index = MadeIndex((90, 5), 16)
    odd = dataclasses.replace(
        index.entries[0], source="/films/a\x1b[31m.mp4", others=("/films/copy.mp4",)
    )
    index.entries[0] = odd
    answers = Searcher(MadeModel(index), index, MadeScan()).search("v0f70. v0f3 now.")
    first, *_ = as_text(answers).splitlines()
    assert first.split() == ["1", "1.000", "/films/a\ufffd[31m.mp4", "01:30"]
    assert "       01:09 to 01:11  v0f70." in as_text(answers)
    assert "       00:02 to 00:03  v0f3 now." in as_text(answers)
    found = json.loads(as_json(answers))
    assert [one["rank"] for one in found] == [1, 2] and found[0]["path"] == odd.source
    assert found[0]["copies"] == ["/films/copy.mp4"] and found[1]["copies"] == []
    assert "       also /films/copy.mp4" in as_text(answers)
    assert found[0]["moments"][0]["start"] == 69.5 and found[0]["moments"][1]["end"] == 3.5


def test_clock():
    assert [clock(s) for s in (0, 59.9, 60, 3599, 3600, 45296)] == [
        "00:00",
        "00:59",
        "01:00",
        "59:59",
        "1:00:00",
        "12:34:56",
    ]
