"""Which videos of an index a query asks: by folder, by the day they were added, by length."""

import dataclasses
import datetime
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class QueryError(ValueError):
    """A question that cannot be asked; the message says why."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """Conditions that all have to hold; the default lets every video pass."""

    folder: str = ""  # a file of the video is in it, at any depth
    after: datetime.date | None = None  # added on this day or later
    before: datetime.date | None = None  # added on an earlier day
    longer: float = 0.0  # seconds, at least
    shorter: float = math.inf  # seconds, at most

    @classmethod
    def parse(
        cls,
        folder: str = "",
        after: str = "",
        before: str = "",
        longer: str = "",
        shorter: str = "",
    ) -> "Filter":
        """A filter from what people type; an empty text is no condition.

        Raises:
            QueryError: a day or a length that cannot be read, with its name.
        """
        return cls(
            os.path.abspath(os.path.expanduser(folder)) if folder else "",
            _day("after", after),
            _day("before", before),
            _seconds("longer", longer) if longer else 0.0,
            _seconds("shorter", shorter) if shorter else math.inf,
        )

    def __call__(self, entries: Iterable) -> list:
        """The entries that pass, in their order."""
        return [entry for entry in entries if self._passes(entry)]

    def _passes(self, entry) -> bool:
        if not self.longer <= entry.duration <= self.shorter:
            return False
        paths = (Path(file.path) for file in entry.files)
        if self.folder and not any(path.is_relative_to(self.folder) for path in paths):
            return False
        if self.after is None and self.before is None:
            return True
        added = datetime.datetime.fromisoformat(entry.added).date()
        late_enough = self.after is None or added >= self.after
        return late_enough and (self.before is None or added < self.before)


def _day(name: str, text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if text else None
    except ValueError:
        raise QueryError(f"{name}: got {text!r}, expected a day such as 2026-11-30") from None


def _seconds(name: str, text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h|)", text.strip().lower())
    if not found:
        raise QueryError(f"{name}: got {text!r}, expected a length such as 90, 90s, 2m or 1.5h")
    return float(found[1]) * _UNITS[found[2]]
