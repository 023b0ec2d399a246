"""Questions to an index: what is asked, in which order answers come, which seconds they show."""

import dataclasses
import datetime

import numpy as np
import pytest

from mova_jax.search.filters import Filter
from mova_jax.search.query import QueryError, Searcher, trimmed
from mova_jax.typing import TextEmbedding
from tests.search.made import MadeIndex, MadeModel, MadeScan, text_of

LENGTHS = (5, 20, 9, 20, 1, 9, 30)


@pytest.fixture
def searcher():
    """Video 3 has nearly the frames of video 1."""
    index = MadeIndex(LENGTHS, 16, copy_of={3: 1})
    return Searcher(MadeModel(index), index, MadeScan())


def found(answers):
    return [answer.entry.id for answer in answers]


def test_the_best_video_comes_first_with_the_seconds_of_each_sentence(searcher):
    answers = searcher.search("v6f12 is here. v6f25 follows.", top=3)
    assert answers[0].entry.id == "v006" and [a.rank for a in answers] == [1, 2, 3]
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    first, second = answers[0].moments
    assert (first.text, second.text) == ("v6f12 is here.", "v6f25 follows.")
    assert (first.start, first.end) == (11.5, 12.5) and first.score == pytest.approx(1, abs=1e-3)
    assert (second.start, second.end) == (24.5, 25.5)
    assert first.heat.shape == answers[0].times.shape == (30,)


def test_the_last_moment_ends_with_the_video(searcher):
    entry = dataclasses.replace(searcher.index.entries[0], duration=4.2)
    searcher.index.entries[0] = entry
    assert searcher.search("v0f4", top=1)[0].moments[0].end == pytest.approx(4.2)
    assert searcher.search("v4f0", top=1)[0].moments[0].start == 0  # of a single frame


def test_near_copies_are_one_answer(searcher):
    best, *others = searcher.search("v1f7 is in two.", top=7)
    assert {best.entry.id, *(copy.id for copy in best.copies)} == {"v001", "v003"}
    assert len(others) == 5 and not any(answer.copies for answer in others)


def test_a_video_as_the_question_finds_itself(searcher):
    (answer,) = searcher.search(searcher.like("v004"), top=1)
    assert answer.entry.id == "v004" and answer.score == pytest.approx(1, abs=1e-3)
    assert answer.moments[0].text == "like v004"


def test_filters(searcher):
    day = datetime.date.fromisoformat
    entries = searcher.index.entries
    entries[2] = dataclasses.replace(entries[2], added="2026-12-05T23:59:59+00:00")

    def places(**conditions):
        return [int(e.id[1:]) for e in Filter.parse(**conditions)(entries)]

    assert places() == list(range(7))
    assert places(folder="/films/b") == places(folder="/films/b/") == [1, 3, 5]
    assert places(folder="/film") == []  # no folder, though the path begins with it
    entries[0] = dataclasses.replace(entries[0], others=("/films/b/copy.mp4",))
    assert places(folder="/films/b") == [0, 1, 3, 5]
    assert places(longer="20") == [1, 3, 6] and places(shorter="0.1m") == [0, 4]
    assert places(after="2026-12-05") == [2] and places(before="2026-12-05") == [0, 1, 3, 4, 5, 6]
    assert Filter.parse(after="2026-12-01").after == day("2026-12-01")
    assert found(searcher.search("v6f12", top=2, where=Filter.parse(shorter="1s"))) == ["v004"]
    assert searcher.search("v6f12", where=Filter.parse(longer="2h")) == ()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"after": "yesterday"}, "after: got 'yesterday', expected a day such as"),
        ({"longer": "long"}, "longer: got 'long', expected a length such as"),
        ({"shorter": "-3s"}, "shorter"),
    ],
)
def test_filters_that_cannot_be_read(conditions, message):
    with pytest.raises(ValueError, match=message):
        Filter.parse(**conditions)


def test_questions_that_cannot_be_asked(searcher):
    with pytest.raises(QueryError, match="got no text"):
        searcher.search(" \n ")
    with pytest.raises(QueryError, match="got a text of 6000 characters, expected 5000 at most"):
        searcher.search("x" * 6000)
    many = searcher.search("v6f1. " * 50, top=1)
    assert len(many[0].moments) == 32


def test_a_video_without_frames_is_no_answer(searcher):
    searcher.index.entries[0] = dataclasses.replace(searcher.index.entries[0], frames=0)
    assert "v000" not in found(searcher.search("v0f1", top=7))
    np.testing.assert_array_equal(searcher.index.times("v004"), [0])


def test_padded_parts_are_cut_to_a_power_of_two():
    tokens, mask = np.zeros((2, 9, 0, 1)), np.zeros((2, 9, 1), bool)
    mask[0, :3] = mask[1, :2] = True
    parts = TextEmbedding(tokens, mask, np.ones((2, 9, 4)))
    text = dataclasses.replace(text_of(np.ones((2, 4))), parts=parts)
    assert trimmed(text).parts.pooled.shape == (2, 4, 4)
    assert trimmed(text).parts.token_mask.sum() == 5
    assert trimmed(text_of(np.ones((2, 4)))).parts is None
