"""Frames that a second of a core brings into batches: the pipeline, and what one might use instead.

    python -m benchmarks.input_pipeline [--videos FOLDER] [--frames 64] [--rounds 5] [--seconds 4]

Every line gives the same number of jittered frames of the same videos, 224 x 224, on one core, and
is measured in processor time, so that other programs on the machine count little:

    bare decoder   simplejpeg on the JPEG bytes of a shard, from memory, into one buffer
    pipeline       `train_dataset`: reads, chooses, tokenises, decodes, makes batches
    2 threads      the same by two threads that share the core: what handing over costs
    DataLoader     PyTorch's, over the same JPEG as files, Pillow, default collate; no captions
    mp4            decodes the video itself by PyAV up to the last frame that is wanted; no captions

Without `--videos` it makes some: two minutes each at 25 frames a second, H.264, a camera that moves
over a texture. The shards hold a frame a second (`--fps`). A round measures every line once, and a
share is formed within a round, for a machine's speed drifts: median, lowest and highest.
"""

import argparse
import dataclasses
import fractions
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import simplejpeg
import torch
from PIL import Image

from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.pipeline.dataset import train_dataset
from mova_jax.data.pipeline.sampling import choose_frames
from mova_jax.data.shards import (
    Caption,
    Manifest,
    VideoRecord,
    open_split,
    write_manifest,
    write_split,
)
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer

SIZE, BATCH = 224, 4  # pixels, videos
RECORDS, BARE = 256, 64  # of the shards, held in memory; few videos stand in several
WORDS = "a red dog runs over the green field while two birds turn slowly above it".split()


@dataclasses.dataclass(frozen=True)
class Video:
    """A file, and its frames as the shards have them."""

    path: Path
    times: np.ndarray
    jpegs: tuple[bytes, ...]


# ----------------------------------------------------------------------------------------- videos


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise about as smooth as frames of videos are, u8[side side 3]."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    noise = rng.normal(size=(3, side, side)) + 2 * rng.normal(size=(side, side))
    image = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.4, s=(side, side))
    image = 128 + 55 * (image - image.mean()) / image.std()
    return image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _make_video(path: Path, seconds: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    texture = _texture(rng, 3 * SIZE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "fast", "crf": "23"})
        stream.height = stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(25 * seconds):
            turn = index / 200 + seed
            top, left = (int(SIZE * (1 + 0.9 * wave(turn))) for wave in (np.sin, np.cos))
            view = texture[top : top + SIZE, left : left + SIZE]
            shot = np.roll(view, index // 100, axis=2)  # a cut every four seconds
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shot), format="rgb24")
            frame.pts, frame.time_base = index, fractions.Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _frames_of(path: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.time, frame


def _square(image: np.ndarray) -> np.ndarray:
    top, left = ((extent - SIZE) // 2 for extent in image.shape[:2])
    return np.ascontiguousarray(image[top : top + SIZE, left : left + SIZE])


def _store(path: Path, folder: Path, fps: float) -> Video:
    """The frames of a video that go into the shards, also as files for the DataLoader."""
    times, jpegs = [], []
    for seconds, frame in _frames_of(path):
        if seconds >= len(times) / fps:
            times.append(seconds)
            image = _square(frame.to_ndarray(format="rgb24"))
            jpegs.append(simplejpeg.encode_jpeg(image, quality=90))
    folder.mkdir(parents=True)
    for index, jpeg in enumerate(jpegs):
        (folder / f"{index:05d}.jpg").write_bytes(jpeg)
    return Video(path, np.array(times, np.float32), tuple(jpegs))


def _write_shards(folder: Path, videos: list[Video]) -> Tokenizer:
    rng = np.random.default_rng(0)

    def record(index: int) -> VideoRecord:
        video = videos[index % len(videos)]
        sentences = (" ".join(rng.choice(WORDS, 30)) + "." for _ in range(3))
        return VideoRecord(
            id=str(index),
            frames=video.jpegs,
            height=SIZE,
            width=SIZE,
            timestamps=video.times,
            duration=float(video.times[-1]),
            captions=tuple(map(Caption, sentences)),
        )

    split = write_split(folder, "train", map(record, range(RECORDS)), name="bench")
    write_manifest(folder, Manifest("bench", {"train": split}))
    train_tokenizer([" ".join(rng.permutation(WORDS)) for _ in range(100)], 600, folder / "words")
    return Tokenizer(folder / "words")


# ------------------------------------------------------------------------------------------ lines


class _Files(torch.utils.data.Dataset):
    """Frames of a video as JPEG files, the usual way."""

    def __init__(self, folders: list[Path], videos: list[Video], frames: int):
        self._folders, self._videos, self._frames = folders, videos, frames

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> torch.Tensor:
        which = index % len(self._videos)
        times = self._videos[which].times
        picked = choose_frames(times, self._frames, "jittered", np.random.default_rng(index))
        images = (Image.open(self._folders[which] / f"{i:05d}.jpg") for i in picked)
        return torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))


def _from_mp4(videos: list[Video], frames: int) -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        rows = []
        for index in rng.integers(len(videos), size=BATCH):
            video = videos[index]
            wanted = video.times[choose_frames(video.times, frames, "jittered", rng)].tolist()
            images = []
            for seconds, frame in _frames_of(video.path):
                if seconds >= wanted[len(images)] - 1e-3:
                    images.append(_square(frame.to_ndarray(format="rgb24")))
                    if len(images) == len(wanted):
                        break
            rows.append(np.stack(images))
        yield np.stack(rows).shape[0] * frames


def _bare(records: list[VideoRecord], frames: int) -> Iterator[int]:
    rng, out = np.random.default_rng(0), np.empty((SIZE, SIZE, 3), np.uint8)
    while True:
        for index in rng.integers(len(records), size=BATCH):
            record = records[index]
            for i in choose_frames(record.timestamps, frames, "jittered", rng):
                simplejpeg.decode_jpeg(record.frames[i], buffer=out)
        yield BATCH * frames


def _rate(batches: Iterator[int], seconds: float) -> float:
    """Frames a second of processor time, after what was made before anybody asked."""
    for _ in range(5):
        if next(batches) and seconds < 1:
            break
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        count += next(batches)
    return count / (time.process_time() - start)


def _pipeline_rate(shards: Path, tokenizer: Tokenizer, frames: int, threads: int, seconds: float):
    settings = PipelineSettings(frames, SIZE, threads=threads, prefetch=2)
    batches = iter(train_dataset(shards, "train", tokenizer, settings, seed=0, batch_size=BATCH))
    try:
        return _rate((int(batch["frame_mask"].sum()) for batch in batches), seconds)
    finally:
        batches.close()


def _lines(folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    if args.videos:
        paths = sorted(args.videos.rglob("*.mp4"))
    else:
        paths = [_make_video(folder / f"{i}.mp4", args.length, i) for i in range(4)]
    folders = [folder / "files" / str(i) for i in range(len(paths))]
    videos = [_store(*each, args.fps) for each in zip(paths, folders, strict=True)]
    kept = [
        i
        for i, video in enumerate(videos)
        if len(video.jpegs) >= args.frames
        and simplejpeg.decode_jpeg_header(video.jpegs[0])[:2] == (SIZE, SIZE)
    ]
    if not kept:
        raise SystemExit(
            f"no video of {SIZE} x {SIZE} pixels or more has {args.frames} frames at {args.fps} a "
            "second: lower --frames, or raise --fps"
        )
    videos, folders = [videos[i] for i in kept], [folders[i] for i in kept]
    stored = sum(len(video.jpegs) for video in videos)
    size = sum(len(jpeg) for video in videos for jpeg in video.jpegs) / stored
    print(f"{len(videos)} videos, {stored} frames stored, {size / 1000:.1f} KB each")
    tokenizer = _write_shards(folder / "shards", videos)
    loader = torch.utils.data.DataLoader(
        _Files(folders, videos, args.frames), batch_size=BATCH, shuffle=True
    )
    loaded = (len(batch) * args.frames for _ in itertools.count() for batch in loader)
    from_mp4 = _from_mp4(videos, args.frames)
    # More bytes than a cache holds, as the bytes of other videos are.
    source = open_split(folder / "shards", "train")
    bare = _bare([source[i] for i in range(BARE)], args.frames)

    def pipeline(threads: int) -> float:
        return _pipeline_rate(folder / "shards", tokenizer, args.frames, threads, args.seconds)

    return {
        "bare decoder": lambda: _rate(bare, args.seconds),
        "pipeline": lambda: pipeline(0),
        "pipeline, 2 threads": lambda: pipeline(2),
        "DataLoader": lambda: _rate(loaded, args.seconds),
        "mp4": lambda: _rate(from_mp4, args.seconds),
    }


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of .mp4 files, at least 224 px high")
    parser.add_argument("--length", type=int, default=120, help="of a video that is made, seconds")
    parser.add_argument("--fps", type=float, default=1.0, help="frames a second in the shards")
    parser.add_argument("--frames", type=int, default=64, help="frames of a video in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="a line and round, at least")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for all that follows
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = _lines(Path(folder), args)
        rounds = [{name: run() for name, run in lines.items()} for _ in range(args.rounds)]
    print(f"{'':22}{'frames/s':>10}{'of the bare decoder':>26}{'pipeline is faster by':>30}")
    for name in lines:
        shares = [each[name] / each["bare decoder"] for each in rounds]
        times = [each["pipeline"] / each[name] for each in rounds]
        rate = statistics.median(each[name] for each in rounds)
        print(f"{name:22}{rate:10,.0f}{_spread(shares):>26}{_spread(times):>30}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
