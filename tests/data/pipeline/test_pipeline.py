"""Tests of the input pipeline: what a batch holds, epochs, determinism, exact resume."""

import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.pipeline.dataset import record_ids
from mova_jax.data.tokenizer import Tokenizer
from tests.data.pipeline.small_split import (
    BATCH,
    FIELDS,
    FRAMES,
    PART_FIELDS,
    RECORDS,
    SETTINGS,
    SIZE,
    STEPS,
    assert_same,
    evaluate,
    record_of,
    said,
    take,
    train,
)

# ---------------------------------------------------------------------------- what a batch holds


def test_a_training_batch_has_the_frames_and_the_caption_of_its_records(folder, tokenizer):
    for batch in take(iter(train(folder, tokenizer)), STEPS):
        assert batch.keys() == FIELDS
        length = batch["tokens"].shape[1]
        shapes = {
            "frames": ((BATCH, FRAMES, SIZE, SIZE, 3), np.uint8),
            "frame_mask": ((BATCH, FRAMES), np.bool_),
            "timestamps": ((BATCH, FRAMES), np.float32),
            "tokens": ((BATCH, length), np.int32),
            "token_mask": ((BATCH, length), np.bool_),
            "video_id": ((BATCH,), np.int32),
        }
        assert {name: (a.shape, a.dtype) for name, a in batch.items()} == shapes
        assert length == min(b for b in (16, 32, 64) if b >= batch["token_mask"].sum(1).max())
        for row, video in enumerate(batch["video_id"]):
            record = record_of(int(video))
            ids = tokenizer.encode(record.caption).ids
            np.testing.assert_array_equal(batch["tokens"][row, : len(ids)], ids)
            assert batch["token_mask"][row].tolist() == [i < len(ids) for i in range(length)]
            assert (batch["tokens"][row, len(ids) :] == tokenizer.pad_id).all()
            _assert_frames(batch, row, record)


def _assert_frames(batch, row, record):
    """The row holds frames of the record with their own times, one a segment, then padding."""
    available, count = len(record.frames), min(len(record.frames), FRAMES)
    assert batch["frame_mask"][row].tolist() == [i < count for i in range(FRAMES)]
    assert not batch["frames"][row, count:].any()
    assert not batch["timestamps"][row, count:].any()
    colour = batch["frames"][row, :count].mean((1, 2))
    np.testing.assert_allclose(colour[:, 0], int(batch["video_id"][row]) * 10, atol=3)
    shown = np.round(colour[:, 1] / 10).astype(int)
    np.testing.assert_allclose(colour[:, 1], shown * 10, atol=3)
    np.testing.assert_array_equal(batch["timestamps"][row, :count], shown / 2)
    for i, frame in enumerate(shown):
        assert i * available // count <= frame < (i + 1) * available // count


def test_every_bucket_is_used(folder, tokenizer):
    batches = take(iter(train(folder, tokenizer, batch_size=1)), RECORDS)
    assert {batch["tokens"].shape[1] for batch in batches} == {16, 32, 64}


def test_buckets_end_with_the_longest_caption_allowed():
    assert PipelineSettings(8, 64).buckets == (64, 128, 192, 248)
    assert PipelineSettings(8, 64, max_tokens=77).buckets == (64, 77)
    assert PipelineSettings(8, 64, max_tokens=32).buckets == (32,)


def test_long_captions_arrive_truncated(folder, tokenizer):
    short = Tokenizer(tokenizer.folder, max_tokens=20)
    dataset = train(folder, short, max_tokens=20, batch_size=RECORDS)
    batch = next(iter(dataset))
    lengths = batch["token_mask"].sum(1)
    assert lengths.max() == 20 == batch["tokens"].shape[1]
    ends = batch["tokens"][np.arange(RECORDS), lengths - 1]
    assert (ends == tokenizer.eot_id).all()


def test_a_tokenizer_of_another_length_is_an_error(folder, tokenizer):
    with pytest.raises(ValueError, match="max_tokens"):
        next(iter(train(folder, tokenizer, max_tokens=16, batch_size=RECORDS)))


def test_policies_and_short_captions_are_chosen_in_training_only(folder, tokenizer):
    short = {"short_caption_share": 1.0}
    batch = next(iter(train(folder, tokenizer, **short)))
    for row, video in enumerate(batch["video_id"]):
        assert said(batch, row) == tokenizer.encode(f"short {video}").ids.tolist()
    policies = {"frame_policy": "dense", "caption_policy": "one"}
    batch = next(iter(train(folder, tokenizer, batch_size=RECORDS, **policies)))
    for row, video in enumerate(batch["video_id"].tolist()):
        times = batch["timestamps"][row][batch["frame_mask"][row]]
        np.testing.assert_array_equal(np.diff(times), 0.5)  # neighbours
        texts = [tokenizer.encode(c.text).ids.tolist() for c in record_of(video).captions]
        assert said(batch, row) in texts
    for changes in (short, policies):
        assert_same(evaluate(folder, tokenizer, **changes), evaluate(folder, tokenizer))


# ------------------------------------------------------------------------- image-caption batches


def test_the_first_batches_are_single_frames_with_the_sentence_that_holds(folder, tokenizer):
    images, rows = 5, 7
    batches = take(iter(train(folder, tokenizer, images=(images, rows))), images + 2)
    for batch in batches[:images]:
        assert batch["frames"].shape == (rows, 1, SIZE, SIZE, 3)
        assert batch["frame_mask"].all()
        for row, video in enumerate(batch["video_id"]):
            record = record_of(int(video))
            time = float(batch["timestamps"][row, 0])
            shown = round(float(batch["frames"][row].mean((0, 1, 2))[1]) / 10)
            assert record.timestamps[shown] == time
            held = {c.text for c in record.captions if c.start <= time < c.end}
            assert said(batch, row) in [tokenizer.encode(text).ids.tolist() for text in held]
    # The videos that follow are those of a run without images.
    assert_same(batches[images:], take(iter(train(folder, tokenizer)), 2))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("position", [0, 2, 3, 4])
def test_resume_is_exact_on_either_side_of_the_images(folder, tokenizer, position, threads):
    def fresh():
        return iter(train(folder, tokenizer, images=(3, 4), threads=threads))

    whole, first, resumed = fresh(), fresh(), fresh()
    expected = take(whole, 6)
    take(first, position)
    resumed.set_state(first.get_state())
    assert_same(take(resumed, 6 - position), expected[position:])
    for iterator in (whole, first, resumed):
        iterator.close()


# ----------------------------------------------------------------------------- epochs, processes


def _ids(batches):
    return [int(video) for batch in batches for video in batch["video_id"]]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
def test_every_record_is_seen_exactly_once_an_epoch(folder, tokenizer, processes):
    """Whatever the number of processes: the rows of step n are dealt out, and nothing is lost."""
    rows, epochs = 24 // processes // 3, 3
    total = rows * processes
    steps = -(-epochs * RECORDS // total)
    parts = [
        take(iter(train(folder, tokenizer, batch_size=rows, process=(p, processes))), steps)
        for p in range(processes)
    ]
    batches = [_ids(batch) for batch in zip(*parts, strict=True)]
    assert all(len(set(batch)) == total for batch in batches)
    stream = [video for batch in batches for video in batch]
    orders = [stream[e * RECORDS : (e + 1) * RECORDS] for e in range(epochs)]
    for order in orders:
        assert sorted(order) == list(range(RECORDS))
    assert orders[0] != orders[1] != orders[2]


def test_jitter_differs_from_epoch_to_epoch(folder, tokenizer):
    batches = take(iter(train(folder, tokenizer, batch_size=RECORDS)), 2)
    first, second = (
        {int(v): b["timestamps"][r] for r, v in enumerate(b["video_id"])} for b in batches
    )
    assert any((first[video] != second[video]).any() for video in range(RECORDS))


def _assert_dealt_out(shares, whole, parts=0):
    """The processes' batches together are those of one; captions may be padded further."""
    for *rows, both in zip(*shares, whole, strict=True):
        for name in both:
            together = np.concatenate([share[name] for share in rows])
            if name in ("tokens", "token_mask"):
                assert together.shape == (len(both[name]), SETTINGS.max_tokens)
                together = together[:, : both[name].shape[1]]
            if name in PART_FIELDS:
                assert together.shape == (len(both[name]), parts, SETTINGS.max_tokens)
                together = together[:, : both[name].shape[1], : both[name].shape[2]]
            np.testing.assert_array_equal(together, both[name])


@pytest.mark.parametrize("parts", [0, 5])
def test_processes_make_the_batch_of_one_process(folder, tokenizer, parts):
    def batches(**changes):
        return take(iter(train(folder, tokenizer, parts=parts, **changes)), 8)

    shares = [batches(batch_size=2, process=(p, 3)) for p in range(3)]
    _assert_dealt_out(shares, batches(batch_size=6), parts)


@pytest.mark.parametrize(("processes", "readers"), [(1, {"threads": 2}), (2, {}), (5, {})])
def test_a_run_of_two_processes_goes_on_with_another_number(folder, tokenizer, processes, readers):
    total, step, parts = 10, 3, []
    before = iter(train(folder, tokenizer, batch_size=total // 2, process=(0, 2)))
    take(before, step)
    whole = take(iter(train(folder, tokenizer, batch_size=total)), step + 4)[step:]
    for p in range(processes):
        rows = total // processes
        after = iter(train(folder, tokenizer, batch_size=rows, process=(p, processes), **readers))
        after.set_state(before.get_state())
        parts.append(take(after, 4))
        after.close()
    _assert_dealt_out(parts, whole)


# --------------------------------------------------------------------------------------- mixtures


def test_a_mixture_has_of_each_source_by_weight_and_each_in_its_own_epochs(
    folder, other, tokenizer
):
    mixture = [(folder, 3), (other, 1)]
    dataset = train(mixture, tokenizer, batch_size=8)
    batches = take(iter(dataset), 12)
    for batch in batches:
        ids = batch["video_id"]
        assert (ids < RECORDS).sum() == 6 and (ids >= RECORDS).sum() == 2
        assert len(set(ids.tolist())) == 8
        for row, video in enumerate(ids.tolist()):
            _assert_frames({**batch, "video_id": ids % RECORDS}, row, record_of(video % RECORDS))
    for start, length in ((0, RECORDS), (RECORDS, 7)):
        seen = [i for i in _ids(batches) if start <= i < start + length]
        for epoch in range(len(seen) // length):
            order = seen[epoch * length : (epoch + 1) * length]
            assert sorted(order) == list(range(start, start + length))
    assert dataset.record_ids([2, RECORDS + 5, -1]) == ["video-2", "video-5"]


def test_a_mixture_resumes_exactly_and_is_dealt_out(folder, other, tokenizer):
    mixture = [(folder, 0.5), (other, 0.3)]
    whole = take(iter(train(mixture, tokenizer, batch_size=4)), 6)
    parts = []
    for p in range(2):
        half = iter(train(mixture, tokenizer, batch_size=2, process=(p, 2), threads=1))
        half.set_state({"next_batch": 2})
        parts.append(take(half, 4))
        half.close()
    _assert_dealt_out(parts, whole[2:])


# -------------------------------------------------------------------------- determinism, resume


@pytest.fixture(scope="module")
def reference(folder, tokenizer):
    """Two and a half epochs, made without threads."""
    return take(iter(train(folder, tokenizer, short_caption_share=0.3)), 10)


def test_the_seed_changes_order_and_frames(folder, tokenizer, reference):
    other = next(iter(train(folder, tokenizer, seed=1, short_caption_share=0.3)))
    assert other["video_id"].tolist() != reference[0]["video_id"].tolist()


@pytest.mark.parametrize(
    ("position", "readers"),
    [
        *itertools.product([0, 1, STEPS - 1, STEPS, STEPS + 2, 2 * STEPS], [{}, {"threads": 2}]),
        (0, {"threads": 1}),
        (0, {"threads": 4, "prefetch": 1}),
        (0, {"prefetch": 9}),
        (3, {"worker_processes": 2, "threads": 1}),
    ],
)
def test_resume_is_exact_whatever_reads(folder, tokenizer, reference, position, readers):
    readers = {"short_caption_share": 0.3, **readers}
    first = iter(train(folder, tokenizer, **readers))
    assert_same(take(first, position), reference[:position])
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    assert state == {"next_batch": position}
    resumed = iter(train(folder, tokenizer, **readers))
    next(resumed)  # a state also replaces a position
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(take(resumed, 10 - position), reference[position:])
    resumed.close()


_KILLED = """
import os, signal, sys
from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.pipeline.dataset import train_dataset
from mova_jax.data.tokenizer import Tokenizer
if __name__ == "__main__":
    import psutil
    settings = PipelineSettings(6, 16, max_tokens=64, threads=0, worker_processes=1)
    next(iter(train_dataset(sys.argv[1], "train", Tokenizer(sys.argv[2], 64), settings, seed=0,
                            batch_size=5)))
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_worker_processes_end_with_a_killed_trainer(folder, tokenizer, tmp_path):
    psutil = pytest.importorskip("psutil")
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output, command = tmp_path / "pids", [sys.executable, script, folder, tokenizer.folder]
    with output.open("w") as stream:  # a pipe would wait for the workers
        subprocess.run(command, stdout=stream, env=environment, check=False)
    pids = [int(pid) for pid in output.read_text().split()]
    assert pids
    deadline = time.monotonic() + 20
    while any(_runs(psutil, pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived the trainer"
        time.sleep(0.2)


def _runs(psutil, pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# ------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_goes_through_the_split_in_order(folder, tokenizer, threads):
    batches = evaluate(folder, tokenizer, threads=threads)
    assert [batch["frames"].shape for batch in batches] == [(BATCH, FRAMES, SIZE, SIZE, 3)] * 5
    assert _ids(batches) == [*range(RECORDS), -1, -1]
    last = batches[-1]
    assert not last["frame_mask"][3:].any() and not last["token_mask"][3:].any()
    assert not last["frames"][3:].any()
    assert last["frame_mask"][:3].any(1).all() and last["token_mask"][:3].any(1).all()
    for batch, row in itertools.product(batches[:4], range(BATCH)):
        _assert_frames(batch, row, record_of(int(batch["video_id"][row])))


def test_evaluation_takes_the_middle_of_every_segment(folder, tokenizer):
    (batch,) = evaluate(folder, tokenizer, RECORDS)
    assert len(record_of(15).frames) == 18
    np.testing.assert_array_equal(batch["timestamps"][15], np.array([1, 4, 7, 10, 13, 16]) / 2)


@pytest.mark.parametrize(("limit", "expected"), [(0, 23), (1, 1), (7, 7), (99, 23)])
def test_evaluation_limit(folder, tokenizer, limit, expected):
    ids = _ids(evaluate(folder, tokenizer, limit=limit))
    assert [i for i in ids if i >= 0] == list(range(expected))


def test_record_ids(folder):
    assert record_ids(folder, "train", np.array([3, 22, -1], np.int32)) == ["video-3", "video-22"]
