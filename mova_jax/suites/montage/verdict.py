"""Tables, curves and the verdict of the montage suite, all computed from its figures."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mova_jax.evaluation.intervals import paired_interval
from mova_jax.suites.montage.ask import RECALLS, SCORES
from mova_jax.suites.suite import Curve, SuiteTable

WEAK = 10.0  # R@1 in percent of single pictures, below which towers are called weak

Figures = Mapping[str, Any]  # of `ask.ask`


def singles_of(figures: Sequence[Figures]) -> list[Figures]:
    """Those of single pictures."""
    return [f for f in figures if f["items"] == 1]


def montages_of(figures: Sequence[Figures]) -> dict[str, list[Figures]]:
    """Those of montages by domain, shortest first."""
    found: dict[str, list[Figures]] = {}
    for one in sorted((f for f in figures if f["items"] > 1), key=lambda f: f["items"]):
        found.setdefault(one["domain"], []).append(one)
    order = dict.fromkeys(f["domain"] for f in figures if f["items"] > 1)
    return {domain: found[domain] for domain in order}


def recall(one: Figures, score: str, name: str) -> float:
    """R@k in percent."""
    return 100.0 * float(np.mean(one["hits"][score][name]))


def scores_of(one: Figures) -> list[str]:
    """The scores that the model has."""
    return [score for score in SCORES if score in one["hits"]]


def slope(
    figures: Sequence[Figures], score: str, name: str, seed: int
) -> tuple[float, float, float] | None:
    """Points of R@k a doubling of the number of items, with the interval over videos.

    Montages of one domain name the same items in all lengths, so videos are drawn together.

    Returns:
        The slope of the least squares line, and the ends of its interval, which are nan where the
        galleries differ in size; None for a single length.
    """
    if len(figures) < 2:
        return None
    x = np.log2([one["items"] for one in figures])
    x = x - x.mean()
    hits = [one["hits"][score][name] for one in figures]

    def line(shares: np.ndarray) -> float:
        return float(x @ shares / (x @ x))

    if len(set(map(len, hits))) > 1:
        return line(np.array([100.0 * np.mean(h) for h in hits])), math.nan, math.nan
    return paired_interval(np.array(hits), line, seed)


def tables(figures: Sequence[Figures], seed: int) -> list[SuiteTable]:
    """Single pictures, montages by length, and slopes."""
    recalls = {f"r{k}": f"R@{k}" for k in RECALLS}
    single = [
        {
            "domain": one["domain"],
            "videos": one["videos"],
            "queries": one["queries"],
            **{name: recall(one, "global", name) for name in recalls},
            **{f"chance_{name}": one["chance"][name] for name in recalls},
        }
        for one in singles_of(figures)
    ]
    sizes = {"domain": "domain", "videos": "videos", "queries": "queries"}
    chances = {f"chance_{name}": f"{label} by chance" for name, label in recalls.items()}
    rows = [_row(one, recalls) for of in montages_of(figures).values() for one in of]
    by_score = {
        f"{score}_{name}": f"{label} {text}"
        for score, text in SCORES.items()
        for name, label in recalls.items()
    }
    grounding = {"hit": "best frame in the event, %", "hit_chance": "by chance, %", "auc": "AUC"}
    lengths = {"items": "items", "minutes": "minutes"}
    return [
        SuiteTable(
            "Single pictures: how good the towers are",
            {**sizes, **recalls, **chances},
            single,
            "Each of up to 5 captions of a picture searches all pictures, by the global score. %.",
        ),
        SuiteTable(
            "Montages by length",
            {**sizes, **lengths, **by_score, **chances, **grounding},
            rows,
            "Paragraphs of the named items search the videos, T2V in %; up to 5 paragraphs a video "
            "are queries. Grounding: each timed sentence on all stored frames.",
        ),
        SuiteTable(
            "Points of R@k a doubling of the number of items",
            {"domain": "domain", "score": "score", "at": "of", "slope": "points",
             "low": "95 % from", "high": "to"},
            _slopes(figures, seed),
            "Slope of the least squares line; videos drawn with replacement, seed "
            f"{seed}, each with its hits in all lengths.",
        ),
    ]  # fmt: skip


def _slopes(figures: Sequence[Figures], seed: int) -> list[dict[str, Any]]:
    """The rows of the table of slopes."""
    rows = []
    for domain, of in montages_of(figures).items():
        for score, k in itertools.product(scores_of(of[0]), RECALLS):
            if found := slope(of, score, f"r{k}", seed):
                line = dict(zip(("slope", "low", "high"), found, strict=True))
                rows.append({"domain": domain, "score": SCORES[score], "at": f"R@{k}", **line})
    return rows


def _row(one: Figures, recalls: Mapping[str, str]) -> dict[str, Any]:
    row = {key: one[key] for key in ("domain", "videos", "queries", "items", "minutes")}
    for score in scores_of(one):
        row |= {f"{score}_{name}": recall(one, score, name) for name in recalls}
    row |= {f"chance_{name}": one["chance"][name] for name in recalls}
    if "hit" in one["grounding"]:
        found = one["grounding"]
        row |= {"hit": 100 * found["hit"], "hit_chance": 100 * found["chance"]}
        row |= {"auc": found["auc"]} if "auc" in found else {}
    return row


def curves(figures: Sequence[Figures], seed: int) -> list[Curve]:
    """R@1 and R@10 over the length of the videos, a line for each domain and score."""
    made = []
    for k in RECALLS:
        series = {}
        for domain, of in montages_of(figures).items():
            for score in scores_of(of[0]):
                points = []
                for one in of:
                    hits = np.array([one["hits"][score][f"r{k}"]])
                    points.append((one["minutes"], *paired_interval(hits, lambda m: m[0], seed)))
                series[f"{domain}, {SCORES[score]}"] = points
        if series:
            made.append(Curve(f"R@{k}, T2V", "minutes of a video", "%", series, log_x=True))
    return made


def verdict(figures: Sequence[Figures], seed: int) -> str:
    """Plain sentences: how good the towers are, what length costs, what another domain costs."""
    sentences = [_towers(one) for one in singles_of(figures)]
    montages = montages_of(figures)
    for domain, of in montages.items():
        sentences += [_length(domain, of, score, seed) for score in scores_of(of[0])]
        if "modular" in scores_of(of[0]):
            sentences.append(_gain(domain, of, seed))
    if len(montages) > 1:
        inside, *others = montages
        sentences += [_outside(inside, montages[inside], d, montages[d]) for d in others]
    weak = [one["domain"] for one in singles_of(figures) if recall(one, "global", "r1") < WEAK]
    if weak:
        sentences.append(
            f"With towers as weak as on {' and '.join(weak)} (R@1 of single pictures under "
            f"{WEAK:g} %), the best of many frames is mostly noise: these figures say little of "
            "the scores themselves."
        )
    return "\n".join(sentences)


def _towers(one: Figures) -> str:
    return (
        f"On {one['domain']}, a caption finds its picture among {one['videos']:,} first in "
        f"{recall(one, 'global', 'r1'):.1f} % (chance {one['chance']['r1']:.1f}), within ten in "
        f"{recall(one, 'global', 'r10'):.1f} % (chance {one['chance']['r10']:.1f})."
    )


def _length(domain: str, of: Sequence[Figures], score: str, seed: int) -> str:
    first, last = of[0], of[-1]
    text = f"{domain}, {SCORES[score]}: R@10 {recall(first, score, 'r10'):.1f} % with "
    text += f"{first['items']:g} items ({first['minutes']:.1f} minutes)"
    found = slope(of, score, "r10", seed)
    if found is None:
        return f"{text}, chance {first['chance']['r10']:.1f}."
    points, low, high = found
    text += f", {recall(last, score, 'r10'):.1f} % with {last['items']:g} "
    text += f"({last['minutes']:.1f} minutes; chance {last['chance']['r10']:.1f})"
    if math.isnan(low):
        return f"{text}: {points:+.1f} points a doubling."
    known = "it falls" if high < 0 else "it rises" if low > 0 else "it may not change at all"
    return f"{text}: {points:+.1f} points a doubling ({low:+.1f} to {high:+.1f}), so {known}."


def _gain(domain: str, of: Sequence[Figures], seed: int) -> str:
    """Parts against the global score, at the shortest and the longest length.

    A slope alone misleads: what is better in short videos has further to fall to chance.
    """
    ends = {one["items"]: one for one in (of[0], of[-1])}
    parts = []
    for items, one in ends.items():
        hits = np.array([one["hits"][score]["r10"] for score in ("global", "modular")])
        points, low, high = paired_interval(hits, lambda shares: shares[1] - shares[0], seed)
        parts.append(f"{points:+.1f} points ({low:+.1f} to {high:+.1f}) with {items:g} items")
    return f"{domain}, {SCORES['modular']} minus global, R@10: {', '.join(parts)}."


def _outside(inside: str, of: Sequence[Figures], outside: str, others: Sequence[Figures]) -> str:
    """The drop to another domain at the shortest and the longest length that both have."""
    both = sorted({one["items"] for one in of} & {one["items"] for one in others})
    if not both:
        return f"{inside} and {outside} have no length in common."
    by_items = [{one["items"]: one for one in some} for some in (of, others)]
    parts = []
    for score in scores_of(of[0]):
        drops = [
            recall(by_items[1][items], score, "r10") - recall(by_items[0][items], score, "r10")
            for items in dict.fromkeys((both[0], both[-1]))
        ]
        at = " and ".join(
            f"{drop:+.1f} points with {items:g} items"
            for drop, items in zip(drops, dict.fromkeys((both[0], both[-1])), strict=True)
        )
        parts.append(f"{SCORES[score]} {at}")
    return f"From {inside} to {outside}, R@10 changes: {'; '.join(parts)}."
