"""Frames a second of the input pipeline, by readers, against decoding the same JPEG bytes.

    python -m benchmarks.input_pipeline [--quick] [--rounds 3] [--seconds 3]

Makes its own shards (random smooth images, captions of about 90 words) in a temporary folder and
prints one table. Every round measures every line once, and the table shows the median: a machine's
speed drifts by more than some lines differ. `bare` decodes the frames of a batch from memory into
one array, in a loop (1 thread) or in two; `share` is what a line reaches of the 1-thread loop.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from mova_jax.data.pipeline import PipelineSettings, train_dataset
from mova_jax.data.shards import Caption, Manifest, VideoRecord, write_manifest, write_split
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer

WORDS = "a red dog runs over the green field while two birds turn slowly above it".split()
READERS = [
    {"threads": 0},
    {"threads": 1},
    {"threads": 2},
    {"threads": 4},
    {"threads": 0, "worker_processes": 1},
    {"threads": 0, "worker_processes": 2},
]


@dataclasses.dataclass(frozen=True)
class Case:
    """A shape of data: stored videos, and the batches made from them."""

    size: int
    stored_frames: int
    videos: int
    frames: int
    batch_size: int


# Grain's shuffle costs about 2**15 / videos loops a record: with few videos it would show.
CASES = [Case(64, 32, 1024, 12, 64), Case(224, 16, 512, 8, 16)]


def _jpeg(rng: np.random.Generator, size: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(smooth), quality=90)


def _record(index: int, case: Case, images: list[bytes]) -> VideoRecord:
    rng = np.random.default_rng(index)
    sentences = [" ".join(rng.choice(WORDS, 30)) + "." for _ in range(3)]
    return VideoRecord(
        id=str(index),
        frames=tuple(images[i] for i in rng.integers(len(images), size=case.stored_frames)),
        height=case.size,
        width=case.size,
        timestamps=np.arange(case.stored_frames, dtype=np.float32),
        duration=float(case.stored_frames),
        captions=tuple(Caption(sentence) for sentence in sentences),
    )


def _write(folder: Path, case: Case) -> list[VideoRecord]:
    images = [_jpeg(np.random.default_rng(index), case.size) for index in range(256)]
    records = [_record(index, case, images) for index in range(case.videos)]
    write_manifest(
        folder, Manifest("bench", {"train": write_split(folder, "train", records, name="bench")})
    )
    train_tokenizer((record.caption for record in records), 1024, folder / "tokenizer")
    return records


def _bare(records: list[VideoRecord], case: Case, threads: int) -> Iterator[None]:
    """Decodes the frames of one batch after another."""

    def decode(rows: list[tuple[np.ndarray, VideoRecord]]) -> None:
        for out, record in rows:
            for image, jpeg in zip(out, record.frames, strict=False):
                simplejpeg.decode_jpeg(jpeg, buffer=image)

    shape = (case.batch_size, case.frames, case.size, case.size, 3)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in itertools.cycle(range(0, case.videos, case.batch_size)):
            frames = np.empty(shape, np.uint8)
            rows = list(zip(frames, records[start : start + case.batch_size], strict=True))
            list(pool.map(decode, [rows[thread::threads] for thread in range(threads)]))
            yield


def _rate(batches: Iterator, case: Case, seconds: float, skip: int) -> float:
    """Frames a second, after the batches that were made before anybody asked."""
    for _ in range(skip):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    return count * case.batch_size * case.frames / (time.perf_counter() - start)


def _lines(folder: Path, case: Case, seconds: float) -> dict[str, Callable[[], float]]:
    records = _write(folder, case)
    tokenizer = Tokenizer(folder / "tokenizer")

    def bare(threads: int) -> float:
        return _rate(_bare(records, case, threads), case, seconds, skip=1)

    def pipeline(readers: dict[str, int]) -> float:
        settings = PipelineSettings(case.frames, case.size, prefetch=4, **readers)
        dataset = train_dataset(
            folder, "train", tokenizer, settings, seed=0, batch_size=case.batch_size
        )
        batches = iter(dataset)
        try:
            return _rate(batches, case, seconds, skip=8)
        finally:
            batches.close()

    lines = {f"bare, {n} thread{'s' * (n > 1)}": lambda n=n: bare(n) for n in (1, 2)}
    for readers in READERS:
        name = ", ".join(f"{key} {value}" for key, value in readers.items())
        lines[name] = lambda readers=readers: pipeline(readers)
    return lines


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of half a second a line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    rounds, seconds = (1, 0.5) if args.quick else (args.rounds, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        columns = []
        for case in CASES:
            lines = _lines(Path(folder) / str(case.size), case, seconds)
            runs = [{name: run() for name, run in lines.items()} for _ in range(rounds)]
            columns.append({name: statistics.median(r[name] for r in runs) for name in lines})
    titles = [f"{c.size} px, {c.frames} frames x {c.batch_size}" for c in CASES]
    print(f"{'frames/s':30}" + "".join(f"{title:>26}{'share':>8}" for title in titles))
    for name in columns[0]:
        cells = [(column[name], column[name] / column["bare, 1 thread"]) for column in columns]
        print(f"{name:30}" + "".join(f"{rate:26,.0f}{share:8.2f}" for rate, share in cells))


if __name__ == "__main__":
    main()
