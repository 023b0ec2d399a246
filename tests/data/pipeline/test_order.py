"""Tests of the order of examples: epochs, the border rule, mixtures; on all small sizes."""

import itertools
import pickle

import numpy as np
import pytest

from mova_jax.data.pipeline.order import Epochs, Order, WeightedInterleave, shuffles


class _Quick:
    """`shuffles` by NumPy: Grain's takes milliseconds a record when a set is small."""

    def __init__(self, length, seed):
        self._length, self._seed, self._made = length, seed, {}

    def __getitem__(self, place):
        epoch, index = divmod(place, self._length)
        if epoch not in self._made:
            self._made[epoch] = np.random.default_rng((self._seed, epoch)).permutation(self._length)
        return int(self._made[epoch][index])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("mova_jax.data.pipeline.order.shuffles", _Quick)


def test_the_example_of_the_docstring():
    order = Order([5, 3], weights=[2, 1], batch=3, seed=4)
    assert order(7) == 4
    stream = [order(position) for position in range(15)]
    assert stream == [0, 2, 5, 4, 1, 7, 3, 4, 6, 3, 0, 5, 2, 1, 7]
    assert [shuffles(5, 4)[place] for place in range(10)] == [0, 2, 4, 1, 3, 3, 4, 0, 2, 1]


@pytest.mark.parametrize("length", range(1, 15))
def test_each_epoch_has_every_record_once_and_no_batch_one_twice(quick, length):
    for batch in range(1, length + 1):
        order = Order([length], batch=batch, seed=length)
        stream = [order(position) for position in range(length * (2 * batch + 2))]
        for epoch in range(len(stream) // length):
            assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))
        for start in range(0, len(stream) - batch + 1, batch):
            assert len(set(stream[start : start + batch])) == batch, (batch, start)


@pytest.mark.parametrize(("length", "batch"), [(9, 4), (9, 8), (7, 6), (12, 5), (1, 1)])
def test_a_record_depends_on_its_position_alone(quick, length, batch):
    order = Order([length], batch=batch, seed=0)
    stream = [order(position) for position in range(40 * length)]
    places = np.random.default_rng(0).permutation(len(stream)).tolist()
    other = pickle.loads(pickle.dumps(Order([length], batch=batch, seed=0)))
    assert [other(place) for place in places] == [stream[place] for place in places]
    assert Order([length], batch=batch, seed=0)(places[0]) == stream[places[0]]


def test_the_border_rule_moves_few_and_only_at_the_border(quick):
    length, batch = 50, 8
    order, plain = Order([length], batch=batch, seed=0), _Quick(length, 0)
    for epoch in range(9):
        same = [order(p) == plain[p] for p in range(epoch * length, (epoch + 1) * length)]
        assert all(same[batch:])
        if epoch * length % batch == 0:
            assert all(same)
    # Records that are not in the batch yet keep their order.
    tail = {order(position) for position in range(48, 50)}
    first = [plain[position] for position in range(50, 58)]
    new = [record for record in first if record not in tail][:6]
    assert [order(position) for position in range(50, 56)] == new


def test_the_first_epoch_is_grains_shuffle():
    order, plain = Order([600], batch=32, seed=3), shuffles(600, 3)
    assert [order(position) for position in range(600)] == [plain[p] for p in range(600)]
    other = Order([600], batch=32, seed=4)
    assert [other(position) for position in range(20)] != [order(p) for p in range(20)]


@pytest.mark.parametrize("length", [8, 9, 13])
def test_the_cache_of_other_threads_changes_nothing(quick, length):
    """Between two reads another thread may have replaced the cached heads of epochs."""
    batch, rng = length - 1, np.random.default_rng(0)

    class Shared(Epochs):
        @property
        def _epoch_heads(self):
            return self._cached if rng.random() < 0.5 else {}

        @_epoch_heads.setter
        def _epoch_heads(self, heads):
            self._cached = heads

    arguments = length, 0, 0, WeightedInterleave([1]), batch
    alone, shared = Epochs(*arguments), Shared(*arguments)
    places = range(40 * length)
    assert [shared(place) for place in places] == [alone(place) for place in places]


WEIGHTS = [(1,), (1, 1), (3, 1), (1, 3), (0.5, 0.25, 0.25), (5, 0.3, 1), (0.1, 0.2, 0.7, 3)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_turns_are_shared_out_by_weight(weights):
    interleave, shares = WeightedInterleave(weights), np.array(weights) / sum(weights)
    seen = np.zeros(len(weights), int)
    for position in range(400):
        which, before = interleave.at(position)
        assert before == seen[which]
        assert interleave.position_of(which, before) == position
        seen[which] += 1
        assert (abs(seen - (position + 1) * shares) < len(weights)).all()
    for count in (1, 7, 16):
        windows = [
            np.subtract(interleave.counts_at(start + count), interleave.counts_at(start))
            for start in range(300)
        ]
        assert (np.max(windows, axis=0) <= interleave.max_in_window(count)).all()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_in_a_mixture_too_no_batch_has_a_record_twice(quick, weights):
    batch = 7
    for extra in (0, 1, 3, 11):
        lengths = [most + extra for most in WeightedInterleave(weights).max_in_window(batch)]
        order = Order(lengths, weights=weights, batch=batch, seed=1)
        stream = [order(position) for position in range(batch * 60)]
        for start in range(0, len(stream), batch):
            assert len(set(stream[start : start + batch])) == batch
        ends = list(itertools.accumulate(lengths))
        for end, length in zip(ends, lengths, strict=True):
            own = [record for record in stream if end - length <= record < end]
            for epoch in range(len(own) // length):
                once = own[epoch * length : (epoch + 1) * length]
                assert sorted(once) == list(range(end - length, end))


def test_weights_count_as_they_are_written(quick):
    a, b = (Order([50, 50], weights=w, batch=4, seed=0) for w in ((0.1, 0.3), (1, 3)))
    assert [a(p) for p in range(200)] == [b(p) for p in range(200)]


def test_the_seed_and_the_set_change_the_shuffle(quick):
    streams = [[Order([30], batch=5, seed=s)(p) for p in range(30)] for s in range(3)]
    assert streams[0] != streams[1] != streams[2]
    both = Order([30, 30], weights=(1, 1), batch=4, seed=0)
    stream = [both(position) for position in range(60)]
    assert [r for r in stream if r < 30] != [r - 30 for r in stream if r >= 30]
