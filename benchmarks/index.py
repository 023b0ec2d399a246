"""Indexing videos against the bare image tower, and how long a large index takes to open.

    python -m benchmarks.index [--model b32] [--videos 8] [--seconds 48] [--entries 3600]
    python -m benchmarks.index --small

Makes video files (H.264, a moving square), embeds them into an index as `python -m mova_jax.embed`
does it, and compares its frames a second with those of the compiled tower on pixels in memory. Both
alternate, and the best of three counts, for other work on the machine only slows them. Then opens
an index of many made-up entries, and maps the vectors of all its videos, before and after it is
packed. Weights are random: they change no time.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.long_file import make_file
from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.parallel.mesh import make_mesh
from mova_jax.search.index_writer import IndexWriter
from mova_jax.search.indexing import index_folder
from mova_jax.search.library import VideoTextModel
from mova_jax.search.store import SourceFile, open_index
from mova_jax.training.load_model import RUN, LoadedModel
from mova_jax.training.state import make_train_spec

ROUNDS = 3
WIDTH, FRAMES = 512, 100  # of a made-up entry


def random_model(folder: Path, size: str) -> VideoTextModel:
    """A model of the base recipe with random weights; `folder` gets its tokenizer."""
    train_tokenizer(["a square moves"] * 4, 520, folder / "tokenizer")
    made = get_config(f"model={size}")
    made.model.text.vocab_size = 520
    config, mesh = from_config_dict(made), make_mesh(data=1)
    spec = make_train_spec(config, mesh).model_spec
    params = jax.jit(lambda: spec.init_params(0))()
    loaded = LoadedModel(folder, RUN, config, spec, params, folder / "tokenizer", 0, None)
    return VideoTextModel(loaded, mesh)


def frames_a_second(model: VideoTextModel, videos: Path, index: Path) -> dict[str, float]:
    """Of the tower alone on pixels in memory, and of indexing a folder."""
    encoder = model.encoder
    shape = (encoder.rows, encoder.image_size, encoder.image_size, 3)
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    encoder(pixels).block_until_ready()  # compiles
    best = {"tower": 0.0, "index": 0.0}
    for _ in range(ROUNDS):
        shutil.rmtree(index, ignore_errors=True)
        start = time.perf_counter()
        index_folder(model, videos, index)
        frames = sum(entry.frames for entry in open_index(index).entries)
        best["index"] = max(best["index"], frames / (time.perf_counter() - start))
        chunks = -(-frames // encoder.rows)
        start = time.perf_counter()
        for _ in range(chunks):
            found = encoder(pixels)
        found.block_until_ready()
        rate = chunks * encoder.rows / (time.perf_counter() - start)
        best["tower"] = max(best["tower"], rate)
    return best


def opening_seconds(folder: Path, entries: int) -> dict[str, tuple[float, float]]:
    """Seconds to open an index, and to map the vectors of all its videos."""
    about = {"model": "made", "fingerprint": "made", "fps": 1.0, "dim": WIDTH}
    writer = IndexWriter(folder, about)
    vectors = np.zeros((FRAMES, WIDTH), np.float16)
    times = np.arange(FRAMES, dtype=np.float32)
    for number in range(entries):
        file = SourceFile(f"/videos/{number}.mp4", 1, number)
        writer.add(f"{number:032x}", file, vectors, times, float(FRAMES))
    found = {}
    for name in ("folders", "packed"):
        if name == "packed":
            writer.pack()
        rounds = [_open(folder) for _ in range(ROUNDS)]
        found[name] = tuple(min(column) for column in zip(*rounds, strict=True))
    return found


def _open(folder: Path) -> tuple[float, float]:
    start = time.perf_counter()
    index = open_index(folder)
    opened = time.perf_counter()
    for entry in index.entries:
        index.vectors(entry.id)
    return opened - start, time.perf_counter() - opened


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="b32", help="size of the base recipe")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=48, help="of a video, a frame each")
    parser.add_argument("--entries", type=int, default=3600, help="of the index that is opened")
    parser.add_argument("--small", action="store_true", help="a few seconds")
    args = parser.parse_args()
    if args.small:
        args.model, args.videos, args.seconds, args.entries = "tiny", 2, 8, 50
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = random_model(folder, args.model)
        (folder / "videos").mkdir()
        for number in range(args.videos):
            path = folder / "videos" / f"{number}.mp4"
            make_file(path, args.seconds / 3600, 224 + 32 * number)
        rates = frames_a_second(model, folder / "videos", folder / "index")
        opening = opening_seconds(folder / "many", args.entries)
    ratio = rates["index"] / rates["tower"]
    print(f"| {args.model}, frames/s | tower alone | index | ratio |\n|---|---|---|---|")
    print(f"| | {rates['tower']:.1f} | {rates['index']:.1f} | {ratio:.2f} |\n")
    print(f"| {args.entries} videos, s | open | map all vectors |\n|---|---|---|")
    for name, (opened, mapped) in opening.items():
        print(f"| {name} | {opened:.3f} | {mapped:.3f} |")


if __name__ == "__main__":
    main()
