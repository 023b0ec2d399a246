"""Tests of where sentences end and of how neighbours are merged into parts."""

import numpy as np
import pytest

from mova_jax.data.sentences import merge_parts, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        ["no end"],
        ["A dog runs.", "It stops!", "Why?", "It is tired"],
        ["a dog runs.", "it stops.", "b."],  # lower case, as captions often are
        ["He waits... and sits.", "It rains...", "They leave… at last.", "Oh.. no."],
        ["Mr. Hill meets Dr. Lee (and St. Paul).", "They talk."],
        ["It takes 3.5 seconds.", "Then it lasts 12.", "It ends."],
        ["1. A dog runs.", "2. It stops.", "Then it rests."],
        ["Cups, plates, etc. are washed, e.g. by hand, at 5 p.m. on a day.", "They dry, etc.", "X"],
        ['"Sit!" he says.', "“It sits.”", "(It was told.)", "He adds 'good.'", "It runs."],
        ["Wow!!!", "Is it?!", "It is."],
    ],
)
def test_a_text_is_split_where_its_sentences_end(sentences):
    assert split_sentences(" ".join(sentences)) == sentences
    assert split_sentences("  " + " \n ".join(sentences) + " ") == sentences


def test_no_word_is_lost_whatever_the_text():
    rng = np.random.default_rng(0)
    pieces = ["a", "Dog", ".", "...", "!", '"', ")", " ", "  ", "Mr.", "e.g.", "7", "…", "(", "\t"]
    for _ in range(500):
        text = "".join(rng.choice(pieces, 14))
        sentences = split_sentences(text)
        assert " ".join(sentences).split() == text.split()
        assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def test_few_sentences_are_parts_and_blank_ones_are_none():
    assert merge_parts(["a.", " ", "b c.", ""], 2) == ["a.", "b c."]
    assert merge_parts([" "], 3) == merge_parts([], 1) == []


def test_the_shortest_neighbours_are_merged():
    sentences = ["aaaa", "bb", "c", "dddddddd", "ee", "f"]
    # Of two pairs that are as short, the first.
    assert merge_parts(sentences, 5) == ["aaaa", "bb c", "dddddddd", "ee", "f"]
    assert merge_parts(sentences, 4) == ["aaaa", "bb c", "dddddddd", "ee f"]
    assert merge_parts(sentences, 3) == ["aaaa bb c", "dddddddd", "ee f"]
    assert merge_parts(sentences, 1) == [" ".join(sentences)]


def test_many_sentences_become_parts_of_similar_length():
    rng = np.random.default_rng(0)
    sentences = ["x" * n for n in rng.integers(20, 80, 300)]
    parts = merge_parts(sentences, 8)
    lengths = [len(part) for part in parts]
    assert len(parts) == 8 and " ".join(parts) == " ".join(sentences)
    assert max(lengths) < 3 * min(lengths)
