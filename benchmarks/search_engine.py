"""Answers from an engine's candidates against the exact scan: the same ones, and how fast.

    python -m benchmarks.search_engine [--videos 1200] [--frames 30] [--width 512] [--queries 20]
    python -m benchmarks.search_engine --engine http://milvus:19530
    python -m benchmarks.search_engine --small

Makes the index of `search_scan`, uploads it (by default to Milvus Lite, in a file), and asks both
for the ten best videos. A question has three sentences, each about a moment of one video: its frame
vector with noise, at a cosine of about 0.3. Prints, of the ten best of the exact scan, the share
that the candidates contain (recall@10), for how many questions the best answer is the same, and the
seconds of an upload and of a question.
"""

import argparse
import contextlib
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.search_scan import SENTENCES, Index, make_scan, question_of
from mova_jax.search.engine import Engine
from mova_jax.search.query import Question, Searcher, vectors_of

TOP = 10
NOISE = 3.0  # times the length of the frame vector


def question_about(index: Index, rng: np.random.Generator) -> Question:
    """A question whose sentences are noisy frames of one video, in their order."""
    frames = index.vectors(str(rng.integers(len(index.entries))))
    chosen = np.sort(rng.choice(len(frames), SENTENCES, replace=False))
    sentences = frames[chosen].astype(np.float32)
    return question_of(sentences + NOISE * rng.standard_normal(sentences.shape, np.float32))


def measure(index: Index, width: int, uri: str, queries: int) -> dict[str, float]:
    """The figures by what they are called in the table."""
    found, engine, begun = {}, Engine(uri, index), time.perf_counter()
    engine.upload(index)
    found["upload, s"] = time.perf_counter() - begun
    scan, rng, each = make_scan(width), np.random.default_rng(1), defaultdict(list)
    exact = Searcher(None, index, scan)
    with_engine = Searcher(None, index, scan, engine)
    for searcher in (exact, with_engine):
        searcher.search(question_about(index, np.random.default_rng(0)), TOP)  # compiles
    for _ in range(queries):
        question = question_about(index, rng)
        begun = time.perf_counter()
        best = [answer.entry.id for answer in exact.search(question, TOP)]
        each["exact scan, s"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        candidates = engine.candidates(vectors_of(question), index.entries)
        each["candidates alone, s"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        again = [answer.entry.id for answer in with_engine.search(question, TOP)]
        each["candidates and answers, s"].append(time.perf_counter() - begun)
        each["candidates"].append(len(candidates))
        each["recall@10, %"].append(100 * np.mean([e in {c.id for c in candidates} for e in best]))
        each["same best answer, %"].append(100 * (best[0] == again[0]))
    engine.close()
    return found | {name: float(np.mean(values)) for name, values in each.items()}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--videos", type=int, default=1200)
    parser.add_argument("--frames", type=int, default=30, help="of each video")
    parser.add_argument("--width", type=int, default=512, help="of the vectors, d")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--engine", default="", metavar="URI", help="by default Milvus Lite")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.small:
        args.videos, args.frames, args.width, args.queries = 120, 10, 32, 3
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        index = Index(folder / "vectors.npy", args.videos, args.frames, args.width)
        uri = args.engine or str(folder / "frames.db")
        found = measure(index, args.width, uri, args.queries)
    print(f"{args.videos * args.frames:,} frame vectors of {args.videos:,} videos")
    for name, value in found.items():
        print(f"{name:28}{value:10.2f}")


if __name__ == "__main__":
    main()
