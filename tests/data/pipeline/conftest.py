"""The shards of the small split, and a tokenizer of its words."""

import pytest

from mova_jax.data.tokenizer import Tokenizer, train_tokenizer
from tests.data.pipeline.small_split import RECORDS, record_of, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards"), [record_of(i) for i in range(RECORDS)])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([record_of(3).caption, "short 1"] * 4, 540, path)
    return Tokenizer(path, max_tokens=64)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write(tmp_path_factory.mktemp("other"), [record_of(i) for i in range(7)])
