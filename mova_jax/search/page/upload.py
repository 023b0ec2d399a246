"""A picture or a small video that is sent as a question: bounded in bytes, pixels and seconds.

with tempfile.NamedTemporaryFile() as file:
    await receive(request.stream(), file)
    frames = frames_of(file.name, size=224)      # u8[224 224 3], one a second
"""

import os
from collections.abc import AsyncIterable
from typing import BinaryIO

import numpy as np

from mova_jax.data.images import fit_image
from mova_jax.data.ingest.video_reader import DecodeError, VideoReader
from mova_jax.search.filters import QueryError

LARGEST = 2**26  # bytes
SECONDS = 120  # of a video, from its start


async def receive(stream: AsyncIterable[bytes], file: BinaryIO) -> None:
    """Writes what is sent to a file.

    Raises:
        QueryError: it is empty, or larger than `LARGEST`.
    """
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > LARGEST:
            raise QueryError(
                f"got a file of over {LARGEST >> 20} MB; ask with a picture or a short video, or "
                "in the terminal with --like, where there is no limit"
            )
        file.write(chunk)
    if not size:
        raise QueryError("got an empty file, expected a picture or a video")
    file.flush()


def frames_of(path: str | os.PathLike, size: int) -> list[np.ndarray]:
    """The frames of a picture or of the first `SECONDS` of a video, as large as a model reads them.

    Raises:
        QueryError: it is neither.
    """
    frames = []
    try:
        for frame in VideoReader(path, 1.0, size, end=SECONDS):
            frames.append(np.empty((size, size, 3), np.uint8))
            fit_image(frame, frames[-1])
    except DecodeError as error:
        raise QueryError(f"your file: {error}; expected a picture or a video") from error
    return frames
