"""The parts of captions in batches."""

import dataclasses
import json

import numpy as np
import pytest

from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.tokenizer import Tokenizer
from tests.data.pipeline.small_split import (
    BATCH,
    FIELDS,
    PART_FIELDS,
    RECORDS,
    SETTINGS,
    STEPS,
    assert_same,
    evaluate,
    record_of,
    said,
    take,
    train,
)


def _parts_said(batch, row):
    """The ids of each valid part of a row, which come before the padded ones."""
    tokens, mask = batch["part_tokens"][row], batch["part_token_mask"][row]
    valid = mask.any(-1)
    assert valid.tolist() == sorted(valid, reverse=True)
    return [ids[held].tolist() for ids, held in zip(tokens[valid], mask[valid], strict=True)]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_batch_has_the_parts_of_its_captions(folder, tokenizer, parts):
    settings = dataclasses.replace(SETTINGS, parts=parts)
    batches = take(iter(train(folder, tokenizer, parts=parts)), STEPS)
    for batch, plain in zip(batches, take(iter(train(folder, tokenizer)), STEPS), strict=True):
        assert batch.keys() == FIELDS | PART_FIELDS
        assert_same([{name: batch[name] for name in FIELDS}], [plain])  # parts change nothing else
        b, p, t = batch["part_tokens"].shape
        assert batch["part_token_mask"].shape == (b, p, t) and b == BATCH
        assert batch["part_tokens"].dtype == np.int32 and batch["part_token_mask"].dtype == bool
        longest = batch["part_token_mask"].sum(-1).max()
        assert t == min(n for n in (16, 24, 32, 40, 64) if n >= longest)
        assert p == min(n for n in settings.padding.parts if n >= min(parts, 3))
        assert (batch["part_tokens"][~batch["part_token_mask"]] == tokenizer.pad_id).all()
        for row, video in enumerate(batch["video_id"]):
            sentences = [caption.text for caption in record_of(int(video)).captions]
            texts = {1: [" ".join(sentences)], 2: [sentences[0], " ".join(sentences[1:])]}
            expected = texts.get(parts, sentences)
            if int(video) > 0 or parts != 2:  # that of video 0 is the shortest, and merged
                ids = [tokenizer.encode(text).ids.tolist() for text in expected]
                assert _parts_said(batch, row) == ids


def test_parts_hold_what_truncation_cuts_off_the_caption(folder, tokenizer):
    short = Tokenizer(tokenizer.folder, max_tokens=12)
    batch = next(iter(train(folder, short, max_tokens=12, batch_size=RECORDS, parts=4)))
    assert batch["part_tokens"].shape == (RECORDS, 4, 12)
    for row, video in enumerate(batch["video_id"]):
        expected = [
            short.encode(caption.text).ids.tolist() for caption in record_of(video).captions
        ]
        assert _parts_said(batch, row) == expected


def test_the_sizes_of_parts_are_few_and_end_with_the_largest():
    def padding(**changes):
        return PipelineSettings(8, 64, **changes).padding

    assert padding() == ((64, 128, 192, 248), (), ())
    assert padding(parts=1).parts == (1,)
    assert padding(parts=5).parts == (1, 2, 4, 5)
    assert padding(parts=8).parts == (1, 2, 4, 6, 8)
    assert padding(parts=17).parts == (1, 2, 4, 6, 8, 12, 16, 17)
    assert padding(parts=8).part_tokens == (16, 24, 40, 77)
    assert padding(parts=8, max_tokens=30).part_tokens == (16, 24, 30)
    assert padding(parts=8).largest == ((248,), (8,), (77,))
    assert padding().largest == ((248,), (), ())


def test_images_have_their_sentence_as_the_only_part(folder, tokenizer):
    batches = take(iter(train(folder, tokenizer, images=(3, 7), parts=4)), 4)
    for batch in batches[:3]:
        assert batch["part_tokens"].shape[1] == 1
        assert all(_parts_said(batch, row) == [said(batch, row)] for row in range(7))
    assert batches[3]["part_tokens"].shape[1] == 4


@pytest.mark.parametrize("readers", [{}, {"threads": 2}])
@pytest.mark.parametrize("position", [1, STEPS, STEPS + 2])
def test_resume_is_exact_with_parts(folder, tokenizer, position, readers):
    changes = {"parts": 2, "short_caption_share": 0.3, "caption_policy": "prefix", **readers}
    whole, first, resumed = (iter(train(folder, tokenizer, **changes)) for _ in range(3))
    expected = take(whole, position + 3)
    take(first, position)
    resumed.set_state(json.loads(json.dumps(first.get_state())))
    assert_same(take(resumed, 3), expected[position:])
    for iterator in (whole, first, resumed):
        iterator.close()


def test_an_evaluation_has_one_shape_of_parts(folder, tokenizer):
    batches = evaluate(folder, tokenizer, parts=5)
    longest = max(len(tokenizer.encode(record_of(i).captions[0].text).ids) for i in range(RECORDS))
    length = min(n for n in (16, 24, 32, 40, 64) if n >= longest)
    most = max(len(record_of(i).captions) for i in range(RECORDS))
    p = min(n for n in (1, 2, 4, 5) if n >= most)
    assert {batch["part_tokens"].shape for batch in batches} == {(BATCH, p, length)}
    assert not batches[-1]["part_token_mask"][3:].any()  # rows of padding
    for batch, plain in zip(batches, evaluate(folder, tokenizer), strict=True):
        assert_same([{name: batch[name] for name in FIELDS}], [plain])
        for row, video in enumerate(batch["video_id"][batch["video_id"] >= 0]):
            captions = record_of(int(video)).captions
            expected = [tokenizer.encode(caption.text).ids.tolist() for caption in captions]
            assert _parts_said(batch, row) == expected
    (first,) = evaluate(folder, tokenizer, parts=5, limit=1)
    p = min(n for n in (1, 2, 4, 5) if n >= len(record_of(0).captions))
    assert first["part_tokens"].shape == (BATCH, p, 16)
