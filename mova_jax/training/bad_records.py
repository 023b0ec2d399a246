"""Reports each unreadable record once and stops the run when there are too many.

Where a record cannot be read or decoded, the pipeline gives a row with its `video_id` and no valid
frame: one bad record of a million costs its row and not the run.
"""

from collections.abc import Callable

import numpy as np

MAX_SHARE, MAX_COUNT = 0.01, 10  # of the distinct records seen; the larger bound holds


class BadRecords:
    """Counts the unreadable records in the batches of this process."""

    def __init__(self, place_of: Callable[[int], str], report: Callable[[str], None]):
        """Starts with no record seen, also in a run that resumes.

        Args:
            place_of: a `video_id` to the file and position of its record.
            report: prints a line.
        """
        self._place_of, self._report = place_of, report
        self._seen: set[int] = set()
        self._bad: set[int] = set()

    @property
    def count(self) -> int:
        """Distinct records that could not be read."""
        return len(self._bad)

    @property
    def too_many(self) -> bool:
        """Whether more than `MAX_COUNT` records and `MAX_SHARE` of those seen are bad."""
        return self.count > max(MAX_COUNT, MAX_SHARE * len(self._seen))

    def summary(self) -> str:
        """The message of a run that stops for them, in this process or in another one."""
        read = f"{self.count} of {len(self._seen)} that this process read"
        if not self.too_many:
            read += ", and more in another process: its output names them"
        return (
            f"too many records are damaged, {read}. "
            "python -m mova_jax.prepare inspect SHARDS --verify names all of them: copy the "
            "shards again, or make them again; the run then goes on from its last checkpoint."
        )

    def observe(self, arrays: dict[str, np.ndarray]) -> None:
        """Counts the records of a host batch and reports a bad one the first time.

        Args:
            arrays: `video_id[b]` and `frame_mask[b f]` are read.
        """
        ids, readable = arrays["video_id"], arrays["frame_mask"].any(-1)
        self._seen.update(ids.tolist())
        for video_id in ids[~readable].tolist():
            if video_id not in self._bad:
                self._bad.add(video_id)
                self._report(f"damaged, and left out: {self._place_of(video_id)}")
