"""Damaged records in training: told once each, counted, and too many of them are the end.

The pipeline leaves a row with a `video_id` and no valid frame where a record cannot be read or
decoded, so one bad record of a million costs its row and not the run.
"""

from collections.abc import Callable

import numpy as np

SHARE, FEW = 0.01, 10  # of the distinct records seen; so many are always let pass


class BadRecords:
    """Watches the batches of this process."""

    def __init__(self, place_of: Callable[[int], str], tell: Callable[[str], None]):
        """Nothing was seen yet, also when a run goes on.

        Args:
            place_of: a `video_id` to where its record lies.
            tell: prints a line.
        """
        self._place_of, self._tell = place_of, tell
        self._seen: set[int] = set()
        self._damaged: set[int] = set()

    @property
    def count(self) -> int:
        """Distinct records found damaged."""
        return len(self._damaged)

    @property
    def too_many(self) -> bool:
        """More than `FEW` records, and than `SHARE` of those seen."""
        return self.count > max(FEW, SHARE * len(self._seen))

    def summary(self) -> str:
        """What was found, and what to do."""
        return (
            f"too many records are damaged, {self.count} of {len(self._seen)} that this process "
            "read. python -m mova_jax.prepare inspect SHARDS --verify names all of them: copy the "
            "shards anew, or make them again; the run then goes on from its last checkpoint."
        )

    def observe(self, arrays: dict[str, np.ndarray]) -> None:
        """Looks at a batch before it is used; tells of a damaged record the first time."""
        ids, whole = arrays["video_id"], arrays["frame_mask"].any(-1)
        self._seen.update(ids.tolist())
        for video_id in ids[~whole].tolist():
            if video_id not in self._damaged:
                self._damaged.add(video_id)
                self._tell(f"damaged, and left out: {self._place_of(video_id)}")
