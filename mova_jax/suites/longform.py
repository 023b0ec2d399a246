"""The suite `longform`: does alignment hold when the video gets longer, in domain and out of it?

Storyboard videos of 1 to 30 minutes, whose named events, and so captions, are the same in every
duration (`data/storyboard/long.py`): the needles stay, the haystack grows. Every stored frame is
embedded once; the frame policies of `evaluation/frame_policies.py` then choose from the same
vectors. Shards with long videos of the user are measured in the same way.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from mova_jax.data.sources import data_and_split, splits_of
from mova_jax.data.storyboard.long import DOMAINS, SPLIT, VERSION, ensure_long
from mova_jax.parallel.processes import is_main
from mova_jax.suites.long_gallery import LongAsker
from mova_jax.suites.longform_report import report
from mova_jax.suites.suite import Suite, SuiteInput, SuiteResult
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

FORMAT = 1  # of the figures that are kept; others are measured again
LARGEST_PICTURE = 128  # pixels a side that videos are drawn with; larger models see them enlarged


@dataclasses.dataclass(frozen=True)
class LongformSettings:
    """The sizes of the suite; these take a tiny model about five minutes on two cores."""

    minutes: tuple[float, ...] = (1, 2, 5, 10, 30)
    videos: int = 64  # of each gallery
    every: int = 2  # seconds between stored frames
    budgets: tuple[int, ...] = (32, 128)  # frames of a video that a policy may take
    policies: tuple[str, ...] = ("even", "first", "windows", "change")

    @property
    def conditions(self) -> list[tuple[str, int]]:
        """Each policy with its budget; every stored frame is the first."""
        return [("all", 0)] + [(p, budget) for budget in self.budgets for p in self.policies]


def longform(
    suite_input: SuiteInput, settings: LongformSettings = LongformSettings()
) -> SuiteResult:
    """Asks the suite's question; galleries that are measured already are read from the output.

    Raises:
        ShardError: shards of the user cannot be read.
    """
    asker = LongAsker(suite_input.model, suite_input.mesh)
    found = [
        _story(suite_input, settings, asker, domain, minutes)
        for domain in DOMAINS
        for minutes in settings.minutes
    ]
    own = [_own(suite_input, settings, asker, data) for data in suite_input.data]
    return report(found, own, settings.every, suite_input.seed)


SUITE = Suite(
    longform,
    "Long videos",
    "Captions that name 3 to 6 events of 4 to 20 seconds search videos of 1 to 30 minutes, which "
    "hold the same events in every duration, amid ever more unnamed events and emptiness. Compare "
    "a row with the row of 1 minute, and R@1 with that of the global vector.",
)


def _story(suite_input, settings, asker: LongAsker, domain: str, minutes: float) -> dict[str, Any]:
    """The figures of one generated gallery."""
    size = min(suite_input.model.config.model.vision.image_size, LARGEST_PICTURE)
    sizes = {
        "seed": suite_input.seed,
        "minutes": minutes,
        "domain": domain,
        "videos": settings.videos,
        "every": settings.every,
        "image_size": size,
    }

    def folder() -> Path:
        # One folder for each setting: suites with other settings must not replace each other's.
        name = "-".join(f"{value:g}" if value != domain else value for value in sizes.values())
        path = suite_input.cache / f"storyboard-long-{name}"
        return ensure_long(path, **sizes, workers=os.cpu_count() or 1)

    label = f"{domain}, {minutes:g} min"
    file = f"{domain}-{minutes:g}m.json"
    about = sizes | {"version": VERSION}
    return _measured(suite_input, settings, asker, file, about, folder, SPLIT, label)


def _own(suite_input, settings, asker: LongAsker, data: str) -> dict[str, Any]:
    """The figures of shards of the user."""
    folder, split = data_and_split(data)
    split = split or next((name for name in splits_of(folder) if name != "train"), "train")
    file = f"own-{suite_input.data.index(data)}.json"
    about = {"data": data, "split": split}
    return _measured(suite_input, settings, asker, file, about, lambda: folder, split, data)


def _measured(suite_input, settings, asker, file, about, folder, split, label) -> dict[str, Any]:
    """What was kept in a file of the output for these settings; else measured and kept there."""
    model, path = suite_input.model, suite_input.output / file
    about = about | {
        "format": FORMAT,
        "model": model.origin,
        "step": model.step,
        "conditions": [list(condition) for condition in settings.conditions],
    }
    if asker.candidates:
        about["candidates"] = asker.candidates
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["about"] == about:
            return kept
    gallery, many = asker.embed(str(folder()), split, label), settings.conditions
    bar = bar_of(
        f"{label}, frame policies", len(many), many, not is_main(), unit="policy", delay=10
    )
    found = {
        "about": about,
        "frames": sum(map(len, gallery.times)) / len(gallery.times),
        "seconds": [float(times[-1]) for times in gallery.times],
        "video_of_sentence": [sentence.video for sentence in gallery.sentences],
        "conditions": [asker.measure(gallery, *condition) for condition in bar],
    }
    if is_main():
        atomic.write_text(path, json.dumps(found))
    return found
