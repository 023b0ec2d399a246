"""Chooses the frames and the caption of a record, for training and evaluation.

    picked = choose_frames(record.timestamps, frames=64, policy="jittered", rng=rng)
    text, sentences = choose_caption(record, rng, policy="prefix", short_caption_share=0.2)
    frame, caption = choose_moment(record, rng)

The caller passes the random generator, so that a choice depends on (seed, position) alone. Without
a generator the choice is that of evaluation: even frames, all sentences.
"""

from typing import NamedTuple

import numpy as np

from mova_jax.data.sentences import split_sentences
from mova_jax.data.shards import VideoRecord

FRAME_POLICIES = ("jittered", "even", "dense", "fps1")
CAPTION_POLICIES = ("all", "prefix", "one")


class ChosenCaption(NamedTuple):
    """A text and its sentences, which have the same words in the same order."""

    text: str
    sentences: tuple[str, ...]

    @classmethod
    def split(cls, text: str) -> "ChosenCaption":
        """A text whose sentences are found by their ends."""
        return cls(text, tuple(split_sentences(text)))


def choose_frames(
    timestamps: np.ndarray,
    frames: int,
    policy: str = "even",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frames of a video, in order, each at most once.

    Args:
        timestamps: float[available], seconds, ascending.
        frames: number of frames wanted. A shorter video gives all (with `fps1`: all its seconds).
        policy: one of
            `even`: the middle frame of each of `frames` equal segments of the frames;
            `jittered`: a random frame of each of these segments, all equally likely;
            `dense`: consecutive frames, each possible start equally likely;
            `fps1`: the frame nearest to each whole second (the earlier one of two) from the first
            frame to the last, thinned evenly where there are too many.
        rng: with None the policy is `even`.

    Returns:
        Strictly ascending indices, i64[at most frames].

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in FRAME_POLICIES:
        raise ValueError(f"no frame policy {policy!r}; there are {', '.join(FRAME_POLICIES)}")
    available = len(timestamps)
    if rng is not None and policy == "fps1":
        seconds = whole_seconds(timestamps)
        return seconds[even_numbers(len(seconds), frames)]
    if rng is None or policy == "even" or available <= frames:
        return even_numbers(available, frames)
    if policy == "dense":
        start = rng.integers(available - frames + 1)
        return np.arange(start, start + frames)
    edges = _edges(available, frames)
    return rng.integers(edges[:-1], edges[1:])


def even_numbers(available: int, wanted: int) -> np.ndarray:
    """The middle of each of `wanted` equal segments of range(available); all of it if shorter."""
    if available <= wanted:
        return np.arange(available)
    edges = _edges(available, wanted)
    return (edges[:-1] + edges[1:]) // 2


def _edges(available: int, segments: int) -> np.ndarray:
    """The bounds of equal segments, i64[segments + 1]."""
    return np.arange(segments + 1) * available // segments


def whole_seconds(timestamps: np.ndarray) -> np.ndarray:
    """Frames nearest to whole seconds, ascending, each once."""
    times = np.asarray(timestamps, np.float64)
    seconds = np.arange(np.ceil(times[0] - 0.5), np.floor(times[-1] + 0.5) + 1)
    after = np.searchsorted(times, seconds).clip(1, max(1, len(times) - 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    return np.unique(np.where(seconds - times[before] <= times[after] - seconds, before, after))


def choose_caption(
    record: VideoRecord,
    rng: np.random.Generator | None = None,
    short_caption_share: float = 0.0,
    policy: str = "all",
) -> ChosenCaption:
    """The text that a video is paired with: its sentences, or sometimes a short alternative.

    The sentences are those of the record. Where it has but one, this is often a paragraph, and is
    split at sentence ends, as alternatives are.

    Args:
        record: the video.
        rng: with None all sentences.
        short_caption_share: probability in [0, 1] of one of `record.alternatives` (uniformly) in
            place of the sentences, for records that have any. The policy draws from sentences only.
        policy: one of
            `all`: all sentences, joined by a space;
            `prefix`: the first n of them, n = 1 to all equally likely;
            `one`: one of them, all equally likely.
            It draws from the sentences of the record and does not split them.

    Raises:
        ValueError: the record has no caption, or there is no such policy.
    """
    if policy not in CAPTION_POLICIES:
        raise ValueError(f"no caption policy {policy!r}; there are {', '.join(CAPTION_POLICIES)}")
    if rng is not None and record.alternatives and rng.random() < short_caption_share:
        return ChosenCaption.split(record.alternatives[rng.integers(len(record.alternatives))])
    sentences = _sentences(record)
    if rng is None or policy == "all":
        return _chosen(record, record.caption.strip(), sentences)
    drawn = rng.integers(len(sentences))
    chosen = sentences[drawn : drawn + 1] if policy == "one" else sentences[: drawn + 1]
    return _chosen(record, " ".join(chosen), chosen)


def _chosen(record: VideoRecord, text: str, sentences: list[str]) -> ChosenCaption:
    """A text with its sentences, which the record gives if it has several."""
    several = sum(bool(caption.text.strip()) for caption in record.captions) > 1
    return ChosenCaption(text, tuple(sentences)) if several else ChosenCaption.split(text)


def _sentences(record: VideoRecord) -> list[str]:
    """The sentences of a record that are not blank, at least one."""
    sentences = [caption.text for caption in record.captions if caption.text.strip()]
    if not sentences:
        raise ValueError(
            f"record {record.id!r} has no caption text: leave the video out of the shards or give "
            "it a caption"
        )
    return sentences


def choose_moment(record: VideoRecord, rng: np.random.Generator) -> tuple[int, ChosenCaption]:
    """A video as image-caption data: one frame, and a sentence that holds at its time.

    Args:
        record: the video. If no frame falls into the time of a sentence, any frame goes with any
            sentence, for all sentences of a long caption together say little of one frame.
        rng: every sentence is equally likely, and every frame of its time.

    Returns:
        Index of the frame, and the sentence; the only one of a record may be several, a paragraph.

    Raises:
        ValueError: the record has no caption.
    """
    times = record.timestamps
    moments = []
    for caption in (caption for caption in record.captions if caption.timed):
        held = [(start <= times) & (times < end) for start, end in caption.windows]
        moments.append((np.flatnonzero(np.any(held, axis=0)), caption.text))
    moments = [(frames, text) for frames, text in moments if len(frames)]
    if not moments:
        every = np.arange(len(record.frames))
        moments = [(every, text) for text in _sentences(record)]
    frames, text = moments[rng.integers(len(moments))]
    return int(rng.choice(frames)), _chosen(record, text, [text])
