"""Which record is at which place of the endless stream of training examples.

    order = Order([100, 40], weights=[2, 1], batch=8, seed=0)
    order(17)          # a record, by its number in all sets joined: 0 to 139

Batch n of `batch` examples is made of the positions n * batch to (n + 1) * batch - 1. What stands
at a position is a function of (seed, position) alone, so that any process can make any row.

**Epochs.** Each set goes through its own epochs, one after the other: a new shuffle of all its
records, each of them once. Batches go on over the border of two epochs, and nothing is left out.

**The border rule.** A batch must not hold a record twice: as another row's negative, a video would
be told to be unlike its own caption. So in the batch in which an epoch ends, the next one begins
with those of its records that are not in the batch already; the others follow at once, in the order
of the shuffle. This moves fewer records than a batch has, and none from one epoch to another.

**Mixtures.** Sets take turns by their weights, evenly and without chance: of the first n positions
each set has its share, give or take fewer turns than there are sets.
"""

import bisect
import fractions
import math
from collections.abc import Sequence

import grain


def shuffles(length: int, seed: int) -> Sequence[int]:
    """Shuffles of 0 to length - 1, one after the other without an end, at random access."""
    return grain.MapDataset.range(length).seed(seed).shuffle()


class WeightedInterleave:
    """Whose turn it is at each position: sets take turns in proportion to their weights."""

    def __init__(self, weights: Sequence[float]):
        """Takes weights > 0, which count as the decimals that they are written as."""
        parts = [fractions.Fraction(str(weight)) for weight in weights]
        unit = math.lcm(*(part.denominator for part in parts))
        self._weights = tuple(int(part * unit) for part in parts)

    def counts_at(self, positions: int) -> list[int]:
        """How many of the first so many positions each set has; they rise one by one."""
        counts, rest, left = [], positions, sum(self._weights)
        for weight in self._weights:
            others = rest * (left - weight) // left
            counts.append(rest - others)
            rest, left = others, left - weight
        return counts

    def position_of(self, which: int, count: int) -> int:
        """The position at which a set has its turn number `count`, the first being 0."""
        sets, total, weight = len(self._weights), sum(self._weights), self._weights[which]
        start = max(0, (count - sets) * total // weight)  # a set is within so many turns of its
        end = (count + sets + 1) * total // weight + 1  # share, and the search is so much shorter
        counts_at = bisect.bisect_right(
            range(start, end), count, key=lambda position: self.counts_at(position)[which]
        )
        return start + counts_at - 1

    def max_in_window(self, positions: int) -> list[int]:
        """How many of so many positions in a row each set has at most."""
        counts, rest, left = [], positions, sum(self._weights)
        for weight in self._weights:
            counts.append(-(-rest * weight // left))
            rest, left = -(-rest * (left - weight) // left), left - weight
        return counts

    def at(self, position: int) -> tuple[int, int]:
        """The set whose turn it is, and how often it had a turn before."""
        before, after = self.counts_at(position), self.counts_at(position + 1)
        turn = next(which for which, count in enumerate(before) if after[which] > count)
        return turn, before[turn]


class Epochs:
    """The endless order of one set: shuffle after shuffle, kept apart at the borders."""

    def __init__(self, length: int, seed: int, which: int, turns: WeightedInterleave, batch: int):
        """Sets up the shuffles of set number `which`, see `Order`."""
        self._length, self._which, self._turns, self._batch = length, which, turns, batch
        self._shuffled = shuffles(length, (seed + which) % 2**32)
        self._max_in_window = turns.max_in_window(batch)[which]
        self._epoch_heads: dict[int, list[int]] = {}

    def __call__(self, place: int) -> int:
        """The record at a place of this set's own stream."""
        epoch, index = divmod(place, self._length)
        if index < self._max_in_window and index < sum(self._cut(epoch)):
            return self._epoch_head(epoch)[index]
        return self._shuffled[place]

    def _cut(self, epoch: int) -> tuple[int, int]:
        """How the batch in which an epoch begins is cut by the border: records before and after.

        (0, 0) when the border is between two batches, and at the very beginning.
        """
        border = epoch * self._length
        batch = self._turns.position_of(self._which, border) // self._batch
        before = border - self._counts_at(batch)
        return (before, self._counts_at(batch + 1) - border) if before else (0, 0)

    def _counts_at(self, batches: int) -> int:
        return self._turns.counts_at(batches * self._batch)[self._which]

    def _epoch_head(self, epoch: int) -> list[int]:
        """The first records of an epoch, as many as its cut has on both sides."""
        fronts = self._epoch_heads  # once, for other threads put another one in its place
        front = fronts.get(epoch)
        if front is None:
            first = epoch
            while self._depends_on_previous(first) and first - 1 not in fronts:
                first -= 1
            front = fronts.get(first - 1, [])
            for later in range(first, epoch + 1):
                front = self._dedupe_head(later, front)
            # A few are kept, for the threads are not all in the same epoch.
            self._epoch_heads = dict([*fronts.items(), (epoch, front)][-8:])
        return front

    def _depends_on_previous(self, epoch: int) -> bool:
        """Whether the end of the epoch before, up to the border, was moved itself."""
        return epoch > 1 and self._length - self._cut(epoch)[0] < sum(self._cut(epoch - 1))

    def _dedupe_head(self, epoch: int, front_before: list[int]) -> list[int]:
        """The border rule: first what is not in the batch yet, then the others."""
        before, after = self._cut(epoch)
        border = epoch * self._length
        tail = set()
        for index in range(self._length - before, self._length):
            moved = index < len(front_before)
            tail.add(
                front_before[index] if moved else self._shuffled[border - self._length + index]
            )
        new, known = [], []
        while len(new) < after:
            record = self._shuffled[border + len(new) + len(known)]
            (known if record in tail else new).append(record)
        ahead = new + known
        rest = range(border + len(ahead), border + before + after)
        return ahead + [self._shuffled[place] for place in rest]


class Order:
    """Position -> record, see the module."""

    def __init__(
        self, lengths: Sequence[int], *, batch: int, seed: int, weights: Sequence[float] = (1,)
    ):
        """Sets up the order.

        Args:
            lengths: records of each set, at least
                `WeightedInterleave(weights).max_in_window(batch)` of it.
            batch: examples of a batch, global.
            seed: of the shuffles, 0 to 2**32 - 1.
            weights: of each set, over 0.

        Raises:
            ValueError: the seed is out of range.
        """
        self._turns = WeightedInterleave(weights)
        self._sets = [
            Epochs(length, seed, which, self._turns, batch) for which, length in enumerate(lengths)
        ]
        self._starts = [sum(lengths[:which]) for which in range(len(lengths))]

    def __call__(self, position: int) -> int:
        """The record at a position, by its number in all sets joined."""
        which, place = self._turns.at(position)
        return self._starts[which] + self._sets[which](place)
