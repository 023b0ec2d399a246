"""Which captions of a split ask for its videos, and the token ids of each.

Papers search MSVD and the full MSR-VTT with every caption of a video, the others with one caption a
video. Which of the two it is belongs to the data set, so the manifest of its shards says it:

    queries = protocol(folder, config.eval.queries)              # "caption" or "all"
    captions = eval_captions(folder, "test", tokenizer, queries=queries)
    captions.video                                               # [0 0 0 1 1 2 ...]
"""

import dataclasses
import os

import numpy as np

from mova_jax.data import choices, shards, sources
from mova_jax.data.annotations.items import CAPTION, QUERIES
from mova_jax.data.tokenizer import Tokenizer

FROM_DATA = "data"  # of `config.eval.queries`: as the shards say


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions that ask, in the order of their videos.

    Attributes:
        video: i64[c], index in the split of the video that each caption belongs to.
        ids: token ids of each, i32[at most max_tokens].
    """

    video: np.ndarray
    ids: tuple[np.ndarray, ...]

    @property
    def tokens(self) -> np.ndarray:
        """i64[c], how many tokens each has."""
        return np.array([len(ids) for ids in self.ids])


def protocol(folder: str | os.PathLike, queries: str = FROM_DATA) -> str:
    """`caption`: one caption a video asks; `all`: every caption of a video.

    Args:
        folder: shard folder.
        queries: one of these, or `data` for what the shards say; those that say nothing are
            searched by one caption a video.

    Raises:
        ShardError: the shards cannot be read, or say something else.
    """
    if queries != FROM_DATA:
        return queries
    if sources.is_tfds(folder):
        return CAPTION  # TFDS has no word for it
    about = shards.read_manifest(folder).settings.get("dataset")
    found = about.get("queries", CAPTION) if isinstance(about, dict) else CAPTION
    if found not in QUERIES:
        raise shards.ShardError(
            f"The manifest of {folder} has settings.dataset.queries {found!r}, expected one of "
            f"{', '.join(QUERIES)}: correct it, or set eval.queries to one of them."
        )
    return found


def eval_captions(
    folder: str | os.PathLike,
    split: str,
    tokenizer: Tokenizer,
    limit: int = 0,
    queries: str = CAPTION,
) -> Captions:
    """The captions that ask for the videos of a split.

    Args:
        folder: shard folder.
        split: its name.
        tokenizer: of captions.
        limit: captions of the first so many videos only, 0 for all.
        queries: `caption` for the caption of each video (all its sentences), `all` for this one
            and all alternatives.

    Raises:
        ShardError: the shards, or one record, cannot be read.
        ValueError: a record has no caption.
    """
    source = sources.open_source(folder, split)
    owners, ids = [], []
    for video in range(min(limit or len(source), len(source))):
        record = source[video]
        texts = [choices.choose_caption(record)]
        if queries != CAPTION:
            texts += [text for text in record.alternatives if text.strip()]
        owners += [video] * len(texts)
        ids += [tokenizer.encode(text).ids for text in texts]
    return Captions(np.array(owners, np.int64), tuple(ids))
