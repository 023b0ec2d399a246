"""A sentence looks for its moment in its own video: R@n at an IoU, as the field reports it.

The queries are the timed sentences of the split, all of them: also those in whose span no frame was
sampled, which `evaluation/grounding.py` leaves out. A text that a video has at several times is one
query with several windows (QVHighlights), and an answer is compared with the window that it fits
best. The answers are the moments that `moments.py` proposes from the cosine of the sentence with
each frame, under the masks of the pair in models with masks.
"""

from collections.abc import Iterator

import numpy as np

from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.protocols.groups import LENGTHS, SHARES, group_labels, grouped
from mova_jax.evaluation.protocols.moments import KEPT, iou_with, padded_edges, propose
from mova_jax.evaluation.protocols.sentences import query_groups

IOUS = (0.3, 0.5, 0.7)
_BLOCK = 4096  # sentences at a time


def moment_grounding(context: EvalContext) -> dict[str, float]:
    """Recalls of the moments of sentences.

    Returns:
        `moment/r1_iou0.3` ... `moment/r5_iou0.7`: percent of sentences for which the first moment,
        or one of the first five, has that IoU with a window; `moment/miou`: mean IoU of the first,
        0 to 1; `moment/queries`; `moment/<group>/...` (`groups.py`). Empty without timed sentences.
    """
    if context.sentence_search is None:
        return {}
    ious = np.concatenate(list(_ious(context)))
    metrics = moment_recalls(ious) | {"queries": float(len(ious))}
    metrics |= grouped(query_groups(context), lambda rows: moment_recalls(ious[rows]))
    return {f"moment/{name}": value for name, value in metrics.items()}


def moment_recalls(ious: np.ndarray) -> dict[str, float]:
    """R@1 and R@5 at each IoU in percent, and the mean IoU of the first moment.

    Args:
        ious: `[q m]` of the moments of each sentence, the best moment first.
    """
    found = {
        f"r{n}_iou{iou}": 100.0 * float((ious[:, :n] >= iou).any(axis=1).mean())
        for n in (1, KEPT)
        for iou in IOUS
    }
    return found | {"miou": float(ious[:, 0].mean())}


def _ious(context: EvalContext) -> Iterator[np.ndarray]:
    """The IoUs `[q m]` of the moments of blocks of sentences."""
    video, sentences = context.embeddings.video, context.timed_sentences
    edges = padded_edges(context.embeddings.timestamps, video.frame_mask)
    for start in range(0, len(context.sentence_search.queries), _BLOCK):
        queries = context.sentence_search.queries[start : start + _BLOCK]
        rows = np.array([query.video for query in queries])
        scores = np.stack([sentences[query.place].modular for query in queries])
        moments = propose(scores, video.frame_mask[rows], edges[rows])
        yield iou_with(moments, [query.windows for query in queries])


_METRICS = {f"r1_iou{iou}": f"R@1, IoU {iou}" for iou in IOUS}

EVALUATION = Evaluation(
    moment_grounding,
    "Moments of sentences",
    "Every timed sentence of the split looks for its moment in its own video. R@n, IoU x: share of "
    "the sentences for which one of the first n proposed moments has an IoU of at least x with the "
    "true one, or with the best of several, in %. Moments are runs of frames whose cosine with the "
    "sentence reaches 0.3, 0.5 or 0.7 of the way from its lowest to its highest value, scored by "
    "their mean cosine, without overlaps above 0.5.",
    labels={f"moment/{name}": label for name, label in _METRICS.items()}
    | {"moment/miou": "mIoU, %"}
    | {f"moment/r{KEPT}_iou{iou}": f"R@{KEPT}, IoU {iou}" for iou in IOUS}
    | {"moment/queries": "sentences"}
    | group_labels("moment", {"r1_iou0.5": "R@1, IoU 0.5"}, (*LENGTHS, *SHARES)),
    final_only=True,
)
