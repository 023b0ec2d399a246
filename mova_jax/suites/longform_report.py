"""Tables, curves and the verdict of the suite `longform`, from the figures that it kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mova_jax.evaluation.intervals import paired_interval, wilson
from mova_jax.suites.long_gallery import GLOBAL, MODULAR, RECORD
from mova_jax.suites.suite import Curve, SuiteResult, SuiteTable

Figures = dict[str, Any]  # of a gallery, see `longform._measured`

DOMAIN_NAMES = {"story": "in domain", "ood_domain": "out of domain"}
SHORT, LONG, GOAL = 1, 10, 10.0  # minutes, minutes, points of R@1 that may be lost between them
FEWEST = 10  # videos in a gallery of the user for which recall says something

_LONG_COLUMNS = {
    "domain": "domain",
    "minutes": "minutes",
    "t2v": "R@1 T2V (95 %)",
    "v2t": "R@1 V2T (95 %)",
    "t2v_r10": "R@10 T2V",
    "modular_t2v": "R@1 T2V, modular score alone (95 %)",
    "global_t2v": "R@1 T2V, global vector (95 %)",
    "hit": "best frame in event %",
    "miou": "mIoU %",
    "chance": "R@1 by chance",
}
_POLICY_COLUMNS = {
    "domain": "domain",
    "minutes": "minutes",
    "policy": "policy",
    "frames": "frames",
    "taken": "events with a frame %",
    "t2v": "R@1 T2V (95 %)",
    "v2t": "R@1 V2T (95 %)",
    "hit": "best frame in event %",
    "miou": "mIoU %",
}


def report(found: Sequence[Figures], own: Sequence[Figures], every: int, seed: int) -> SuiteResult:
    """The result of the suite.

    Args:
        found: of the generated galleries.
        own: of shards of the user.
        every: seconds between the stored frames of generated videos.
        seed: of the draws of intervals.
    """
    videos = found[0]["about"]["videos"]
    protocol = (
        f"Storyboard, long videos, seed {found[0]['about']['seed']}: {videos} videos a gallery, "
        f"one caption each, a frame every {every} s; score of record: the blend, with the weight "
        "chosen in training"
    )
    if count := found[0]["about"].get("candidates"):
        protocol += f"; masks for the best {count} of each query, by scores without masks"
    columns = _LONG_COLUMNS
    rows = [_row(figures, figures["conditions"][0]) for figures in found]
    tables = [SuiteTable("Every stored frame read", columns, rows, protocol)]
    rows = [_row(f, c) for f in found for c in f["conditions"][1:] if c["budget"] < f["frames"]]
    note = (
        f"{protocol}. Policies choose from the same frame vectors, at most as many as the budget; "
        "an event without a frame counts as missed. `first` stands for one frame a second from "
        "the start; 1 fps thinned to the budget is `even` here"
    )
    tables.append(SuiteTable("Frame policies at equal budget", _POLICY_COLUMNS, rows, note))
    tables += [_own_table(figures) for figures in own]
    verdict = [_verdict(found, domain, seed) for domain in DOMAIN_NAMES]
    verdict.append(_policy_sentence(found))
    verdict += [_own_sentence(figures) for figures in own]
    return SuiteResult("\n".join(filter(None, verdict)), protocol, tables, _curves(found))


def _row(figures: Figures, condition: Figures) -> dict[str, Any]:
    """A row of a table; beside the shown cells, the ends of the intervals as numbers."""
    about = figures["about"]
    row = {
        "domain": DOMAIN_NAMES[about["domain"]] if "domain" in about else about["data"],
        "minutes": about.get("minutes", round(float(np.mean(figures["seconds"])) / 60, 1)),
        "policy": condition["policy"],
        "budget": condition["budget"],
        "frames": round(condition["frames"], 1),
        "chance": round(100 / len(figures["seconds"]), 1),
    }
    for score, prefix in ((RECORD, ""), (MODULAR, "modular_"), (GLOBAL, "global_")):
        for way, ranks in condition["ranks"].get(score, {}).items():
            row[prefix + way] = _cell(row, f"{prefix}{way}_r1", np.array(ranks) <= 1)
            row[f"{prefix}{way}_r10"] = round(100 * float(np.mean(np.array(ranks) <= 10)), 1)
    if condition["taken"]:
        for key in ("taken", "hit"):
            row[key] = _cell(row, key + "_share", np.array(condition[key]))
        row["miou"] = round(100 * float(np.mean(condition["iou"])), 1)
    return row


def _cell(row: dict[str, Any], key: str, hits: np.ndarray) -> str:
    """A share in percent with its interval as text; puts the three numbers into the row."""
    low, high = wilson(float(hits.sum()), len(hits))
    row |= {key: 100 * float(hits.mean()), f"{key}_low": low, f"{key}_high": high}
    return f"{row[key]:.1f} ({low:.0f} to {high:.0f})"


def _conditions(
    found: Sequence[Figures], domain: str, policy: str, budget: int
) -> dict[float, Figures]:
    """One policy in one domain, by minutes."""
    return {
        figures["about"]["minutes"]: condition
        for figures in found
        if figures["about"].get("domain") == domain
        for condition in figures["conditions"]
        if (condition["policy"], condition["budget"]) == (policy, budget)
    }


def _hits(conditions: dict[float, Figures], score: str = RECORD, way: str = "t2v") -> np.ndarray:
    """`[m q]`, whether the query of each video is answered at each duration."""
    return np.array([np.array(c["ranks"][score][way]) <= 1 for c in conditions.values()])


def _verdict(found: Sequence[Figures], domain: str, seed: int) -> str:
    """How R@1 changes with duration in one domain, every frame read."""
    conditions = _conditions(found, domain, "all", 0)
    minutes = list(conditions)
    name = DOMAIN_NAMES[domain].capitalize()
    short, long = _ends(minutes)
    first, last = minutes.index(short), minutes.index(long)
    octaves = np.log2(minutes)
    said = []
    labels = {
        RECORD: "",
        MODULAR: "By the modular score alone it",
        GLOBAL: "By the global vector alone it",
    }
    for score, label in labels.items():
        if any(score not in condition["ranks"] for condition in conditions.values()):
            continue  # of a model without it
        hits = _hits(conditions, score)
        recall = 100 * hits.mean(1)
        change, low, high = paired_interval(hits, lambda r: r[last] - r[first], seed)
        slope, *ends = paired_interval(hits, lambda r: np.polyfit(octaves, r, 1)[0], seed)
        start = label or f"{name}, every frame read, R@1 of captions that search videos"
        said.append(
            f"{start} goes from {recall[first]:.1f} % at {short:g} min to {recall[last]:.1f} % at "
            f"{long:g} min: {change:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, the "
            f"same captions), {slope:+.1f} points per doubling of the duration up to "
            f"{minutes[-1]:g} min ({ends[0]:+.1f} to {ends[1]:+.1f})"
        )
        if not label:
            said[-1] += _judged(low, high, recall[first], 100 / hits.shape[1])
    return "\n".join(f"{one}." for one in said)


def _ends(minutes: Sequence[float]) -> tuple[float, float]:
    """The two durations to compare: 1 and 10 minutes if both are there, else first and last."""
    return (SHORT, LONG) if {SHORT, LONG} <= set(minutes) else (minutes[0], minutes[-1])


def _judged(low: float, high: float, before: float, chance: float) -> str:
    """Whether no more than the goal is lost, as far as the interval says."""
    if before < GOAL + chance:
        return "; there was too little to lose for this to say whether it holds"
    if low >= -GOAL:
        return f", which holds: no more than {GOAL:g} points are lost"
    if high < -GOAL:
        return f", which does not hold: more than {GOAL:g} points are lost"
    return f"; whether more than {GOAL:g} points are lost, these queries do not decide"


def _policy_sentence(found: Sequence[Figures]) -> str:
    """The policies at the smallest budget, at the duration that the verdict speaks of."""
    conditions = found[0]["conditions"]
    budgets = sorted({c["budget"] for c in conditions if c["budget"]})
    if not budgets:
        return ""
    said, long = [], _ends([f["about"]["minutes"] for f in found])[1]
    for domain, name in DOMAIN_NAMES.items():
        rows = []
        for policy in dict.fromkeys(c["policy"] for c in conditions if c["budget"]):
            found_here = _conditions(found, domain, policy, budgets[0])[long]
            recall = 100 * np.mean(np.array(found_here["ranks"][RECORD]["t2v"]) <= 1)
            rows.append((float(recall), 100 * float(np.mean(found_here["taken"])), policy))
        best_first = sorted(rows)[::-1]
        shown = [f"{policy} {r1:.1f} ({taken:.0f})" for r1, taken, policy in best_first]
        said.append(f"{name} {', '.join(shown)}")
    return (
        f"With {budgets[0]} frames of a video of {long:g} min, R@1 (and % of events with a frame) "
        f"by policy: {'; '.join(said)}."
    )


def _curves(found: Sequence[Figures]) -> list[Curve]:
    """R@1 with every frame, and event recall by policy, against duration."""
    recall, taken = {}, {}
    for domain, name in DOMAIN_NAMES.items():
        every = _conditions(found, domain, "all", 0)
        for score, of in ((RECORD, ""), (MODULAR, ", modular score"), (GLOBAL, ", global vector")):
            if all(score in condition["ranks"] for condition in every.values()):
                recall[name + of] = _line(every, _hits(every, score))
    budgets = sorted({c["budget"] for c in found[0]["conditions"] if c["budget"]})
    for budget in budgets[:1]:
        for policy in dict.fromkeys(c["policy"] for c in found[0]["conditions"] if c["budget"]):
            conditions = _conditions(found, "story", policy, budget)
            taken[policy] = _line(conditions, [c["taken"] for c in conditions.values()])
    title = f"Events with a frame among {budgets[0]}, in domain" if budgets else ""
    curves = [Curve("R@1 T2V, every stored frame read", "minutes", "%", recall, True)]
    return curves + ([Curve(title, "minutes", "%", taken, True)] if taken else [])


def _line(conditions: dict[float, Figures], hits) -> list[tuple[float, float, float, float]]:
    return [
        (minutes, 100 * float(np.mean(row)), *wilson(float(np.sum(row)), len(row)))
        for minutes, row in zip(conditions, hits, strict=True)
    ]


def _own_table(figures: Figures) -> SuiteTable:
    """The policies on shards of the user; recall only where the gallery is large enough."""
    about, videos = figures["about"], len(figures["seconds"])
    columns = dict(_POLICY_COLUMNS)
    if videos < FEWEST:
        columns = {key: label for key, label in columns.items() if key not in ("t2v", "v2t")}
    del columns["domain"]
    if not figures["video_of_sentence"]:
        columns = {k: v for k, v in columns.items() if k not in ("taken", "hit", "miou")}
    note = (
        f"{videos} video{'s' * (videos > 1)} of {_span(figures)}, split {about['split']}, "
        f"{len(figures['video_of_sentence'])} timed sentences, {figures['frames']:.0f} stored "
        "frames a video"
    )
    rows = [_row(figures, condition) for condition in figures["conditions"]]
    return SuiteTable(about["data"], columns, rows, note)


def _own_sentence(figures: Figures) -> str:
    """What the shards of the user say, in one sentence."""
    about, videos = figures["about"], len(figures["seconds"])
    every = figures["conditions"][0]
    said = f"In {about['data']} ({videos} video{'s' * (videos > 1)} of {_span(figures)}) "
    parts = []
    if videos >= FEWEST:
        recall = 100 * float(np.mean(np.array(every["ranks"][RECORD]["t2v"]) <= 1))
        parts.append(f"R@1 of captions that search videos is {recall:.1f} %")
    if every["hit"]:
        share = 100 * float(np.mean(every["hit"]))
        low, high = wilson(float(np.sum(every["hit"])), len(every["hit"]))
        parts.append(
            f"the best frame of a sentence is in its event for {share:.1f} % of "
            f"{len(every['hit'])} timed sentences ({low:.0f} to {high:.0f})"
        )
    return said + " and ".join(parts or ["nothing can be measured"]) + "."


def _span(figures: Figures) -> str:
    shortest, longest = min(figures["seconds"]) / 60, max(figures["seconds"]) / 60
    same = f"{shortest:.1f}" == f"{longest:.1f}"
    return f"{longest:.1f} min" if same else f"{shortest:.1f} to {longest:.1f} min"
