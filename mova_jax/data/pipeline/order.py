"""The order of training examples: from a position in the endless stream to a record.

    order = Order([5, 3], weights=[2, 1], batch=3, seed=4)
    order(7)          # 4: a record, by its number in all sets joined (0 to 4 and 5 to 7)

Batch n holds the positions n * batch to (n + 1) * batch - 1. The record at a position is a function
of (seed, position) alone, so any process can make any row of any batch.

**Mixtures.** Sets take turns in proportion to their weights, evenly and without randomness: among
the first n positions each set has its share, up to an error of less than the number of sets.

**Epochs.** Each set goes through epochs of its own. Each is a new shuffle of all its records.
Batches continue across the border of two epochs, so no record is left out.

**The border rule.** A batch must not hold a record twice: as another row's negative, the video
would be pushed away from its own caption. So within the batch in which an epoch ends, the next
epoch begins with records that the batch does not have yet; the others follow at once, in the order
of the shuffle. This moves fewer records than a batch has, and none from one epoch to another.

**Example.** In the order above, set A has the records 0 to 4 and set B has 5 to 7. A batch holds
two records of A and one of B:

    shuffles of A    0 2 4 1 3 | 3 4 0 2 1
    batches          0 2 5,  4 1 7,  3 4 6,  3 0 5,  2 1 7

A's first epoch ends within batch 2. The second shuffle begins with 3, which that batch has already;
so 4 goes first, and 3 follows in batch 3. Both epochs still have each record once.
"""

import bisect
import fractions
import math
from collections.abc import Sequence

import grain


def shuffles(length: int, seed: int) -> Sequence[int]:
    """Endless shuffles of 0 to length - 1, one after another, at random access."""
    return grain.MapDataset.range(length).seed(seed).shuffle()


class WeightedInterleave:
    """Sets take turns in proportion to their weights: which set has which position."""

    def __init__(self, weights: Sequence[float]):
        """Takes weights > 0, each as the decimal that it is written as."""
        parts = [fractions.Fraction(str(weight)) for weight in weights]
        unit = math.lcm(*(part.denominator for part in parts))
        self._weights = tuple(int(part * unit) for part in parts)

    def counts_at(self, positions: int) -> list[int]:
        """The turns of each set among the first `positions`; one of them grows at each position."""
        counts, rest, left = [], positions, sum(self._weights)
        for weight in self._weights:
            others = rest * (left - weight) // left
            counts.append(rest - others)
            rest, left = others, left - weight
        return counts

    def position_of(self, which: int, count: int) -> int:
        """The position at which set `which` has its turn number `count`, the first being 0."""
        sets, total, weight = len(self._weights), sum(self._weights), self._weights[which]
        # The turns of a set differ from its share by less than `sets`, which bounds the search.
        start = max(0, (count - sets) * total // weight)
        end = (count + sets + 1) * total // weight + 1
        turns_before = bisect.bisect_right(
            range(start, end), count, key=lambda position: self.counts_at(position)[which]
        )
        return start + turns_before - 1

    def max_in_window(self, positions: int) -> list[int]:
        """The most turns that each set can have among `positions` consecutive positions."""
        counts, rest, left = [], positions, sum(self._weights)
        for weight in self._weights:
            counts.append(-(-rest * weight // left))
            rest, left = -(-rest * (left - weight) // left), left - weight
        return counts

    def at(self, position: int) -> tuple[int, int]:
        """The set that has a position, and the number of its turns before."""
        before, after = self.counts_at(position), self.counts_at(position + 1)
        which = next(which for which, count in enumerate(before) if after[which] > count)
        return which, before[which]


class Epochs:
    """The endless order of one set: shuffle after shuffle, with the border rule between them."""

    def __init__(
        self, length: int, seed: int, which: int, interleave: WeightedInterleave, batch: int
    ):
        """Sets up the shuffles of set number `which`, see `Order`."""
        self._length, self._which, self._batch = length, which, batch
        self._interleave = interleave
        self._shuffled = shuffles(length, (seed + which) % 2**32)
        self._max_in_batch = interleave.max_in_window(batch)[which]
        self._epoch_heads: dict[int, list[int]] = {}

    def __call__(self, turn: int) -> int:
        """The record of this set's turn number `turn`."""
        epoch, index = divmod(turn, self._length)
        if index < self._max_in_batch and index < sum(self._border_split(epoch)):
            return self._epoch_head(epoch)[index]
        return self._shuffled[turn]

    def _border_split(self, epoch: int) -> tuple[int, int]:
        """This set's records in the batch in which an epoch begins: before and after the border.

        (0, 0) when the border is between two batches, and at the very beginning.
        """
        border = epoch * self._length
        batch = self._interleave.position_of(self._which, border) // self._batch
        before = border - self._turns_before(batch)
        return (before, self._turns_before(batch + 1) - border) if before else (0, 0)

    def _turns_before(self, batch: int) -> int:
        return self._interleave.counts_at(batch * self._batch)[self._which]

    def _epoch_head(self, epoch: int) -> list[int]:
        """The first records of an epoch, as many as its border batch has on both sides."""
        heads = self._epoch_heads  # read once, for other threads replace the dictionary
        head = heads.get(epoch)
        if head is None:
            first = epoch
            while self._depends_on_previous(first) and first - 1 not in heads:
                first -= 1
            head = heads.get(first - 1, [])
            for later in range(first, epoch + 1):
                head = self._dedupe_head(later, head)
            # A few are cached, for the threads are not all in the same epoch.
            self._epoch_heads = dict([*heads.items(), (epoch, head)][-8:])
        return head

    def _depends_on_previous(self, epoch: int) -> bool:
        """Whether the end of the previous epoch, in this border's batch, was reordered itself."""
        return epoch > 1 and self._length - self._border_split(epoch)[0] < sum(
            self._border_split(epoch - 1)
        )

    def _dedupe_head(self, epoch: int, previous_head: list[int]) -> list[int]:
        """The border rule: first the records that are not in the batch yet, then the others."""
        before, after = self._border_split(epoch)
        border = epoch * self._length
        tail = set()  # of the previous epoch, in the batch of the border
        for index in range(self._length - before, self._length):
            if index < len(previous_head):
                tail.add(previous_head[index])
            else:
                tail.add(self._shuffled[border - self._length + index])
        new, repeated = [], []
        while len(new) < after:
            record = self._shuffled[border + len(new) + len(repeated)]
            (repeated if record in tail else new).append(record)
        head = new + repeated
        rest = range(border + len(head), border + before + after)
        return head + [self._shuffled[turn] for turn in rest]


class Order:
    """Position -> record, see the module."""

    def __init__(
        self, lengths: Sequence[int], *, batch: int, seed: int, weights: Sequence[float] = (1,)
    ):
        """Sets up the order.

        Args:
            lengths: records of each set, at least
                `WeightedInterleave(weights).max_in_window(batch)` of it.
            batch: examples of a global batch.
            seed: of the shuffles, 0 to 2**32 - 1.
            weights: of each set, over 0.

        Raises:
            ValueError: the seed is out of range.
        """
        self._interleave = WeightedInterleave(weights)
        self._sets = [
            Epochs(length, seed, which, self._interleave, batch)
            for which, length in enumerate(lengths)
        ]
        self._starts = [sum(lengths[:which]) for which in range(len(lengths))]

    def __call__(self, position: int) -> int:
        """The record at a position, by its number in all sets joined."""
        which, turn = self._interleave.at(position)
        return self._starts[which] + self._sets[which](turn)
