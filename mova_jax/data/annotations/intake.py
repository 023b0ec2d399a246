"""Checks the entries of a data set, finds their files, and collects items and skipped entries.

A data set is a module with a `DATASET`, whose `read(annotations, intake)` calls `intake.add` for
every entry in the order of the files:

    intake = Intake(DATASET, VideoFolder("videos"))
    DATASET.read(Path("annotations"), intake)
    intake.reading().items
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mova_jax.data.annotations.files import one_of
from mova_jax.data.annotations.items import (
    CAPTION,
    Item,
    Reading,
    clean,
    cut_of,
    is_time,
    noted,
    sentence_of,
    split_name,
)
from mova_jax.data.annotations.videos import VIDEO_EXTENSIONS, VideoFolder
from mova_jax.data.shards import Caption, check_texts

VIDEOS, SENTENCES = "videos", "sentences"  # what the published counts of a data set count


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that `prepare` knows by name.

    Attributes:
        name: lower case letters, digits, underscores.
        read: reads the files of a folder into an `Intake`; raises InputError when a file is missing
            or has another format than its owner publishes.
        files: the files that `--annotations` must contain, for messages and help.
        expected: published number of entries of each split, where known (docs/data.md).
        unit: of `expected`: VIDEOS or SENTENCES.
        licence: a note for the manifest.
        extensions: of the video (or image) files.
        recipe: the config that trains on it.
        queries: the captions that papers use as queries: `caption`, one a video, or `all`.
    """

    name: str
    read: Callable[[Path, "Intake"], None]
    files: str
    expected: dict[str, int] = dataclasses.field(default_factory=dict)
    unit: str = VIDEOS
    licence: str = ""
    extensions: tuple[str, ...] = VIDEO_EXTENSIONS
    recipe: str = ""
    queries: str = CAPTION


class Intake:
    """Collects the entries of a data set."""

    def __init__(self, dataset: Dataset, videos: VideoFolder):
        """Starts empty."""
        self._dataset, self._videos = dataset, videos
        self._items: dict[str, Item] = {}
        self._entries: dict[str, str] = {}  # the split of every id, used or not
        self._skipped: list[dict[str, str]] = []
        self._warnings: list[dict[str, str]] = [
            noted(name, "its name is not UTF-8, so it was left out: rename it")
            for name in videos.not_unicode
        ]
        self._named: dict[str, int] = {}
        self._found: dict[str, int] = {}
        self._missing: dict[str, list[str]] = {}

    def add(
        self,
        name: str,
        captions: Iterable[str | tuple],
        *,
        alternatives: Iterable[str] = (),
        split: str = "",
        files: Iterable[str] = (),
        start: float | None = None,
        end: float | None = None,
        count: int = 1,
        warnings: Iterable[str] = (),
    ) -> None:
        """Adds an entry, or skips it with a reason.

        Args:
            name: the id, unique in the data set.
            captions: the sentences in order: texts, or (text, start, end) in seconds of the file,
                or (text, start, end, further windows).
            alternatives: further captions of the whole video.
            split: its split; '' when it is assigned later.
            files: possible names of its file; by default the id.
            start: of the cut, seconds.
            end: of the cut, seconds.
            count: its number of `Dataset.unit`.
            warnings: about its annotations.
        """
        name = clean(str(name))
        try:
            if not name:
                raise ValueError("it has no id")
            if name in self._entries:
                where = f" in {self._entries[name]}" if self._entries[name] else ""
                raise ValueError(f"the id was already used{where}")
            split = split_name(split)
            self._entries[name] = split
            self._named[split] = self._named.get(split, 0) + count
            item = self._item(name, captions, alternatives, split, files, start, end)
            self._items[name] = item._replace(warnings=(*warnings, *item.warnings))
            self._found[split] = self._found.get(split, 0) + count
        except FileNotFoundError as error:
            self._missing.setdefault(split, []).append(name)
            self.skip(name, error)
        except ValueError as error:
            self.skip(name, error)

    def add_sentences(self, name: str, sentences: Iterable[tuple], **more) -> None:
        """Adds a video with its sentences in order of time, those without a time last.

        Each sentence counts where the unit of the data set is sentences.

        Args:
            name: the id, unique in the data set.
            sentences: (text, start, end) in seconds of the file, also with further windows, or
                (text,).
            **more: further arguments of `add`.
        """
        ordered = sorted(sentences, key=_by_time)
        count = len(ordered) if self._dataset.unit == SENTENCES else 1
        self.add(name, ordered, count=count, **more)

    def split_files(
        self, folder: Path, files: Mapping[str, str | tuple[str, ...]]
    ) -> Iterator[tuple[str, Path]]:
        """Each split with its file; a split without a file is skipped with a reason.

        So the test set of a data set can be read by itself.

        Args:
            folder: of the annotations.
            files: the file of each split, or its possible names.

        Raises:
            InputError: when no split has a file.
        """
        names = {split: (n,) if isinstance(n, str) else n for split, n in files.items()}
        if not any((folder / name).is_file() for known in names.values() for name in known):
            one_of(folder, *next(iter(names.values())))
        for split, known in names.items():
            file = next((folder / name for name in known if (folder / name).is_file()), None)
            if file:
                yield split, file
            else:
                self.skip(known[0], f"there is no such file, so the split {split} is left out")

    def skip(self, name: str, reason: object) -> None:
        """Skips an entry, with the reason."""
        self._skipped.append(noted(name, reason))

    def has(self, *names: str) -> bool:
        """Whether one of the names has a file."""
        try:
            return bool(self._videos.find(*names))
        except (ValueError, FileNotFoundError):
            return False

    def warn(self, name: str, reason: object) -> None:
        """Notes how a file of the annotations was read."""
        self._warnings.append(noted(name, reason))

    def _item(self, name, captions, alternatives, split, files, start, end) -> Item:
        start, end = cut_of(start, end)
        sentences, warnings = [], []
        for position, entry in enumerate(captions):
            entry = entry if isinstance(entry, tuple) else (entry,)
            if not isinstance(entry[0], str):
                raise ValueError(f"caption {position} must be a text, got {entry[0]!r}")
            sentence, wrong = sentence_of(*entry)
            if wrong:
                warnings.append(f"caption {position} {wrong}")
            sentences.append(sentence)
        others = [clean(text) for text in alternatives if isinstance(text, str)]
        others = [text for text in others if text]
        sentences = [sentence for sentence in sentences if sentence.text]
        if not sentences:
            if not others:
                raise ValueError("the caption is empty")
            sentences = [Caption(others.pop(0))]
        check_texts(sentences, others)
        found = self._videos.find(*(list(files) or [name]))
        if found.others:
            warnings.append(f"{found.others + 1} files have its name; {found.inside} was used")
        return Item(
            id=name,
            video=found.inside,
            path=found.path,
            captions=tuple(sentences),
            alternatives=tuple(others),
            start=start,
            end=end,
            split=split,
            warnings=tuple(warnings),
        )

    def reading(self) -> Reading:
        """The items and the skipped entries so far."""
        return Reading(
            items=list(self._items.values()),
            skipped=self._skipped,
            warnings=self._warnings,
            source=self._dataset.name,
            hint=f"--annotations has {self._dataset.files}, --videos the files they name",
            expected=self._dataset.expected,
            named=self._named,
            found=self._found,
            missing=self._missing,
            unit=self._dataset.unit,
            queries=self._dataset.queries,
        )


def _by_time(sentence: tuple) -> tuple[float, float]:
    times = sentence[1:3]
    return tuple(times) if len(times) == 2 and all(map(is_time, times)) else (math.inf, math.inf)


def seconds(text: str | None, name: str) -> float | None:
    """Reads a cell with seconds; None when it is empty.

    Raises:
        ValueError: when it is no number.
    """
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be seconds, got {text!r}")
    return number
