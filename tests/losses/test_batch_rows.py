"""Which rows of a batch are negatives of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.losses.batch_rows import BatchRows, row_keys
from mova_jax.losses.contrast import in_batch_recall_at_1, logit_stats
from mova_jax.losses.objective import objective
from mova_jax.losses.replica_group import SingleReplica
from mova_jax.typing import Batch
from tests import tiny


def batch_of(tokens, lengths, video_id) -> Batch:
    tokens = np.array(tokens, np.int32)
    mask = tiny.masks_of_lengths(lengths, tokens.shape[1])
    return Batch(
        **tiny.batch_arrays(len(tokens))
        | {"tokens": tokens, "token_mask": mask, "video_id": np.array(video_id, np.int32)}
    )


def negatives(batch: Batch, mask=None) -> np.ndarray:
    mask = jnp.ones(len(batch.tokens), bool) if mask is None else jnp.asarray(mask)
    rows = BatchRows.of(SingleReplica(), mask, row_keys(batch))
    return np.asarray(rows.negatives(rows))


def test_the_same_video_and_the_same_valid_tokens_are_no_negatives():
    # Padding tells no captions apart; length, order and one token more do.
    tokens = [[5, 1, 2, 9], [5, 1, 2, 0], [5, 1, 2, 9], [1, 5, 2, 9], [5, 1, 3, 9], [7, 7, 7, 7]]
    found = negatives(batch_of(tokens, [3, 3, 4, 3, 3, 4], [0, 1, 2, 3, 4, 4]))
    alike = np.eye(6, dtype=bool)
    alike[[0, 1, 4, 5], [1, 0, 5, 4]] = True
    np.testing.assert_array_equal(found, ~alike)
    found = negatives(batch_of(tokens, [3, 3, 4, 3, 3, 4], range(6)), [1, 1, 1, 1, 0, 0])
    assert not found[4:].any() and not found[:, 4:].any() and found[:4].sum() == 10


def test_hashes_of_many_captions_differ():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, (20_000, 14), dtype=np.int32)  # many differ in one token
    lengths = rng.integers(1, 15, len(tokens))
    tokens[~tiny.masks_of_lengths(lengths, 14)] = -1
    batch = dataclasses.replace(
        tiny.batch(1), tokens=tokens, token_mask=tokens >= 0, video_id=np.arange(len(tokens))
    )
    text = np.asarray(row_keys(batch).text)
    different = len(np.unique(tokens, axis=0))
    assert len(np.unique(text, axis=0)) == different > 9000
    # Each half alone tells nearly all apart: of 2^32 values few coincide by chance.
    assert min(len(np.unique(text[:, half])) for half in (0, 1)) > different - 3


def test_a_video_with_the_same_caption_does_not_beat_the_own_one():
    scores = jnp.array([[0.5, 0.1, 0.2], [0.9, 0.9, 0.1], [0.1, 0.2, 0.1]])
    mask = jnp.ones(3, bool)
    keys = row_keys(batch_of([[1, 2], [1, 2], [3, 4]], [2, 2, 2], range(3)))
    shares = []
    for known in (None, keys):
        rows = BatchRows.of(SingleReplica(), mask, known)
        arguments = scores, jnp.arange(3), jnp.arange(3), jnp.float32(7), rows
        logits = logit_stats(SingleReplica(), lambda x, *_: x, *arguments)
        shares.append(float(in_batch_recall_at_1(logits, mask).sum))
    # Caption 0 scores highest with video 1, which has the same caption; 2 is beaten by video 0.
    assert shares == [1.0, 2.0]


def test_a_batch_of_one_caption_costs_nothing_in_the_contrasts():
    batch = tiny.batch()
    same = {name: getattr(batch, name)[:1].repeat(tiny.B, 0) for name in ("tokens", "token_mask")}
    model, cfg = tiny.model(), tiny.config(losses__hard_pairs=2, losses__dfsm_masks="own").losses
    loss_of = tiny.jit(lambda batch: objective(model, batch, cfg)[1])
    metrics = loss_of(dataclasses.replace(batch, **same))
    for name in ("contrast", "sfdm", "dfsm"):
        np.testing.assert_allclose(metrics[name], 0.0, atol=1e-5)
    assert metrics["in_batch_r1"] == 1.0
    assert all(loss_of(batch)[name] > 0.1 for name in ("contrast", "sfdm", "dfsm"))


def test_gathered_rows_keep_every_bit():
    group, rng = SingleReplica(), np.random.default_rng(0)
    batch = batch_of(rng.integers(0, 9, (64, 5)), np.full(64, 5), rng.integers(0, 2**31 - 1, 64))
    rows = BatchRows.of(group, jnp.arange(64) % 3 > 0, row_keys(batch))
    found, vectors = rows.gathered(group, jnp.asarray(rng.normal(size=(64, 3)), jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, found, rows)
    assert vectors.shape == (64, 3)
