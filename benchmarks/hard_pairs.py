"""How much of the gradient of all pairs the hardest pairs of a batch make.

    python -m benchmarks.hard_pairs runs/base [--batch 64] [--batches 4] [--pool mean]

Loss and gradient of sfdm alone, by the parameters of a trained run, over the own caption and the k
hardest others of each video (`losses.hard_pairs`), against those over all captions of the batch.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.data.pipeline.batching import settings_of
from mova_jax.data.pipeline.dataset import train_dataset
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.losses.objective import objective
from mova_jax.training.datasets import open_data
from mova_jax.training.load_model import LoadedModel, load_run
from mova_jax.typing import Batch


def make_gradient(run: LoadedModel, pool: str, k: int):
    """`(params, batch) -> (loss, gradient as one vector)` of sfdm over k hard pairs; 0: all."""
    terms = dict.fromkeys(("contrast", "frame", "sparsity", "dfsm"), 0.0) | {"sfdm": 1.0}
    how = {"hard_pairs": k, "dfsm_masks": "own", "pool": pool}
    losses = dataclasses.replace(run.config.losses, **terms, **how)

    def loss(params, batch):
        return objective(run.spec.model(params), batch, losses)[0]

    compute = jax.jit(jax.value_and_grad(loss))

    def gradient(params, batch):
        value, found = compute(params, batch)
        return float(value), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])

    return gradient


def batches_of(run: LoadedModel, size: int, count: int) -> list[Batch]:
    """Training batches in an order that the run has not seen."""
    settings = settings_of(run.config, run.config.data.frames)
    tokenizer = Tokenizer(run.tokenizer, run.config.model.text.context)
    source = open_data(run.config)
    data = train_dataset(
        source, "train", tokenizer, settings, seed=run.config.seed + 1, batch_size=size
    )
    reader = iter(data)
    try:
        return [Batch(**jax.tree.map(jnp.asarray, next(reader))) for _ in range(count)]
    finally:
        reader.close()


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--batch", type=int, default=64, help="videos")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--pool", default="mean", help="losses.pool; mean is that of `paper`")
    args = parser.parse_args()
    run = load_run(args.workdir)
    batches = batches_of(run, args.batch, args.batches)
    whole = [make_gradient(run, args.pool, 0)(run.params, batch) for batch in batches]
    print(f"{args.workdir}, step {run.step}, {args.batches} batches of {args.batch} videos")
    print(f"{'captions a video':>16}{'loss, of all':>24}{'cosine':>24}{'length':>24}")
    for share in (2, 4, 8, 16):
        gradient = make_gradient(run, args.pool, args.batch // share - 1)
        rows = []
        for batch, (all_loss, every) in zip(batches, whole, strict=True):
            loss, some = gradient(run.params, batch)
            length = np.linalg.norm(some) / np.linalg.norm(every)
            cosine = some @ every / np.linalg.norm(some) / np.linalg.norm(every)
            rows.append((loss / all_loss, cosine, length))
        loss, cosine, length = zip(*rows, strict=True)
        print(
            f"{args.batch // share:16}{_spread(loss):>24}{_spread(cosine):>24}{_spread(length):>24}"
        )


def _spread(values) -> str:
    return f"{np.median(values):.4f} (from {min(values):.4f})"


if __name__ == "__main__":
    main()
