"""Asks a model about one gallery of montages: retrieval by each score, and grounding.

figures = ask(with_parts(model), mesh, gallery, weight=1.0)     # plain values, kept as JSON
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.grounding import grounding
from mova_jax.evaluation.ranks import chance
from mova_jax.suites.montage.galleries import Gallery
from mova_jax.training.load_model import LoadedModel

SCORES = {"global": "global", "modular": "by parts", "blend": "blend"}
RECALLS = (1, 10)
_FRAMES = 2048  # in the image tower at a time
_MOST_ROWS = 64


def ask(
    model: LoadedModel, mesh: jax.sharding.Mesh, gallery: Gallery, weight: float | None
) -> dict[str, Any]:
    """The figures of a model on one gallery.

    Args:
        model: that has parts, or masks.
        mesh: to run on.
        gallery: every stored frame of its videos is read.
        weight: of the modular score in the blend; None chooses the best here.

    Returns:
        `domain`, `items`, `minutes`, `videos`, `queries`; `weight`; `hits`, by score and by `r1`
        and `r10` the share of each video's queries that are answered within the first 1 or 10;
        `chance`, the expected share in percent; `grounding`, metrics of plain cosines, 0 to 1.
    """
    rows = max(1, min(_MOST_ROWS, _FRAMES // gallery.frames))
    settings = dataclasses.replace(
        model.config.eval, frames=gallery.frames, batch_size=rows, queries="all"
    )
    config = dataclasses.replace(model.config, eval=settings)
    params = model.params_on(mesh)
    tokenizer = Tokenizer(model.tokenizer, config.model.text.context)
    evaluator = Evaluator(model.spec, config, mesh, gallery.folder, tokenizer)
    context = evaluator.context(params, gallery.split, blend_weight=weight)
    ranks, owner = context.query_ranks, context.query_ranks.video_of_caption
    hits = {
        score: {
            f"r{k}": _by_video(both.t2v.values <= k, owner, context.num_videos) for k in RECALLS
        }
        for score, both in ranks.by_score.items()
    }
    found = grounding(context)
    return {
        "domain": gallery.domain,
        "items": gallery.items,
        "minutes": gallery.minutes,
        "videos": context.num_videos,
        "queries": len(owner),
        "weight": ranks.blend_weight,
        "hits": hits,
        "chance": {f"r{k}": chance(context.num_videos)[f"r{k}"] for k in RECALLS},
        "grounding": {name.rpartition("/")[2]: value for name, value in found.items()},
    }


def _by_video(hit: np.ndarray, owner: np.ndarray, videos: int) -> list[float]:
    """The share of each video's queries that hit; videos without a query are left out."""
    count = np.bincount(owner, minlength=videos)
    hits = np.bincount(owner, hit, minlength=videos)
    return (hits[count > 0] / count[count > 0]).tolist()
