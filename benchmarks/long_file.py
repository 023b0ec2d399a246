"""Memory of embedding one video file against its length: it has to be flat.

    python -m benchmarks.long_file [--hours 0.1 1 3] [--size 224] [--model runs/base]
    python -m benchmarks.long_file --small

Makes video files (H.264, 4 frames a second, a moving square) and embeds each at one frame a second
in a process of its own, as an evaluation or an index does it (`frame_stream.embed_file`). Without
--model, the tiny model of the base recipe with random weights. Prints the peak memory of each
process, the frames a second, and what one more hour of video adds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

RATE = 4  # frames a second of the file


def make_file(path: Path, hours: float, size: int) -> None:
    """Writes a video of a square that moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        side = size // 4
        for number in range(round(hours * 3600 * RATE)):
            picture = np.full((size, size, 3), 96, np.uint8)
            left = number % (size - side)
            picture[left : left + side, left : left + side] = (number % 256, 200, 40)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def embed(path: str, model: str) -> dict[str, float]:
    """Embeds a file in this process; returns frames, seconds and peak memory."""
    from configs.base import get_config
    from mova_jax.config import from_config_dict
    from mova_jax.evaluation.frame_stream import FrameEncoder, embed_file
    from mova_jax.parallel.mesh import make_mesh
    from mova_jax.training.load_model import load_model
    from mova_jax.training.state import make_train_spec

    mesh = make_mesh()
    if model:
        loaded = load_model(model)
        spec, params = loaded.spec, loaded.params
    else:
        made = get_config()
        made.model.text.vocab_size = 512
        train_spec = make_train_spec(from_config_dict(made), mesh)
        spec, params = train_spec.model_spec, train_spec.initial().params
    encoder = FrameEncoder(spec, params, mesh)
    start = time.perf_counter()
    found = embed_file(encoder, path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "frames": len(found.times),
        "seconds": time.perf_counter() - start,
        "peak_mib": peak,
        "vectors_mib": found.vectors.nbytes / 2**20,
    }


def measure(hours: list[float], size: int, model: str) -> list[dict[str, float]]:
    """A row for each length, each measured in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in hours:
            path = Path(folder, f"{length:g}h.mp4")
            make_file(path, length, size)
            command = [sys.executable, "-m", "benchmarks.long_file", "--embed", str(path)]
            command += ["--model", model] if model else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"hours": length} | json.loads(done.stdout.splitlines()[-1]))
            path.unlink()
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, nargs="+", default=[0.1, 1.0, 3.0])
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--model", default="", help="a run, an export or a CLIP")
    parser.add_argument("--small", action="store_true", help="a few seconds")
    parser.add_argument("--embed", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.embed:
        print(json.dumps(embed(args.embed, args.model)))
        return
    hours, size = ([0.002, 0.01], 32) if args.small else (args.hours, args.size)
    rows = measure(hours, size, args.model)
    print("| hours | frames | frames/s | peak MiB | of it vectors, MiB |\n|---|---|---|---|---|")
    for row in rows:
        rate = row["frames"] / row["seconds"]
        cells = f"{row['hours']:g} | {row['frames']} | {rate:.0f} | {row['peak_mib']:.0f}"
        print(f"| {cells} | {row['vectors_mib']:.1f} |")
    first, last = rows[0], rows[-1]
    added = (last["peak_mib"] - first["peak_mib"]) / (last["hours"] - first["hours"])
    print(f"one more hour adds {added:.1f} MiB")


if __name__ == "__main__":
    main()
