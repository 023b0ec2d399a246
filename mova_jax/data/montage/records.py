"""The records of montages and of single pictures.

record = montage(rng, "test-000000", shown, frames, every=1.0, captions=5)
record = picture(item, views_of(rng, image, 16), sentences=5, size=96)
"""

import json
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from mova_jax.data.images import decode_image, encode_jpeg, image_size
from mova_jax.data.montage.items import CaptionedItem
from mova_jax.data.montage.plan import Shown
from mova_jax.data.pipeline.sampling import even_numbers
from mova_jax.data.shards import Caption, VideoRecord


def montage(
    rng: np.random.Generator,
    name: str,
    shown: Sequence[tuple[CaptionedItem, Shown]],
    frames: Callable[[CaptionedItem], tuple[bytes, ...]],
    every: float,
    captions: int,
) -> VideoRecord:
    """The record of one montage.

    Its caption and its alternatives have a sentence of each named item, in the order of time, from
    different captions of the item as far as it has them. `truth` has `events`, with the `item`,
    its `start` and `end` in seconds, and whether it is `named`.

    Args:
        rng: of the captions.
        name: of the video.
        shown: the items in order, at least one of them named.
        frames: the frames of an item, all of one size; they are repeated, or thinned evenly, for
            the time that it is shown.
        every: seconds between two stored frames.
        captions: paragraphs at most, the caption and alternatives.
    """
    at, images, events, named = 0, [], [], []
    for item, plan in shown:
        found = frames(item)
        images += [found[index] for index in _shown_frames(len(found), plan.frames)]
        times = {"start": at * every, "end": (at + plan.frames) * every}
        events.append({"item": item.id, **times, "named": plan.named})
        at += plan.frames
        if plan.named:
            named.append((rng.permutation(item.captions).tolist(), times))
    most = min(captions, max(len(texts) for texts, _ in named))
    paragraphs = [
        " ".join(texts[number % len(texts)] for texts, _ in named) for number in range(1, most)
    ]
    height, width = image_size(images[0])
    return VideoRecord(
        id=name,
        frames=tuple(images),
        height=height,
        width=width,
        timestamps=np.arange(at, dtype=np.float32) * np.float32(every),
        duration=at * every,
        captions=tuple(Caption(texts[0], **times) for texts, times in named),
        alternatives=tuple(paragraphs),
        source=f"montage of {len(shown)}",
        truth=json.dumps({"events": events}),
    )


def _shown_frames(available: int, wanted: int) -> np.ndarray:
    """Which frames are shown, ascending: each equally often, or even ones of many."""
    if available > wanted:
        return even_numbers(available, wanted)
    return np.arange(wanted) * available // wanted


def picture(item: CaptionedItem, views: Sequence[bytes], sentences: int, size: int) -> VideoRecord:
    """The record of a picture, a video whose frames are views of it.

    Args:
        item: the picture.
        views: at least one.
        sentences: of its captions, how many are the sentences of the caption, from the first; the
            others are alternatives.
        size: of the views, pixels a side.
    """
    return VideoRecord(
        id=item.id,
        frames=tuple(views),
        height=size,
        width=size,
        timestamps=np.arange(len(views), dtype=np.float32),
        duration=float(len(views)),
        captions=tuple(map(Caption, item.captions[:sentences])),
        alternatives=item.captions[sentences:],
        source=item.video,
    )


def views_of(rng: np.random.Generator, image: bytes, count: int) -> list[bytes]:
    """A picture and `count - 1` views of it, as JPEG bytes."""
    if count == 1:
        return [image]
    pixels = Image.fromarray(decode_image(image))
    return [image, *(encode_jpeg(_view(rng, pixels)) for _ in range(count - 1))]


def _view(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """A crop of half the picture or more, of nearly its shape, mirrored half of the time."""
    width, height = image.size
    area, shape = rng.uniform(0.5, 1.0), np.exp(rng.uniform(-0.25, 0.25))
    w = min(width, width * np.sqrt(area * shape))
    h = min(height, height * np.sqrt(area / shape))
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    view = image.resize(image.size, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)
