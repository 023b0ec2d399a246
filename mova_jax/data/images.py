"""What is done to the parts of a record on their way into a batch: images decoded, tokens padded.

decode_frame(record.frames[0], out=images[0])
tokens, token_mask = pad_tokens([tokenizer.encode(text).ids], buckets, tokenizer.pad_id)
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from mova_jax.data.ppm import is_ppm, ppm_pixels


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


def decode_frame(data: bytes, out: np.ndarray) -> None:
    """Decodes an image straight into `out`, resized and cropped only when its size differs.

    Resizing brings the short side to the side of `out` (bicubic, antialiased) and keeps the centre
    square, in one pass over the pixels that stay.

    Args:
        data: a whole JPEG file, or raw pixels as PPM, see `ppm.py`.
        out: u8[H W 3] RGB with H = W, C-contiguous; overwritten.

    Raises:
        ValueError: the bytes are neither, or are cut short or damaged.
    """
    if is_ppm(data):
        image = ppm_pixels(data)
        if image.shape == out.shape:
            out[...] = image
            return
    else:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        if (height, width) == out.shape[:2]:
            simplejpeg.decode_jpeg(data, buffer=out)
            return
        image = simplejpeg.decode_jpeg(data)
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    out[...] = Image.fromarray(image).resize(
        out.shape[1::-1],
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )
