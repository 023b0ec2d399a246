"""A sentence looks for the untrimmed video that it describes a part of.

Partially relevant video retrieval, as MS-SL (Dong et al., 2022) reports it on TVR, ActivityNet
Captions and Charades-STA: every timed sentence of the split is a query, the gallery is all videos
of the split, one of them is right. A pair is scored as a caption of that one sentence is: by the
global score, and by the modular score of a caption of one part, which pools over the frames of the
whole video and is not shown the time of the sentence.

A text that one video has at several times is one query. A text that two videos have is a query of
each, and the other video counts as wrong, as in the papers.
"""

import numpy as np

from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.protocols.groups import (
    LENGTHS,
    SHARES,
    by_length,
    by_share,
    group_labels,
    grouped,
    video_seconds,
)
from mova_jax.evaluation.query_ranks import KeptRanks
from mova_jax.evaluation.retrieval import r1_interval

PLACES = (1, 5, 10, 100)


def sentence_retrieval(context: EvalContext) -> dict[str, float]:
    """Recalls of sentences among all videos.

    Returns:
        `sentence/<metric>` of the score of record and `sentence/<score>/<metric>` of the others,
        for metric in `r1`, `r5`, `r10`, `r100` (percent), `sumr` (their sum), `mdr` (median rank);
        of the score of record also `sentence/r1_low`, `sentence/r1_high` (95 %,
        the unit is the video) and `sentence/<group>/<metric>` (`groups.py`); `sentence/queries` and
        `sentence/gallery`. Empty without timed sentences.
    """
    search = context.sentence_search
    if search is None:
        return {}
    ranks, record = search.ranks, search.ranks.record
    metrics = {}
    for name, both in ranks.by_score.items():
        prefix = "sentence" if name == record else f"sentence/{name}"
        found = recalls(both.t2v.values)
        metrics |= {f"{prefix}/{metric}": value for metric, value in found.items()}
    best = ranks.by_score[record].t2v
    by_score = {name: both.t2v for name, both in ranks.by_score.items()}
    context.other_ranks["sentence"] = KeptRanks(by_score, search.texts.video)
    low, high = r1_interval(best, search.texts.video)
    metrics |= {"sentence/r1_low": low, "sentence/r1_high": high}
    groups = grouped(query_groups(context), lambda rows: recalls(best.values[rows]))
    metrics |= {f"sentence/{name}": value for name, value in groups.items()}
    counts = {"queries": len(search.queries), "gallery": context.num_videos}
    return metrics | {f"sentence/{name}": float(count) for name, count in counts.items()}


def recalls(ranks: np.ndarray) -> dict[str, float]:
    """R@1, 5, 10 and 100 in percent, their sum, and the median rank."""
    found = {f"r{k}": 100.0 * float(np.mean(ranks <= k)) for k in PLACES}
    return found | {"sumr": sum(found.values()), "mdr": float(np.median(ranks))}


def query_groups(context: EvalContext) -> dict[str, np.ndarray]:
    """The sentences of `context.sentence_search` by length of video and by share of their moment.

    Several windows of a sentence are added up.
    """
    search, embeddings = context.sentence_search, context.embeddings
    seconds = video_seconds(embeddings.timestamps, embeddings.video.frame_mask)
    seconds = seconds[search.texts.video]
    moments = np.array([np.diff(query.windows).sum() for query in search.queries])
    return by_length(seconds) | by_share(moments / seconds)


_METRICS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "r100": "R@100", "sumr": "SumR"}

EVALUATION = Evaluation(
    sentence_retrieval,
    "Sentence to untrimmed video",
    "Every timed sentence of the split searches all its videos (partially relevant video "
    "retrieval); a text that one video has at several times is one query. R@K: share of the "
    "sentences whose video has rank at most K, in %; SumR: the sum of the four. By the score of "
    "record unless another is named. Groups: by the length of the video, and by the share of the "
    "video that the sentence describes.",
    labels={f"sentence/{name}": label for name, label in _METRICS.items()}
    | {"sentence/mdr": "median rank", "sentence/queries": "sentences", "sentence/gallery": "videos"}
    | {f"sentence/global/{k}": f"{_METRICS[k]}, global score" for k in ("r1", "sumr")}
    | group_labels("sentence", {"r1": "R@1", "sumr": "SumR"}, (*LENGTHS, *SHARES)),
    final_only=True,
)
