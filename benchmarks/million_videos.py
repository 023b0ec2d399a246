"""Ranks 1,000 paragraphs among 1,000,000 videos whose frame vectors are on disk: time and memory.

    python -m benchmarks.million_videos [--videos 1000000] [--folder .data/million]
    python -m benchmarks.million_videos --small

The vectors (8 frames a video, width 512, float16: 8 GB) are made up and written once; in some
videos the four sentences of a paragraph are planted. They are read a block of videos at a time and
scored by the code of an evaluation (`EvalFns.pairs`, `rank_queries`), so that memory depends on the
block and on the number of queries, not on the gallery.
"""

import argparse
import dataclasses
import resource
import time
from pathlib import Path

import jax
import numpy as np

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.evaluation.query_ranks import rank_queries
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from mova_jax.typing import TextEmbedding, VideoEmbedding
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

WEIGHT = 10.0  # of the blend, as the base run chooses it
_POOL = 65_536  # distinct vectors that frames without a sentence are drawn from


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the gallery and of a block."""

    videos: int = 1_000_000
    queries: int = 1_000
    frames: int = 8
    parts: int = 4
    dim: int = 512
    block: int = 64  # videos that are read and scored at a time


SMALL = Sizes(videos=500, queries=50, frames=4, parts=2, dim=32, block=16)


def paragraphs(size: Sizes) -> TextEmbedding:
    """The queries: sentences in random directions."""
    rng = np.random.default_rng(1)
    parts = _unit(rng.standard_normal((size.queries, size.parts, size.dim), np.float32))
    empty, valid = np.zeros((size.queries, 0, 1), np.float32), np.ones((size.queries, 1), bool)
    part_text = TextEmbedding(
        np.zeros((size.queries, size.parts, 0, 1), np.float32),
        np.ones((size.queries, size.parts, 1), bool),
        parts,
    )
    return TextEmbedding(empty, valid, _unit(parts.mean(1)), parts=part_text)


def owners(size: Sizes) -> np.ndarray:
    """The video of each query, spread over the gallery."""
    return np.arange(size.queries) * (size.videos // size.queries)


def write_store(path: Path, size: Sizes, text: TextEmbedding) -> None:
    """Writes the frame vectors `[b f d]` as float16, unless they are there."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    pool = _unit(rng.standard_normal((_POOL, size.dim), np.float32)).astype(np.float16)
    query_of = {video: query for query, video in enumerate(owners(size))}
    held = np.arange(size.frames) * size.parts // size.frames
    with atomic.replacing(path) as aside, aside.open("wb") as stream:
        with bar_of("frame vectors", size.videos, unit="video") as bar:
            for start in range(0, size.videos, size.block):
                count = min(size.block, size.videos - start)
                frames = pool[rng.integers(_POOL, size=(count, size.frames))]
                for video in range(start, start + count):
                    if (query := query_of.get(video)) is not None:
                        planted = 4 * size.dim**-0.5 * text.parts.pooled[query][held]
                        frames[video - start] = _unit(frames[video - start] + planted)
                stream.write(frames.tobytes())
                bar.update(count)


def rank(path: Path, size: Sizes, text: TextEmbedding) -> dict[str, float]:
    """Ranks the queries; returns recalls, seconds and peak memory."""
    config = get_config("objective=parts")
    config.update_from_flattened_dict(
        {"model.embed_dim": size.dim, "model.text.vocab_size": 8, "data.parts": size.parts}
    )
    config, mesh = from_config_dict(config), mesh_lib.make_mesh()
    spec = make_train_spec(config, mesh)
    fns, params = EvalFns(spec.model_spec, config.losses, config.eval, mesh), spec.initial().params
    blocks = size.block, size.queries
    bytes_of_video = 2 * size.frames * size.dim

    def scores(videos: slice, captions: slice) -> dict[str, np.ndarray]:
        count = videos.stop - videos.start
        # Not mapped: pages of a mapped file would count as memory of this process.
        vectors = np.fromfile(
            path, np.float16, count * size.frames * size.dim, offset=videos.start * bytes_of_video
        )
        frames = vectors.astype(np.float32).reshape(count, size.frames, size.dim)
        valid = np.ones((count, size.frames), bool)
        video = VideoEmbedding(frames, valid, frames.mean(1))
        found = fns.pairs(params, video, rows_of(text, captions), blocks)
        bar.update(min(count, size.videos - bar.n))  # blocks with a right pair come twice
        return found

    start, cores = time.perf_counter(), time.process_time()
    with bar_of("ranked", size.videos, unit="video") as bar:
        found = rank_queries(
            scores, size.videos, owners(size), blend_weights=(WEIGHT,), blocks=blocks
        )
    ranks = found.by_score["blend"].t2v.values
    return {
        "seconds": time.perf_counter() - start,
        "core_seconds": time.process_time() - cores,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "t2v_r1": 100 * float((ranks <= 1).mean()),
        "t2v_r10": 100 * float((ranks <= 10).mean()),
        "median_rank": float(np.median(ranks)),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def main() -> None:
    """Writes the store, ranks and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=Sizes.videos)
    parser.add_argument("--folder", type=Path, default=Path(".data/million"))
    parser.add_argument("--small", action="store_true", help="a few small videos")
    args = parser.parse_args()
    size = SMALL if args.small else Sizes(videos=args.videos)
    text, path = paragraphs(size), args.folder / f"{size.videos}x{size.frames}x{size.dim}.f16"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_store(path, size, text)
    print(f"{size}, {jax.device_count()} device(s)")
    for name, value in rank(path, size, text).items():
        print(f"{name:>14} {value:.6g}")


if __name__ == "__main__":
    main()
