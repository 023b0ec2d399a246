"""R@1 of a trained model by pool, sharpness and order of its parts; nothing is trained.

    python -m benchmarks.pools runs/base [--splits validation ood_time] [--longer 8]

Every caption and every video of a split is encoded once; then all pairs are scored without masks by
each way to pool the cosines of frames and parts. `--longer N` also appends frames of videos of
another split, which no caption is about, so that a part has to be found among N times as many
frames. `shuffled`
has the parts of every caption in another order: what a prior on the order of time costs captions
that are not in order.
"""

import argparse
import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.losses.scores import pair_scores
from mova_jax.models.mova import PreparedCaption
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.datasets import open_data
from mova_jax.training.load_model import load_run
from mova_jax.typing import TextEmbedding, VideoEmbedding

BLOCK = 16  # videos at a time
FORMS = (
    *(("mean", 1.0, 0.0), ("max", 1.0, 0.0)),
    *(("softmax", s, 0.0) for s in (10.0, 20.0, 50.0)),
    *(("logmeanexp", s, 0.0) for s in (5.0, 10.0, 20.0, 50.0)),
    *(("logmeanexp", 20.0, order) for order in (0.1, 0.2, 0.5, 0.9, 1.0)),
)


@partial(jax.jit, static_argnames=("pool", "order"))
def block_scores(video: VideoEmbedding, text: TextEmbedding, sharpness, *, pool: str, order: float):
    """Scores `[b c]` without masks."""
    networks = types.SimpleNamespace(masks_see_frames=False, sharpness=sharpness)
    captions = PreparedCaption(text.parts.pooled, text.parts.token_mask)
    return pair_scores(networks, video, captions, pool=pool, order=order)


def recall_at_1(video: VideoEmbedding, text: TextEmbedding, form: tuple[str, float, float]):
    """T2V and V2T R@1 in percent, ties counted as misses."""
    pool, sharpness, order = form
    scores = np.concatenate(
        [
            block_scores(
                jax.tree.map(lambda leaf, i=i: leaf[i : i + BLOCK], video),
                text,
                jnp.float32(sharpness),
                pool=pool,
                order=order,
            )
            for i in range(0, len(video.frames), BLOCK)
        ]
    )
    own = np.diagonal(scores)
    return [
        100 * np.mean((scores >= right).sum(axis) == 1)
        for axis, right in ((0, own), (1, own[:, None]))
    ]


def longer(video: VideoEmbedding, others: VideoEmbedding, times: int) -> VideoEmbedding:
    """Each video followed by `times - 1` others."""
    rows, masks = [np.asarray(video.frames)], [np.asarray(video.frame_mask)]
    for i in range(1, times):
        other = (np.arange(len(rows[0])) * (times - 1) + i) % len(others.frames)
        rows.append(np.asarray(others.frames)[other])
        masks.append(np.asarray(others.frame_mask)[other])
    return VideoEmbedding(np.concatenate(rows, 1), np.concatenate(masks, 1), video.pooled)


def shuffled(text: TextEmbedding, seed: int = 0) -> TextEmbedding:
    """The valid parts of every caption in another order, where it has two at least."""
    rng = np.random.default_rng(seed)
    order = np.tile(np.arange(text.parts.pooled.shape[1]), (len(text.pooled), 1))
    for row, valid in zip(order, np.asarray(text.parts.token_mask.any(-1)), strict=True):
        count = int(valid.sum())
        while count > 1 and (row[:count] == np.arange(count)).all():
            row[:count] = rng.permutation(count)

    def take(leaf):
        return np.take_along_axis(leaf, order.reshape(*order.shape, *(1,) * (leaf.ndim - 2)), 1)

    return dataclasses.replace(text, parts=jax.tree.map(take, text.parts))


def main() -> None:
    """Scores and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="workdir of a run whose captions are divided")
    parser.add_argument("--splits", nargs="+", default=["validation", "ood_time", "confusable"])
    parser.add_argument("--longer", type=int, default=8)
    args = parser.parse_args()
    run = load_run(args.run)
    tokenizer = Tokenizer(run.tokenizer, run.config.model.text.context)
    mesh = mesh_lib.make_mesh(data=1)
    evaluator = Evaluator(run.spec, run.config, mesh, open_data(run.config), tokenizer)
    found: dict[str, dict[str, list[float]]] = {}
    for split in args.splits:
        embedded = evaluator.context(run.params, split).embeddings
        video, text = embedded.video, embedded.text
        kinds = {split: (video, text), f"{split}, shuffled": (video, shuffled(text))}
        if args.longer > 1:
            other = "test" if split != "test" else "validation"
            others = evaluator.context(run.params, other).embeddings.video
            kinds[f"{split}, {args.longer} times as long"] = (
                longer(video, others, args.longer),
                text,
            )
        for kind, pair in kinds.items():
            found[kind] = {form: recall_at_1(*pair, form) for form in FORMS}
    print("T2V / V2T R@1, %\n\n| pool, sharpness, order | " + " | ".join(found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for form in FORMS:
        cells = ["{:.1f} / {:.1f}".format(*found[kind][form]) for kind in found]
        pool, sharpness, order = form
        name = pool if pool in ("mean", "max") else f"{pool} {sharpness:g}"
        print(f"| {name}{f', {order:g}' if order else ''} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
