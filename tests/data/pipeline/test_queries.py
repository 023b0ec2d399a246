"""Tests of the text queries of a split, and of the protocol that its manifest names."""

import numpy as np
import pytest

from mova_jax.data.annotations.registry import DATASETS
from mova_jax.data.pipeline.queries import eval_captions, eval_sentences, query_protocol
from mova_jax.data.shards import Manifest, ShardError, write_manifest
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer
from tests.clips import video_record, write_shards

ALTERNATIVES = [(), ("a dog", " "), ("one cat", "two cats")]  # of each video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("queries")
    records = [
        video_record("id", [(f"cat {i}.", 0, 2), "untimed.", ("dog.", 2, 4)], alternatives)
        for i, alternatives in enumerate(ALTERNATIVES)
    ]
    write_shards(path, {"test": records})
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["cat dog untimed"] * 4, 540, path)
    return Tokenizer(path, max_tokens=40)


def test_captions_of_a_split_have_owners_and_ids(folder, tokenizer):
    every = eval_captions(folder, "test", tokenizer, queries="all")
    assert every.video.tolist() == [0, 1, 1, 2, 2, 2]  # an empty alternative is no query
    assert every.ids[1].tolist() == tokenizer.encode("cat 1. untimed. dog.").ids.tolist()
    assert every.ids[2].tolist() == tokenizer.encode("a dog").ids.tolist()
    assert every.tokens.tolist() == [len(ids) for ids in every.ids]
    one = eval_captions(folder, "test", tokenizer)
    assert one.video.tolist() == [0, 1, 2]
    assert one.ids[1].tolist() == every.ids[1].tolist()
    assert len(eval_captions(folder, "test", tokenizer, 2, "all").ids) == 3


def test_captions_of_a_split_have_their_parts(folder, tokenizer):
    every = eval_captions(folder, "test", tokenizer, queries="all", parts=2)
    assert len(every.parts) == len(every.ids) == 6
    expected = [["cat 1.", "untimed. dog."], ["a dog"]]
    for parts, wanted in zip(every.parts[1:3], expected, strict=True):
        assert [ids.tolist() for ids in parts] == [tokenizer.encode(t).ids.tolist() for t in wanted]
    assert every.longest_part == max(len(ids) for parts in every.parts for ids in parts)
    whole = eval_captions(folder, "test", tokenizer)
    assert whole.parts == () and whole.longest_part == 0


def test_sentences_are_the_timed_ones(folder, tokenizer):
    sentences = eval_sentences(folder, "test", tokenizer, limit=2)
    assert [(s.video, s.text, s.windows.tolist()) for s in sentences] == [
        (0, "cat 0.", [[0.0, 2.0]]),
        (0, "dog.", [[2.0, 4.0]]),
        (1, "cat 1.", [[0.0, 2.0]]),
        (1, "dog.", [[2.0, 4.0]]),
    ]
    np.testing.assert_array_equal(sentences[1].ids, tokenizer.encode("dog.").ids)
    assert len(eval_sentences(folder, "test", tokenizer)) == 6
    assert len(eval_sentences(folder, "test", tokenizer, timed_only=False)) == 9


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [({"name": "x"}, "caption"), ({"queries": "all"}, "all"), (3, "caption")],
)
def test_the_manifest_has_the_protocol(folder, tmp_path, dataset, expected):
    assert query_protocol(folder) == "caption"  # a manifest without one
    write_manifest(tmp_path, Manifest("x", {}, settings={"dataset": dataset}))
    assert query_protocol(tmp_path) == expected
    assert query_protocol(tmp_path, "caption") == "caption"
    assert query_protocol(tmp_path, "all") == "all"


def test_an_unknown_protocol_is_refused(tmp_path):
    write_manifest(tmp_path, Manifest("x", {}, settings={"dataset": {"queries": "some"}}))
    with pytest.raises(ShardError, match="queries 'some', expected one of caption, all"):
        query_protocol(tmp_path)


def test_two_data_sets_are_queried_by_every_caption():
    every = {name for name, dataset in DATASETS.items() if dataset.queries == "all"}
    assert every == {"msvd", "msrvtt_full"}
