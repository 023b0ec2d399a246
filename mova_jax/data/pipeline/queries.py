"""Tokenised text queries of a split: captions for retrieval, timed sentences for grounding.

Papers query MSVD and the full MSR-VTT with every caption of a video, the others with one caption a
video. This protocol belongs to the data set, so it is in the manifest of the shards:

    queries = query_protocol(folder, config.eval.queries)        # "caption" or "all"
    captions = eval_captions(folder, "test", tokenizer, queries=queries)
    captions.video                                               # [0 0 0 1 1 2 ...]
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from mova_jax.data.annotations.items import CAPTION, QUERIES
from mova_jax.data.pipeline.sampling import ChosenCaption, choose_caption
from mova_jax.data.shards import ShardError, VideoRecord, read_manifest
from mova_jax.data.sources import is_tfds, open_source
from mova_jax.data.tokenizer import Tokenizer

FROM_DATA = "data"  # value of `config.eval.queries`: the protocol of the manifest


@dataclasses.dataclass(frozen=True)
class Captions:
    """The queries, in the order of their videos.

    Attributes:
        video: i64[c], index in the split of the video that each caption belongs to.
        ids: token ids of each, i32[at most max_tokens].
        parts: token ids of each part of each, i32[at most max_tokens]; () without parts.
    """

    video: np.ndarray
    ids: tuple[np.ndarray, ...]
    parts: tuple[tuple[np.ndarray, ...], ...] = ()

    @property
    def tokens(self) -> np.ndarray:
        """i64[c], the number of tokens of each."""
        return np.array([len(ids) for ids in self.ids])

    @property
    def most_parts(self) -> int:
        """The largest number of parts of a caption, 0 without parts."""
        return max(map(len, self.parts), default=0)

    @property
    def longest_part(self) -> int:
        """The number of tokens of the longest part, 0 without parts."""
        return max((len(ids) for parts in self.parts for ids in parts), default=0)


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of a caption with the windows in which it holds, a query for grounding.

    As a caption it has one part, itself.

    Attributes:
        video: index of the video in its split, the `video_id` of the batches.
        text: the sentence.
        windows: f64[w 2], start and end in seconds; none when not known.
        ids: token ids, i32[at most max_tokens].
    """

    video: int
    text: str
    windows: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class MomentQuery:
    """A text that holds in one or several windows of a video.

    Attributes:
        video: index of the video in its split.
        text: the sentence.
        ids: token ids, i32[at most max_tokens].
        windows: f64[w 2], start and end in seconds.
        place: of the first of its sentences in the list that it was made from.
    """

    video: int
    text: str
    ids: np.ndarray
    windows: np.ndarray
    place: int


def moment_queries(sentences: Sequence[Sentence]) -> list[MomentQuery]:
    """Timed sentences as queries; a text that a video has several times is one of them."""
    places: dict[tuple[int, str], list[int]] = {}
    for place, sentence in enumerate(sentences):
        places.setdefault((sentence.video, sentence.text), []).append(place)
    return [
        MomentQuery(
            video,
            text,
            sentences[mine[0]].ids,
            np.concatenate([sentences[i].windows for i in mine]),
            mine[0],
        )
        for (video, text), mine in places.items()
    ]


def query_protocol(folder: str | os.PathLike, queries: str = FROM_DATA) -> str:
    """`caption`: one caption a video is a query; `all`: every caption is one.

    Args:
        folder: shard folder.
        queries: one of these, or `data` for the protocol of the manifest; without one in the
            manifest it is `caption`.

    Raises:
        ShardError: the shards cannot be read, or their manifest has another protocol.
    """
    if queries != FROM_DATA:
        return queries
    if is_tfds(folder):
        return CAPTION  # TFDS has no field for it
    dataset = read_manifest(folder).settings.get("dataset")
    found = dataset.get("queries", CAPTION) if isinstance(dataset, dict) else CAPTION
    if found not in QUERIES:
        raise ShardError(
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
    parts: int = 0,
) -> Captions:
    """The captions that are queries for the videos of a split.

    Args:
        folder: shard folder.
        split: its name.
        tokenizer: of captions.
        limit: number of videos, from the first; 0 for all.
        queries: `caption` for the caption of each video (all its sentences), `all` for this one
            and all alternatives.
        parts: most parts of a caption, see `Tokenizer.encode_parts`; 0 for none.

    Raises:
        ShardError: the shards, or one record, cannot be read.
        ValueError: a record has no caption.
    """
    owners, captions = [], []
    for video, record in _records(folder, split, limit):
        found = [choose_caption(record)]
        if queries != CAPTION:
            found += [ChosenCaption.split(text) for text in record.alternatives if text.strip()]
        owners += [video] * len(found)
        captions += found
    return Captions(
        np.array(owners, np.int64),
        tuple(tokenizer.encode(caption.text).ids for caption in captions),
        tuple(tokenizer.encode_parts(caption.sentences, parts) for caption in captions if parts),
    )


def eval_sentences(
    folder: str | os.PathLike,
    split: str,
    tokenizer: Tokenizer,
    limit: int = 0,
    timed_only: bool = True,
) -> list[Sentence]:
    """The sentences of a split, in order.

    Args:
        folder: shard folder, or another source.
        split: its name.
        tokenizer: of captions.
        limit: number of videos, from the first; 0 for all.
        timed_only: leaves out sentences without a time.

    Raises:
        ShardError: the source, or one record, cannot be read.
    """
    return [
        Sentence(
            video,
            caption.text,
            np.reshape(caption.windows, (-1, 2)),
            tokenizer.encode(caption.text).ids,
        )
        for video, record in _records(folder, split, limit)
        for caption in record.captions
        if caption.timed or not timed_only
    ]


def first_captions(
    folder: str | os.PathLike, split: str, limit: int = 0
) -> Iterator[tuple[str, str]]:
    """The id and the first sentence of each video of a split, in order.

    Args:
        folder: shard folder, or another source.
        split: its name.
        limit: number of videos, from the first; 0 for all.

    Raises:
        ShardError: the source, or one record, cannot be read.
    """
    for _, record in _records(folder, split, limit):
        yield record.id, record.captions[0].text


def _records(
    folder: str | os.PathLike, split: str, limit: int
) -> Iterator[tuple[int, VideoRecord]]:
    """The records of a split in order, each with its index; at most `limit`, 0 for all."""
    source = open_source(folder, split)
    for video in range(min(limit or len(source), len(source))):
        yield video, source[video]
