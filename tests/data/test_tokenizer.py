"""Tests of the tokenizer: transformers' ids, cuts at the end of a sentence, padding."""

import json
import pickle

import numpy as np
import pytest
from transformers import CLIPTokenizer

from mova_jax.data.tokenizer import (
    MIN_VOCAB,
    Tokenizer,
    bucket_length,
    copy_tokenizer,
    is_tokenizer,
    pad_parts,
    pad_tokens,
    train_tokenizer,
)
from tests.clips import assert_same_files

TEXTS = [
    "A red cat sits on the mat. It leaves.",
    "The red cat doesn't like the blue dog!",
    "A blue dog runs to the red mat; the cat leaves.",
] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "tokenizer"
    train_tokenizer(TEXTS, 540, path)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "A red cat sits on the mat.",
        "",
        " ",
        "Words that were NEVER seen, naïve ☂ 漢字 🙂",
        "  two\n lines\tand   spaces ",
        "It's 3 o'clock, they'll don't we've 1234!?...",
    ],
)
def test_ids_are_those_of_transformers(folder, text):
    encoded = Tokenizer(folder).encode(text)
    assert encoded.ids.tolist() == CLIPTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert encoded.ids.dtype == np.int32
    assert not encoded.truncated


def test_captions_are_cleaned_and_lower_case(folder):
    """The caption's `<|endoftext|>` is text; the vocabulary has whole words of CLIP's cleaning."""
    tokenizer, theirs = Tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text, clean in (
        ("It doesn&#39;t\xa0like", "it doesn't like"),
        ("\u201cThe dog doesn\u2019t\u201d", '"the dog doesn\'t"'),
        (
            "\u039f\u0394\u039f\u03a3",
            "\u03bf\u03b4\u03bf\u03c2",
        ),  # Python's final sigma, as in CLIP
    ):
        ids = tokenizer.encode(text).ids
        np.testing.assert_array_equal(ids, theirs(clean)["input_ids"])
        np.testing.assert_array_equal(tokenizer.encode_parts([text], 2)[0], ids)
    ids = tokenizer.encode("a <|endoftext|> b <|startoftext|>").ids
    assert {tokenizer.bos_id, tokenizer.eot_id} & {*ids[1:-1].tolist()} == set()
    theirs.split_special_tokens = True
    assert ids.tolist() == theirs("a <|endoftext|> b <|startoftext|>")["input_ids"]


def test_a_vocabulary_is_learned_of_cleaned_texts(folder, tmp_path):
    raw = [text.replace("'", "&#39;").replace(".", ".&nbsp;") for text in TEXTS]
    train_tokenizer(raw, 540, tmp_path)
    assert_same_files(folder, tmp_path)


def test_a_tokenizer_saved_by_transformers_is_read_and_copied(folder, tmp_path):
    CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    copy_tokenizer(tmp_path / "theirs", tmp_path / "copy")
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names
    for name in names:
        saved = (tmp_path / "theirs" / name).read_bytes()
        assert (tmp_path / "copy" / name).read_bytes() == saved


def test_the_vocabulary_has_the_order_of_clip(folder):
    vocab = CLIPTokenizer.from_pretrained(folder).get_vocab()
    by_id = sorted(vocab, key=vocab.get)
    assert sorted(vocab.values()) == list(range(540))
    assert by_id[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    assert [token + "</w>" for token in by_id[:256]] == by_id[256:512]
    tokenizer = Tokenizer(folder)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eot_id) == (540, 538, 539)
    ids = tokenizer.encode("The cat").ids
    assert [by_id[i] for i in ids] == ["<|startoftext|>", "the</w>", "cat</w>", "<|endoftext|>"]


def test_few_texts_give_few_tokens(tmp_path):
    train_tokenizer(["a b", "a b"], 4096, tmp_path)
    assert Tokenizer(tmp_path).vocab_size == MIN_VOCAB
    assert Tokenizer(tmp_path).encode("ab").ids.tolist()[-1] == MIN_VOCAB - 1


def test_the_same_texts_give_the_same_files(folder, tmp_path):
    train_tokenizer(iter(TEXTS), 540, tmp_path)
    assert_same_files(folder, tmp_path)


def test_long_texts_are_cut_at_the_end_of_a_sentence(folder):
    sentences = ["The cat sits.", "The dog leaves!", "A mat?", "It runs..."]
    text = " ".join(sentences)
    for kept in (1, 2, 3):
        expected = Tokenizer(folder).encode(" ".join(sentences[:kept])).ids
        room = len(Tokenizer(folder).encode(" ".join(sentences[: kept + 1])).ids)
        for limit in (len(expected), room - 1):
            cut = Tokenizer(folder, max_tokens=limit).encode(text)
            assert cut.truncated
            np.testing.assert_array_equal(cut.ids, expected)


def test_a_long_sentence_fills_up_what_a_short_one_leaves(folder):
    text = "A dog. " + "red cat " * 40
    first = Tokenizer(folder).encode("A dog.").ids[:-1]
    whole = Tokenizer(folder, max_tokens=200).encode(text).ids
    kept = len(first) - 1
    for room, filled in ((2 * kept, False), (2 * kept + 1, True), (40, True)):
        cut = Tokenizer(folder, max_tokens=room + 2).encode(text)
        assert cut.truncated and cut.ids[-1] == whole[-1]
        expected = whole[: room + 1] if filled else first
        np.testing.assert_array_equal(cut.ids[:-1], expected)


def test_a_sentence_that_is_too_long_keeps_its_beginning(folder):
    long = "red cat " * 40
    whole = Tokenizer(folder, max_tokens=200).encode(long).ids
    cut = Tokenizer(folder, max_tokens=10).encode(long)
    assert cut.truncated and len(cut.ids) == 10
    assert cut.ids.tolist() == [*whole[:9], whole[-1]]


def test_the_limit_itself_is_not_too_long(folder):
    length = len(Tokenizer(folder).encode("The cat sits.").ids)
    assert not Tokenizer(folder, max_tokens=length).encode("The cat sits.").truncated
    assert Tokenizer(folder, max_tokens=length - 1).encode("The cat sits.").truncated


def test_a_tokenizer_can_be_sent_to_a_process(folder):
    tokenizer = Tokenizer(folder, max_tokens=9)
    sent = pickle.loads(pickle.dumps(tokenizer))
    assert sent.encode(TEXTS[0]).ids.tolist() == tokenizer.encode(TEXTS[0]).ids.tolist()


def test_vocabulary_files_of_the_old_form_are_read_and_copied(folder, tmp_path):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    copy_tokenizer(old, tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").is_file()
    for text in TEXTS:
        expected = Tokenizer(folder).encode(text).ids.tolist()
        assert Tokenizer(old).encode(text).ids.tolist() == expected
        assert Tokenizer(tmp_path / "new").encode(text).ids.tolist() == expected


def test_folders_without_a_clip_tokenizer(tmp_path, folder):
    assert is_tokenizer(folder) and not is_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no tokenizer in"):
        Tokenizer(tmp_path)
    with pytest.raises(ValueError, match="max_tokens must be at least 3"):
        Tokenizer(folder, max_tokens=2)
    with pytest.raises(ValueError, match="at least 514"):
        train_tokenizer(TEXTS, 513, tmp_path)
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="a CLIP tokenizer has at least 514"):
        Tokenizer(tmp_path)
    for vocab, merges in (('{"a": 1}', ""), ("{", ""), ("[]", ""), ('{"a": 1}', "a b\n")):
        (tmp_path / "vocab.json").write_text(vocab)
        (tmp_path / "merges.txt").write_text(merges)
        with pytest.raises(ValueError, match="CLIP tokenizer"):
            Tokenizer(tmp_path)


@pytest.mark.parametrize(("longest", "bucket"), [(0, 64), (64, 64), (65, 128), (248, 248)])
def test_bucket_is_the_smallest_that_holds_the_longest(longest, bucket):
    assert bucket_length(longest, (64, 128, 248)) == bucket
    with pytest.raises(ValueError, match="249 tokens fits none"):
        bucket_length(249, (64, 248))


def test_token_mask_is_true_where_tokens_are():
    sequences = [np.arange(1, 4, dtype=np.int32), np.arange(1, 7, dtype=np.int32)]
    tokens, token_mask = pad_tokens(sequences, (4, 8, 16), pad_id=9)
    assert tokens.dtype == np.int32
    assert token_mask.dtype == bool
    assert tokens.tolist() == [[1, 2, 3, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6, 9, 9]]
    assert token_mask.sum(1).tolist() == [3, 6]
    assert not token_mask[0, 3:].any()


def test_parts_are_texts_of_their_own(folder):
    tokenizer = Tokenizer(folder, max_tokens=12)
    sentences = ["The cat sits.", " ", "The dog leaves!", "red cat " * 40]
    parts = tokenizer.encode_parts(sentences, 3)
    for ids, text in zip(parts, (sentences[0], *sentences[2:]), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text).ids)
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eot_id)
    assert len(parts[2]) == 12  # truncated, as a caption is
    (merged, _) = tokenizer.encode_parts(sentences, 2)
    np.testing.assert_array_equal(merged, tokenizer.encode("The cat sits. The dog leaves!").ids)
    assert tokenizer.encode_parts(sentences, 0) == ()
    (blank,) = tokenizer.encode_parts(["  "], 3)  # a caption has a part, whatever it says
    assert blank.tolist() == [tokenizer.bos_id, tokenizer.eot_id]


def test_parts_are_padded_in_number_and_in_length():
    captions = [[np.arange(1, 4), np.arange(4, 10)], [], [np.arange(10, 12)] * 3]
    tokens, mask = pad_parts(captions, counts=(1, 2, 4, 6), buckets=(4, 8, 16), pad_id=99)
    assert tokens.shape == mask.shape == (3, 4, 8)
    assert tokens.dtype == np.int32 and mask.dtype == bool
    for row, parts in enumerate(captions):
        for part in range(4):
            ids = parts[part] if part < len(parts) else []
            assert tokens[row, part].tolist() == [*ids, *[99] * (8 - len(ids))]
            assert mask[row, part].tolist() == [i < len(ids) for i in range(8)]
    assert pad_parts([[]], (2, 3), (5,), 0)[1].tolist() == [[[False] * 5] * 2]
