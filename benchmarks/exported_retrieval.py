"""Compares the retrieval ranks of a run with those of its export, in a process without JAX.

    python -m benchmarks.exported_retrieval runs/base out/base/pytorch --python OTHER/bin/python

The videos and captions of a split go through the run's best checkpoint in this process, and through
torch_model in a process of another interpreter, which needs PyTorch, safetensors and NumPy only
(`--python`; by default this one, where jax and this package cannot be imported). It compares the
ranks of every query by every score; the exit code is 1 when one differs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mova_jax.data.pipeline.batching import settings_of
from mova_jax.data.pipeline.dataset import eval_batches
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.datasets import open_data
from mova_jax.training.load_model import LoadedModel, load_run

# Runs in the other process: arrays in, scores out.
_OTHER = """
import sys
sys.modules.update(dict.fromkeys(("jax", "flax", "mova_jax")))
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from torch_model import Mova
model, inputs = Mova.from_pretrained(sys.argv[1]), np.load(sys.argv[2])
inputs = {name: torch.from_numpy(inputs[name]) for name in inputs.files}
with torch.no_grad():
    def joined(found):
        if found[0] is None:  # the parts of captions that are not divided
            return None
        if torch.is_tensor(found[0]):
            return torch.cat(found)
        return type(found[0])(*map(joined, zip(*found)))
    def batches(encode, *arrays):
        rows = range(0, len(arrays[0]), 16)
        return joined([encode(*(a[i:i + 16] for a in arrays)) for i in rows])
    video = batches(model.encode_video, inputs["frames"], inputs["frame_mask"])
    names = "tokens", "token_mask", "part_tokens", "part_token_mask"
    texts = [inputs[name] for name in names if name in inputs]
    texts = [x if x.dtype == torch.bool else x.long() for x in texts]
    text = batches(model.encode_text, *texts)
    scores = model.scores(video, text, block=4)
np.savez(sys.argv[3], **{name: x.numpy() for name, x in scores.items()})
"""


def inputs_of(run: LoadedModel, folder: Path, split: str) -> dict[str, np.ndarray]:
    """All videos and captions of a split, captions as long as the longest."""
    settings = settings_of(run.config, run.config.eval.frames)
    tokenizer = Tokenizer(run.tokenizer, run.config.model.text.context)
    parts = []
    for batch in eval_batches(folder, split, tokenizer, settings, 32):
        valid = batch["video_id"] >= 0
        missing = run.config.model.text.context - batch["tokens"].shape[1]
        for name in ("tokens", "token_mask"):
            batch[name] = np.pad(batch[name], ((0, 0), (0, missing)))
        parts.append({name: batch[name][valid] for name in batch})
    names = parts[0].keys() - {"timestamps", "video_id"}
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    longest = int(found["token_mask"].sum(1).max())
    return found | {name: found[name][:, :longest] for name in ("tokens", "token_mask")}


def scores_here(run: LoadedModel, folder: Path, split: str) -> dict[str, np.ndarray]:
    """Scores `[b c]` by this package."""
    tokenizer = Tokenizer(run.tokenizer, run.config.model.text.context)
    evaluator = Evaluator(run.spec, run.config, mesh_lib.make_mesh(data=1), folder, tokenizer)
    scores = evaluator.context(run.params, split).dense_scores()
    if "modular" in scores:
        scores["blend"] = scores["global"] + np.float32(run.blend_weight) * scores["modular"]
    return scores


def scores_there(python: str, export: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores `[b c]` by the export, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script, given, made = (Path(folder) / n for n in ("script.py", "in.npz", "out.npz"))
        script.write_text(_OTHER)
        np.savez(given, **inputs)
        subprocess.run([python, "-I", script, export.resolve(), given, made], check=True)
        with np.load(made) as found:
            return dict(found)


def ranks(scores: np.ndarray) -> np.ndarray:
    """1 + number of videos that score higher than the query's own, for each caption."""
    return 1 + (scores > np.diag(scores)).sum(0)


def main() -> int:
    """Compares and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    run = load_run(args.run)
    folder = open_data(run.config)
    here = scores_here(run, folder, args.split)
    there = scores_there(args.python, args.export, inputs_of(run, folder, args.split))
    print(f"{args.split}: gallery {len(here['global'])}, {run.config.eval.frames} frames a video")
    print(f"{'score':<10}{'way':<6}{'R@1 here':>10}{'there':>8}{'ranks that differ':>20}")
    differing = 0
    for name in here:
        for way, turn in (("T2V", lambda s: s), ("V2T", np.transpose)):
            one, two = ranks(turn(here[name])), ranks(turn(there[name]))
            found = [f"{100 * np.mean(r == 1):.1f}" for r in (one, two)]
            print(f"{name:<10}{way:<6}{found[0]:>10}{found[1]:>8}{(one != two).sum():>20}")
            differing += int((one != two).sum())
        difference = np.abs(here[name] - there[name]).max()
        print(f"{'':<10}largest difference of a score {difference:.1e}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
