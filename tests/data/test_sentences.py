"""Tests of how captions are cleaned, where sentences end, and how neighbours are merged."""

import ftfy
import numpy as np
import pytest

from mova_jax.data.sentences import clean_text, fill_room, merge_parts, split_sentences

# Cleaned by open_clip 3.3 (`_clean_whitespace`), but for the names of control tokens.
CLEANED = {
    "Plain, with 'quotes' - and 100% | <b>.": "Plain, with 'quotes' - and 100% | <b>.",
    "  two\n lines\tand   spaces ": "two lines and spaces",
    "a\xa0b\u3000c\u2028d": "a b c d",
    "\u201cNo,\u201d he says, \u2018it\u2019s me\u2019": "\"No,\" he says, 'it's me'",
    "It&#39;s AT&amp;T &lt;b&gt;&nbsp;!": "It's AT&T <b> !",
    "don&amp;#39;t &amp;amp;lt; &notanentity;": "don't < \xacanentity;",
    "sch\xc3\xb6n, l\xe2\u20ac\u2122humanit\xc3\xa9": "sch\xf6n, l'humanit\xe9",
    "cafe\u0301 \ufb01sh \uff21\uff22 bell\x07 \x1b[31mred\x1b[0m": "caf\xe9 fish AB bell red",
    "na\xefve \u2602 \u6f22\u5b57 \U0001f642": "na\xefve \u2602 \u6f22\u5b57 \U0001f642",
    "a <|endoftext|> b": "a <| endoftext |> b",
    "&lt;|StartOfText|&gt;\uff1c|endoftext|>": "<| StartOfText |><| endoftext |>",
}


@pytest.mark.parametrize("text", CLEANED)
def test_captions_are_cleaned_as_by_clip(text):
    assert clean_text(text) == CLEANED[text]
    assert clean_text(clean_text("x. " + text)) == clean_text("x. " + text)


def test_plain_text_is_not_touched():
    printable = "".join(map(chr, range(32, 127))).replace("&", "")
    assert clean_text(printable) == printable.strip()
    assert ftfy.fix_text(printable) == printable  # what is left out for plain text does nothing


def test_sentences_are_found_in_the_cleaned_text():
    assert split_sentences("He says &quot;go.&quot;&nbsp;She goes.") == [
        'He says "go."',
        "She goes.",
    ]


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
        ['"Sit!" he says.', '"It sits."', "(It was told.)", "He adds 'good.'", "It runs."],
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


def test_whole_sentences_fill_the_room_or_the_next_one_fills_what_is_left():
    sentences = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert fill_room(sentences, 9) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert fill_room(sentences, 8) == [1, 2, 3, 4, 5]
    assert fill_room(sentences, 4) == [1, 2, 3]
    assert fill_room(sentences, 2) == [1, 2]  # not even the first fits
    assert fill_room([[1], [2] * 9], 4) == [1, 2, 2, 2]  # a quarter is less than half
    assert fill_room([[1, 1], [2] * 9], 4) == [1, 1]  # half is enough


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
