"""What is taken of a record in training and evaluation: which frames, which of its words.

    picked = choose_frames(record.timestamps, frames=64, policy="jittered", rng=rng)
    text = choose_caption(record, rng, policy="prefix", short_caption_share=0.2)
    frame, text = choose_moment(record, rng)

Whatever is random takes its generator from the caller, so that a choice depends on nothing but
(seed, position). Without a generator the choice is that of evaluation: even frames, all sentences.
"""

import numpy as np

from mova_jax.data.shards import VideoRecord

FRAME_POLICIES = ("jittered", "even", "dense", "fps1")
CAPTION_POLICIES = ("all", "prefix", "one")


def choose_frames(
    timestamps: np.ndarray,
    frames: int,
    policy: str = "even",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frames of a video, in order, each at most once.

    Args:
        timestamps: float[available], seconds, ascending.
        frames: number of frames wanted. A video that has no more gives all (of `fps1`: all of its
            seconds).
        policy: one of
            `even`: the middle frame of each of `frames` equal segments of the frames;
            `jittered`: a random frame of each of these segments, all equally likely;
            `dense`: a run of neighbours, each place where it may begin equally likely;
            `fps1`: the frame nearest to each whole second (the earlier one of two) from the first
            frame to the last, thinned evenly where there are too many.
        rng: None takes `even`, whatever the policy.

    Returns:
        Strictly ascending indices, i64[at most frames].

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in FRAME_POLICIES:
        raise ValueError(f"no frame policy {policy!r}; there are {', '.join(FRAME_POLICIES)}")
    available = len(timestamps)
    if rng is not None and policy == "fps1":
        seconds = _whole_seconds(timestamps)
        return seconds[even_numbers(len(seconds), frames)]
    if rng is None or policy == "even" or available <= frames:
        return even_numbers(available, frames)
    if policy == "dense":
        start = rng.integers(available - frames + 1)
        return np.arange(start, start + frames)
    edges = _edges(available, frames)
    return rng.integers(edges[:-1], edges[1:])


def even_numbers(available: int, wanted: int) -> np.ndarray:
    """The middle ones of equal segments of 0 to available - 1; all when there are no more."""
    if available <= wanted:
        return np.arange(available)
    edges = _edges(available, wanted)
    return (edges[:-1] + edges[1:]) // 2


def _edges(available: int, segments: int) -> np.ndarray:
    """Where equal segments begin and end, i64[segments + 1]."""
    return np.arange(segments + 1) * available // segments


def _whole_seconds(timestamps: np.ndarray) -> np.ndarray:
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
) -> str:
    """The text a video is paired with: of its sentences, now and then a short alternative.

    Args:
        record: the video.
        rng: None always gives all sentences.
        short_caption_share: probability in [0, 1] of one of `record.alternatives` (uniformly) in
            place of the sentences, for records that have any. Alternatives come in by this alone:
            they do not count as sentences.
        policy: one of
            `all`: all sentences, joined by a space;
            `prefix`: the first n of them, n = 1 to all equally likely;
            `one`: one of them, all equally likely.

    Raises:
        ValueError: the record has no caption, so there is nothing to align it with, or there is no
            such policy.
    """
    if policy not in CAPTION_POLICIES:
        raise ValueError(f"no caption policy {policy!r}; there are {', '.join(CAPTION_POLICIES)}")
    if rng is not None and record.alternatives and rng.random() < short_caption_share:
        return record.alternatives[rng.integers(len(record.alternatives))]
    text = record.caption.strip()
    if not text:
        raise ValueError(
            f"record {record.id!r} has no caption text: leave the video out of the shards or give "
            "it a caption"
        )
    if rng is None or policy == "all":
        return text
    sentences = [caption.text for caption in record.captions if caption.text.strip()]
    drawn = rng.integers(len(sentences))
    return sentences[drawn] if policy == "one" else " ".join(sentences[: drawn + 1])


def choose_moment(record: VideoRecord, rng: np.random.Generator) -> tuple[int, str]:
    """A video as image-caption data: one frame, and a sentence that holds while it is shown.

    Args:
        record: the video. Where none of its sentences has a time that a frame falls into, it is
            any frame with any of them: the whole of a long caption says less of one frame.
        rng: of the choice; every sentence has the same probability, and so has every frame of it.

    Returns:
        Index of the frame, and the text.

    Raises:
        ValueError: the record has no caption.
    """
    times = record.timestamps
    moments = [
        (np.flatnonzero((caption.start <= times) & (times < caption.end)), caption.text)
        for caption in record.captions
        if caption.timed
    ]
    moments = [(frames, text) for frames, text in moments if len(frames)]
    if not moments:
        choose_caption(record)  # refuses a record without any
        everywhere = np.arange(len(record.frames))
        moments = [
            (everywhere, caption.text) for caption in record.captions if caption.text.strip()
        ]
    frames, text = moments[rng.integers(len(moments))]
    return int(rng.choice(frames)), text
