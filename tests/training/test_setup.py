"""What a run checks and sets before it opens its data."""

import types

import jax
import pytest

from mova_jax.training import setup
from mova_jax.training.workdir import RunError
from tests import tiny

TOKENIZER = types.SimpleNamespace(folder="words", vocab_size=300)


@pytest.mark.parametrize("size", [0, 300, 512])
def test_a_vocabulary_size_of_zero_takes_that_of_the_tokenizer(size):
    config = setup._with_vocabulary(tiny.config(model__text__vocab_size=size), TOKENIZER)
    assert config.model.text.vocab_size == (size or 300)


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 299, but the tokenizer in words has 300"):
        setup._with_vocabulary(tiny.config(model__text__vocab_size=299), TOKENIZER)


def test_data_without_a_train_split_need_a_mixture():
    with pytest.raises(RunError, match="shards has the splits test, but none named train"):
        setup._check_source(tiny.config(), "shards", ("test",))
    setup._check_source(tiny.config(data__mixture=(("other", 1.0),)), "shards", ("test",))


@pytest.mark.parametrize("folder", [None, "gs://bucket/programs"])
def test_the_compilation_cache_is_in_the_data_cache_unless_it_was_set(folder):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    try:
        setup.enable_compilation_cache(tiny.config(data__cache="/disk"))
        assert jax.config.jax_compilation_cache_dir == (folder or "/disk/programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
