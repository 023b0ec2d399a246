"""What is done to one record on its way into a batch: frames chosen, captions chosen, JPEG decoded.

In goes a `VideoRecord` of the shards, out come frame indices, a caption, a decoded image, or token
ids padded to a common length. Everything here is plain NumPy without state. Whatever is random
takes its generator from the caller, so that a batch depends on nothing but (seed, position):

    picked = sample_frame_indices(len(record.frames), frames=64, rng=rng)
    text = choose_caption(record, rng=rng, short_caption_share=0.2)
    decode_frame(record.frames[picked[0]], out=images[0])
    tokens, token_mask = pad_tokens([tokenizer.encode(text).ids], buckets, tokenizer.pad_id)
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from mova_jax.data.shards import VideoRecord


def sample_frame_indices(
    available: int, frames: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Frames spread evenly over a video, one from each of `frames` equal segments.

    Args:
        available: number of frames the record holds.
        frames: number of frames wanted.
        rng: None takes the middle of every segment (evaluation); a generator takes a random frame
            of every segment (training), each with the same probability.

    Returns:
        Strictly increasing indices, i64[min(available, frames)]; all of them when the record has
        no more than what is wanted.
    """
    if available <= frames:
        return np.arange(available)
    edges = np.arange(frames + 1) * available // frames
    if rng is None:
        return (edges[:-1] + edges[1:]) // 2
    return rng.integers(edges[:-1], edges[1:])


def choose_caption(
    record: VideoRecord,
    rng: np.random.Generator | None = None,
    short_caption_share: float = 0.0,
) -> str:
    """The text a video is paired with: all its sentences, now and then a short alternative.

    Args:
        record: the video.
        rng: None always gives the whole caption.
        short_caption_share: probability in [0, 1] of one of `record.alternatives` (uniformly) in
            place of the whole caption, for records that have any.

    Raises:
        ValueError: the record has no caption, so there is nothing to align it with.
    """
    if rng is not None and record.alternatives and rng.random() < short_caption_share:
        return record.alternatives[rng.integers(len(record.alternatives))]
    text = record.caption.strip()
    if not text:
        raise ValueError(
            f"record {record.id!r} has no caption text: leave the video out of the shards or give "
            "it a caption"
        )
    return text


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


def bucket_length(longest: int, buckets: Sequence[int]) -> int:
    """The smallest of the ascending `buckets` that holds `longest` tokens.

    Raises:
        ValueError: no bucket is long enough; the tokenizer truncates at another length than the
            largest bucket.
    """
    for bucket in buckets:
        if longest <= bucket:
            return bucket
    raise ValueError(
        f"a caption of {longest} tokens fits none of the token buckets {tuple(buckets)}: make the "
        "tokenizer with max_tokens equal to the largest bucket"
    )


def pad_tokens(
    sequences: Sequence[np.ndarray], buckets: Sequence[int], pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of several texts as one array, as short as the buckets allow.

    Args:
        sequences: ids of each text, i32[at most the largest bucket].
        buckets: ascending lengths; few different ones, for each is a shape to compile.
        pad_id: the id that fills up.

    Returns:
        tokens i32[b l] and token_mask bool[b l], True where a token is.
    """
    lengths = np.array([len(ids) for ids in sequences])
    length = bucket_length(int(lengths.max(initial=0)), buckets)
    token_mask = np.arange(length) < lengths[:, None]
    tokens = np.full(token_mask.shape, pad_id, np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    return tokens, token_mask


def decode_frame(jpeg: bytes, out: np.ndarray) -> None:
    """Decodes an image straight into `out`, resized and cropped only when its size differs.

    Resizing brings the short side to the side of `out` (bicubic, antialiased) and keeps the centre
    square, in one pass over the pixels that stay.

    Args:
        jpeg: a whole JPEG file.
        out: u8[H W 3] RGB with H = W, C-contiguous; overwritten.

    Raises:
        ValueError: the bytes are no JPEG, or one that is cut short or damaged.
    """
    height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    if (height, width) == out.shape[:2]:
        simplejpeg.decode_jpeg(jpeg, buffer=out)
        return
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(simplejpeg.decode_jpeg(jpeg))
    out[...] = image.resize(
        out.shape[1::-1],
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )
