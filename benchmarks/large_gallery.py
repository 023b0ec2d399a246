"""Retrieval in a gallery of the size of ActivityNet's: seconds, peak memory, and a check.

    python -m benchmarks.large_gallery [--order 0.5] [--masks] [--videos 4917]
    python -m benchmarks.large_gallery --small

Ranks 4,917 captions of 4 sentences among as many videos of 64 frames, and the reverse, by
embeddings of width 512 through the code of an evaluation. Each sentence is planted in frames of
its video, in the order of time. Some scores are compared with those of a plain NumPy loop.
"""

import argparse
import dataclasses
import resource
import time
from pathlib import Path

import numpy as np

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.evaluation.context import EvalContext
from mova_jax.evaluation.embedding_cache import SplitEmbeddings
from mova_jax.evaluation.jitted import EvalFns
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from mova_jax.typing import TextEmbedding, VideoEmbedding

CORNER = 40  # videos and captions that are compared with the plain loop


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Sizes."""

    videos: int = 4917
    frames: int = 64
    parts: int = 4
    dim: int = 512


SMALL = Gallery(videos=70, frames=8, parts=3, dim=32)


def planted(size: Gallery, masks: bool) -> SplitEmbeddings:
    """Frames of length 1, in each of which one sentence of the caption is faintly there."""
    rng = np.random.default_rng(0)
    b, f, p, d = size.videos, size.frames, size.parts, size.dim
    parts = _unit(rng.standard_normal((b, p, d), np.float32))
    frames, pooled = np.empty((b, f, d), np.float32), np.empty((b, d), np.float32)
    held = np.arange(f) * p // f  # the sentence of each frame
    for video in range(b):  # one by one, to need no second copy
        noise = _unit(rng.standard_normal((f, d), np.float32))
        frames[video] = _unit(noise + 1.2 * d**-0.5 * parts[video, held])
        pooled[video] = _unit(frames[video].mean(0))
    video_mask = (rng.random((b, p, d)) < 0.7).astype(np.float32) if masks else None
    none, valid = np.zeros((b, 0, 1), np.float32), np.ones((b, 1), bool)
    part_text = TextEmbedding(
        np.zeros((b, p, 0, 1), np.float32), np.ones((b, p, 1), bool), parts, video_mask
    )
    text = TextEmbedding(none, valid, _unit(parts.mean(1)), parts=part_text)
    video = VideoEmbedding(frames, np.ones((b, f), bool), pooled)
    return SplitEmbeddings(video, text, np.tile(np.arange(f, dtype=np.float32), (b, 1)))


class PlantedContext(EvalContext):
    """An evaluation of embeddings that no tower made."""

    def __init__(self, size: Gallery, order: float, masks: bool):
        """Draws the embeddings; the model has trained nothing but the sharpness."""
        config = get_config(f"objective={'part_concepts' if masks else 'parts'}")
        changes = {"model.embed_dim": size.dim, "model.text.vocab_size": 8, "losses.order": order}
        config.update_from_flattened_dict(
            changes | {"data.parts": size.parts, "eval.queries": "caption"}
        )
        config, mesh = from_config_dict(config), mesh_lib.make_mesh()
        spec = make_train_spec(config, mesh)
        fns = EvalFns(spec.model_spec, config.losses, config.eval, mesh)
        super().__init__(
            config, fns, Path(), None, spec.initial().params, "gallery", blend_weight=1.0
        )
        self.__dict__["embeddings"] = planted(size, masks)


def plain_score(
    frames: np.ndarray, parts: np.ndarray, masks: np.ndarray | None, sharpness: float, order: float
) -> float:
    """The modular score of one pair: a loop over sentences, sums in logarithms."""
    free, reach = 0.0, np.zeros(len(frames))
    sharpness *= np.log1p(len(frames)) / np.log1p(32)
    for number, part in enumerate(parts):
        seen = frames if masks is None else frames * masks[number]
        found = part if masks is None else part * masks[number]
        cosines = seen @ found / np.linalg.norm(seen, axis=1) / np.linalg.norm(part)
        logits = sharpness * cosines.astype(np.float64)
        free += np.logaddexp.reduce(logits) - np.log(len(frames))
        reach = np.logaddexp.accumulate(reach + logits)
    f, p = len(frames), len(parts)
    if order:
        count = np.log(np.arange(f, f + p) / np.arange(1, p + 1)).sum()
        free = np.logaddexp(np.log1p(-order) + free, np.log(order) + reach[-1] - count)
    return free / (sharpness * p)


def corner(context: EvalContext) -> tuple[np.ndarray, np.ndarray]:
    """Modular scores of the first videos and captions, of the evaluation and of the plain loop."""
    video, parts = context.embeddings.video, context.embeddings.text.parts
    count = min(CORNER, len(video.pooled))
    sharpness, order = float(context.config.model.sharpness), context.config.losses.order
    plain = np.empty((count, count))
    for b in range(count):
        for c in range(count):
            masks = None if parts.video_mask is None else parts.video_mask[c]
            plain[b, c] = plain_score(video.frames[b], parts.pooled[c], masks, sharpness, order)
    first = slice(count)
    scores = [context.matching_scores(slice(b, b + 1), first)["modular"] for b in range(count)]
    return np.concatenate(scores), plain


def measure(size: Gallery, order: float, masks: bool) -> dict[str, float]:
    """Ranks the gallery and checks the corner.

    Returns:
        `seconds`, `core_seconds` and `gflops` (a second) of the ranking, `peak_gib` of the process,
        T2V and V2T R@1 by the modular score, and `difference`, the largest to the plain loop.
    """
    context = PlantedContext(size, order, masks)
    start, cores = time.perf_counter(), time.process_time()
    ranks = context.query_ranks.by_score["modular"]
    seconds, cores = time.perf_counter() - start, time.process_time() - cores
    found, plain = corner(context)
    products = 2 * (2 if masks else 1) * size.videos**2 * size.parts * size.frames * size.dim
    return {
        "seconds": seconds,
        "core_seconds": cores,
        "gflops": products / seconds / 1e9,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "t2v_r1": 100 * float((ranks.t2v.values <= 1).mean()),
        "v2t_r1": 100 * float((ranks.v2t.values <= 1).mean()),
        "difference": float(np.abs(found - plain).max()),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=Gallery.videos)
    parser.add_argument("--order", type=float, default=0.0, help="losses.order")
    parser.add_argument("--masks", action="store_true", help="a concept mask of each sentence")
    parser.add_argument("--small", action="store_true", help="a few small videos")
    args = parser.parse_args()
    size = SMALL if args.small else Gallery(videos=args.videos)
    print(f"{size}, order {args.order}, {'masks' if args.masks else 'no masks'}")
    for name, value in measure(size, args.order, args.masks).items():
        print(f"{name:>14} {value:.6g}")


if __name__ == "__main__":
    main()
