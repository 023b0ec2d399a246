"""The ranks of all queries of a split by every score, the blend among them; kept in a file.

    found = rank_queries(score_validation, ..., blend_weights=WEIGHTS)
    ranks = rank_queries(score_test, ..., blend_weights=(found.blend_weight,))
    save_ranks("runs/base/ranks/test.npz", ranks, video_ids)
    ranks, video = load_ranks("runs/base/ranks/test.npz", "t2v")

The blend is `global + weight * modular`. Its weight is chosen on validation and used on the test.
"""

import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections, ScoreBlock
from mova_jax.utils import atomic

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
BLOCKS = (256, 256)

_LARGEST = 2**31  # bytes of a file of ranks, unpacked: those of a million queries
_AGAIN = "evaluate again to have it written"


@dataclasses.dataclass(frozen=True)
class QueryRanks:
    """Ranks by `global` and, for a model that has one, `modular` and `blend`."""

    by_score: dict[str, RanksBothDirections]
    video_of_caption: Int[np.ndarray, "c"]
    blend_weight: float | None  # of the modular score; None without
    reranked: int = 0  # candidates of a query that `modular` and `blend` order; 0: all answers

    @property
    def record(self) -> str:
        """The score of record: the blend, or the global score of a model without a modular one."""
        return "global" if self.blend_weight is None else "blend"


class KeptRanks(NamedTuple):
    """The ranks of some queries by every score, for the file of `save_ranks`."""

    by_score: Mapping[str, Ranks]
    video: Int[np.ndarray, "q"]  # of each query


def record_scores(scores: Mapping[str, np.ndarray], weight: float | None) -> np.ndarray:
    """The score of record of pairs by their scores `global` and, with a weight, `modular`."""
    if not weight:
        return np.asarray(scores["global"], np.float32)
    modular = np.asarray(scores["modular"], np.float32)
    return np.asarray(scores["global"], np.float32) + np.float32(weight) * modular


def rank_queries(
    score_block: ScoreBlock,
    num_videos: int,
    video_of_caption: Int[np.ndarray, "c"],
    *,
    blend_weights: Sequence[float] = (1.0,),
    blocks: tuple[int, int] = BLOCKS,
) -> QueryRanks:
    """Ranks all queries by every score, in one sweep over the pairs.

    Args:
        score_block: `(video_slice, caption_slice) -> {'global': [b c], 'modular': [b c]}`; without
            `modular` there is no blend either.
        num_videos: size of the video gallery.
        video_of_caption: i32[c], the video that each caption belongs to.
        blend_weights: with one weight, the blend is made with it. With several, one is chosen
            (`choose_weight`), which is right on validation, and cheating on a test set.
        blocks: videos and captions in a block.

    Raises:
        ValueError: no blend weight, no score named `global`, and what `blockwise_ranks` refuses.
        FloatingPointError: for a score that is not finite.
    """
    swept = _sweep(score_block, num_videos, video_of_caption, blend_weights, blocks)
    by_score = {name: swept[name] for name in ("global", "modular") if name in swept}
    weight = None
    if "modular" in swept:
        blends = {float(weight): swept[_blend_name(weight)] for weight in blend_weights}
        weight = choose_weight(blends)
        by_score["blend"] = blends[weight]
    return QueryRanks(by_score, np.asarray(video_of_caption), weight)


def choose_weight(blends: Mapping[float, RanksBothDirections]) -> float:
    """The largest weight whose T2V R@1 is at most one standard error below the best.

    The global score is a mean over all that a video shows: on short validation videos it may help
    by chance, and on long ones it hinders, so it gets a larger part only where that is beyond
    chance (the one-standard-error rule of Breiman et al., Classification and Regression Trees,
    1984).
    """
    share = {weight: float(np.mean(both.t2v.values <= 1)) for weight, both in blends.items()}
    best, queries = max(share.values()), min(len(both.t2v.values) for both in blends.values())
    error = math.sqrt(best * (1 - best) / queries)
    return max(weight for weight in blends if share[weight] >= best - error - 1e-9)


def save_ranks(
    path: str | os.PathLike,
    ranks: QueryRanks,
    video_ids: Sequence[str],
    others: Mapping[str, KeptRanks] | None = None,
) -> None:
    """Writes ranks as an npz file, whole or not at all.

    The file has, for each direction of search, `<score>_<direction>`, the rank of each query
    (`global_t2v`, `blend_v2t` ...; inf where no answer is right); `<direction>_video`, the id of
    the video of each query; and `<direction>_gallery`, the number of answers.

    Args:
        path: of the file; its folder is made.
        ranks: of a split, in the directions `t2v` and `v2t`.
        video_ids: of all videos of the split, in order.
        others: further directions by name, such as `sentence`.
    """
    ids = np.asarray(video_ids)
    owners = ranks.video_of_caption, np.unique(ranks.video_of_caption)  # no caption, no query
    kept = {
        way: KeptRanks({score: getattr(both, way) for score, both in ranks.by_score.items()}, video)
        for way, video in zip(("t2v", "v2t"), owners, strict=True)
    }
    arrays = {}
    for way, (by_score, video) in {**kept, **(others or {})}.items():
        arrays[f"{way}_video"] = ids[video]
        for score, found in by_score.items():
            arrays[f"{score}_{way}"] = found.values
            arrays[f"{way}_gallery"] = np.array(found.gallery)
    with atomic.replacing(path) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)


def load_ranks(
    path: str | os.PathLike, direction: str, score: str = ""
) -> tuple[Ranks, Shaped[np.ndarray, "q"]]:
    """Reads the ranks of one score and direction, and the id of the video of each query.

    Args:
        path: of a file of `save_ranks`.
        direction: one of `directions(path)`.
        score: its name; '' for the score of record.

    Raises:
        ValueError: the file has no such ranks.
    """
    with _opened(path) as arrays:
        score = score or ("blend" if f"blend_{direction}" in arrays else "global")
        if (name := f"{score}_{direction}") not in arrays:
            raise ValueError(f"{path} has no {name}; it has {', '.join(sorted(arrays))}")
        try:
            ranks = Ranks(arrays[name], int(arrays[f"{direction}_gallery"]))
            return ranks, arrays[f"{direction}_video"]
        except (ValueError, KeyError, MemoryError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise ValueError(f"{path} is no file of ranks ({e}): {_AGAIN}") from e


def directions(path: str | os.PathLike) -> list[str]:
    """The directions of search that a file of `save_ranks` has: `t2v`, `v2t`, `sentence` ...

    Raises:
        ValueError: it is no such file.
    """
    with _opened(path) as arrays:
        return [name.removesuffix("_gallery") for name in arrays if name.endswith("_gallery")]


def _opened(path: str | os.PathLike) -> np.lib.npyio.NpzFile:
    try:
        arrays = np.load(path)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        arrays, fault = None, error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        fault = fault if arrays is None else "it has a single array"
        raise ValueError(f"{path} is no file of ranks ({fault}): {_AGAIN}")
    if (size := sum(entry.file_size for entry in arrays.zip.infolist())) > _LARGEST:
        arrays.close()
        raise ValueError(f"{path} is no file of ranks (it unpacks to {size:,} bytes): {_AGAIN}")
    return arrays


def _sweep(
    score_block: ScoreBlock,
    num_videos: int,
    video_of_caption: np.ndarray,
    weights: Sequence[float],
    blocks: tuple[int, int],
) -> dict[str, RanksBothDirections]:
    """Ranks of the scores and of their blends by every weight."""
    if not weights:
        raise ValueError("got no blend weight, expected at least one, such as (1.0,)")

    def with_blends(videos: slice, captions: slice) -> dict[str, np.ndarray]:
        scores = {k: np.asarray(v, np.float32) for k, v in score_block(videos, captions).items()}
        if "global" not in scores:
            raise ValueError(f"score_block gave {sorted(scores)}, expected a score named 'global'")
        if "modular" in scores:
            for weight in weights:
                scores[_blend_name(weight)] = record_scores(scores, weight)
        return scores

    return ranks_lib.blockwise_ranks(with_blends, num_videos, video_of_caption, *blocks)


def _blend_name(weight: float) -> str:
    return f"blend@{float(weight)!r}"
