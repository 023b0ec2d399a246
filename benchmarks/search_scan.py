"""A question to a thousand hours of video: how long it takes, and in how much memory.

    python -m benchmarks.search_scan [--videos 3600] [--frames 1000] [--width 512] [--queries 20]
    python -m benchmarks.search_scan --small

Makes an index of random frame vectors (float16, one file, mapped into memory) and asks it questions
of three sentences, as `python -m mova_jax.search` does: all videos are scored exactly, then the ten
best are looked at sentence by sentence. The text tower is not in it: it is the same for any index.
Prints the first question, which also makes the global vectors and compiles; the median and the 99th
percentile of the others; and the peak memory, with and without the pages of the file, which the
system may take back at any time.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.evaluation.frame_stream import FrameEncoder
from mova_jax.evaluation.jitted import EvalFns
from mova_jax.parallel.mesh import make_mesh
from mova_jax.search.query import Question, Searcher
from mova_jax.search.scan import Scan
from mova_jax.training.state import make_train_spec
from mova_jax.typing import TextEmbedding

SENTENCES = 3


class Entry(NamedTuple):
    """What a search reads of `store.Entry`."""

    id: str
    source: str
    frames: int
    duration: float
    added: str = "2026-11-30"


class Index:
    """Videos of one file of frame vectors."""

    def __init__(self, path: Path, videos: int, frames: int, width: int):
        """Makes the file."""
        rng, shape = np.random.default_rng(0), (videos, frames, width)
        made = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for video in range(videos):  # each about its own subject
            subject = rng.normal(size=width, scale=0.5)
            made[video] = rng.standard_normal((frames, width), np.float32) + subject
        made.flush()
        self.folder, self.manifest = path.parent, {"dim": width, "fingerprint": "made"}
        self._vectors = np.load(path, mmap_mode="r")
        self.entries = [Entry(str(i), f"/{i}.mp4", frames, float(frames)) for i in range(videos)]

    def vectors(self, id: str) -> np.ndarray:
        """The frame vectors of a video."""
        return self._vectors[int(id)]

    def times(self, id: str) -> np.ndarray:
        """Their times in seconds."""
        return np.arange(len(self.vectors(id)), dtype=np.float32)


def make_scan(width: int) -> Scan:
    """The base recipe at another joint width, untrained: only its global head is used."""
    made = get_config()
    made.model.text.vocab_size, made.model.embed_dim = 512, width
    config, mesh = from_config_dict(made), make_mesh(data=1)
    spec = make_train_spec(config, mesh).model_spec
    params = jax.jit(lambda: spec.init_params(0))()
    fns = EvalFns(spec, config.losses, config.eval, mesh)
    return Scan(fns, params, FrameEncoder(spec, params, mesh), config, 1.0)


def question_of(sentences: np.ndarray) -> Question:
    """A paragraph of sentence vectors [s d], embedded as `EvalFns.encode_text` gives it."""

    def text(pooled: np.ndarray, parts: TextEmbedding | None = None) -> TextEmbedding:
        shape = pooled.shape[:-1]
        tokens, mask = np.zeros((*shape, 0, 1), np.float32), np.ones((*shape, 1), bool)
        return TextEmbedding(tokens, mask, pooled, parts=parts)

    names = tuple(f"sentence {i}" for i in range(len(sentences)))
    whole = text(sentences.mean(0, keepdims=True), text(sentences[None]))
    return Question(names, whole, text(sentences, text(sentences[:, None])))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--videos", type=int, default=3600)
    parser.add_argument("--frames", type=int, default=1000, help="of each video, one a second")
    parser.add_argument("--width", type=int, default=512, help="of the vectors, d")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--folder", default=None, help="for the file, 3.7 GB by default")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.folder:
        Path(args.folder).mkdir(parents=True, exist_ok=True)
    if args.small:
        args.videos, args.frames, args.width, args.queries = 20, 30, 32, 3
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        index = Index(Path(folder) / "vectors.npy", args.videos, args.frames, args.width)
        searcher = Searcher(None, index, make_scan(args.width))
        seconds = []
        for _ in range(args.queries + 1):
            sentences = rng.standard_normal((SENTENCES, args.width), np.float32)
            question, begun = question_of(sentences), time.perf_counter()
            searcher.search(question)
            seconds.append(time.perf_counter() - begun)
        file = (Path(folder) / "vectors.npy").stat().st_size
    first, *others = seconds
    frames = args.videos * args.frames
    print(
        f"{frames:,} frame vectors of {args.videos:,} videos, {frames / 3600:,.0f} hours at 1 fps"
    )
    print(f"first question   {first:8.2f} s")
    print(f"p50              {np.percentile(others, 50):8.2f} s")
    print(f"p99              {np.percentile(others, 99):8.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory      {peak / 2**30:8.2f} GiB, of which {own_memory() / 2**30:.2f} its own")
    print(f"file             {file / 2**30:8.2f} GiB")


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
