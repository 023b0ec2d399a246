"""Zero-shot classification of videos and pictures by prompts, as open_clip does it.

Every name of a class is put into every template. The class is the mean of the L2-normalised global
embeddings of these texts, normalised again. A video is scored by the cosine of its global embedding
with the class (`global`) and, in models with a modular score, by the cosines of its frames with the
class, pooled as the model pools the frames of a caption of one part, without masks (`frames`).

The label of a video is the one that the file of classes (`data/classes.py`) has for its id, or the
class that its first caption names: the label itself or one of the names, whatever the case. A
picture is a video of one frame.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mova_jax.data.classes import ClassesError
from mova_jax.data.pipeline.queries import first_captions
from mova_jax.data.tokenizer import pad_tokens
from mova_jax.evaluation.context import EvalContext, Evaluation

SHOWN = 5  # labels that an error names


def classification(context: EvalContext) -> dict[str, float]:
    """How often the right class is first.

    Returns:
        `class/<score>/top1`, `class/<score>/top5` and `class/<score>/mean_per_class` (top-1 of
        each class, averaged over classes) in percent for the scores `global` and `frames`;
        `class/classes` and `class/videos`. Classes that tie count half, as in `ranks.py`. Empty
        without `context.classes`.

    Raises:
        ClassesError: a video has no label that is a class.
    """
    if context.classes is None:
        return {}
    right = video_labels(context)
    embedded = class_embeddings(context)
    scores = context.fns.class_scores(context.params, context.embeddings.video, embedded)
    if not context.config.model.modular_scale:
        del scores["frames"]
    metrics = {}
    for name, found in scores.items():
        metrics |= {f"class/{name}/{k}": v for k, v in accuracy(found, right).items()}
    return metrics | {"class/classes": float(len(embedded)), "class/videos": float(len(right))}


def accuracy(scores: Float[np.ndarray, "b k"], right: Int[np.ndarray, "b"]) -> dict[str, float]:
    """Top-1, top-5 and top-1 per class, in percent.

    Args:
        scores: of videos with classes.
        right: the class of each video.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    above, level = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
    ranks = 1 + above + 0.5 * level
    of_class = [(ranks[right == k] <= 1).mean() for k in np.unique(right)]
    return {
        "top1": 100.0 * float((ranks <= 1).mean()),
        "top5": 100.0 * float((ranks <= 5).mean()),
        "mean_per_class": 100.0 * float(np.mean(of_class)),
    }


def class_embeddings(context: EvalContext) -> Float[np.ndarray, "k d"]:
    """One vector of length 1 for each class, in the order of the file."""
    classes, encode = context.classes, context.tokenizer.encode
    prompts = [
        template.replace("{}", name)
        for names in classes.names.values()
        for name in names
        for template in classes.templates
    ]
    rows, found = context.fns.rows, []
    tokens = pad_tokens(
        [encode(prompt).ids for prompt in prompts],
        context.settings.buckets,
        context.tokenizer.pad_id,
    )
    with context.progress("prompts", len(prompts), "prompt") as bar:
        for start in range(0, len(prompts), rows):
            block = [array[start : start + rows] for array in tokens]
            pooled = context.fns.encode_text(context.params, *block).pooled
            found.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
            bar.update(len(pooled))
    counts = np.array([len(names) for names in classes.names.values()]) * len(classes.templates)
    # Sums in place of means: they have the same direction.
    sums = np.add.reduceat(np.concatenate(found), np.cumsum(counts) - counts, axis=0)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def video_labels(context: EvalContext) -> Int[np.ndarray, "b"]:
    """The class of each video, a row of `class_embeddings`."""
    classes, place = context.classes, {}
    for row, (label, names) in enumerate(classes.names.items()):
        place |= {name.strip().casefold(): row for name in (label, *names)}
    rows, unknown = [], []
    for name, caption in first_captions(context.folder, context.split, context.num_videos):
        text = classes.videos.get(name, caption)
        rows.append(place.get(text.strip().casefold(), -1))
        if rows[-1] < 0:
            unknown.append(f"video {name!r} has {text!r}")
    if unknown:
        raise ClassesError(
            f"{len(unknown)} of {len(rows)} videos of {context.split} have no class: "
            f"{unknown[0]}, expected one of {_some(classes.names)}; name the class in the first "
            'caption, or give {id: label} as "videos" in the file of classes'
        )
    return np.array(rows)


def _some(labels: Mapping[str, Any]) -> str:
    shown = list(labels)[:SHOWN]
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


EVALUATION = Evaluation(
    classification,
    "Zero-shot classification",
    "Videos are assigned to the class whose prompts they fit best; a class is the mean of the "
    "normalised embeddings of its names in all templates, as in open_clip. By the global embedding "
    "of the video, and by its frames, pooled as those of a caption, without masks. In %; mean per "
    "class: top-1 of each class, averaged over classes.",
    labels={
        f"class/{score}/{metric}": f"{label}, {title}"
        for score, title in (("global", "global score"), ("frames", "frames"))
        for metric, label in (
            ("top1", "top-1"),
            ("top5", "top-5"),
            ("mean_per_class", "mean per class"),
        )
    }
    | {"class/classes": "classes", "class/videos": "videos"},
    final_only=True,
)
