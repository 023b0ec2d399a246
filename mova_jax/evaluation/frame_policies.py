"""Which frames of a long video are read: policies that share a budget, and every frame.

    indices = POLICIES["change"](vectors, times, 32)      # ascending, at most 32

    all       every stored frame, whatever the budget: the exact scan
    even      the middle frame of each of `budget` equal segments
    fps1      the frame nearest to each whole second, thinned evenly where they are too many; the
              same as `even` where frames are stored every second or less often
    first     the frame nearest to each whole second from the start, until the budget is used up:
              the rest of the video is not seen (CLIP4Clip with `slice_framepos 0`)
    windows   `WINDOWS` windows of consecutive frames, each in the middle of an equal segment
    change    frames that look different from all others that are taken (see `change_frames`)

A policy needs vectors of the frames that tell scenes apart: those of the model, or small pictures
as vectors. Only `change` reads them, so the others may get an array without columns.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from mova_jax.data.pipeline.sampling import even_numbers, whole_seconds

Policy = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

WINDOWS = 8


def even_frames(
    vectors: Float[np.ndarray, "f d"], times: Float[np.ndarray, "f"], budget: int
) -> Int[np.ndarray, "k"]:
    """The middle frame of each of `budget` equal segments; see `sampling.even_numbers`."""
    return even_numbers(len(times), budget)


def fps1_frames(
    vectors: Float[np.ndarray, "f d"], times: Float[np.ndarray, "f"], budget: int
) -> Int[np.ndarray, "k"]:
    """The frame nearest to each whole second, thinned evenly."""
    seconds = whole_seconds(times)
    return seconds[even_numbers(len(seconds), budget)]


def first_frames(
    vectors: Float[np.ndarray, "f d"], times: Float[np.ndarray, "f"], budget: int
) -> Int[np.ndarray, "k"]:
    """The frame nearest to each whole second from the start, at most `budget` of them."""
    return whole_seconds(times)[:budget]


def window_frames(
    vectors: Float[np.ndarray, "f d"],
    times: Float[np.ndarray, "f"],
    budget: int,
    windows: int = WINDOWS,
) -> Int[np.ndarray, "k"]:
    """Windows of consecutive frames, each in the middle of one of equal segments of the video.

    They are equally long and do not overlap, so up to `windows - 1` frames of the budget are left.
    """
    available = len(times)
    if available <= budget:
        return np.arange(available)
    windows = min(windows, budget)
    length = budget // windows
    edges = np.arange(windows + 1) * available // windows
    starts = (edges[:-1] + edges[1:] - length) // 2
    return (starts[:, None] + np.arange(length)).ravel()


def change_frames(
    vectors: Float[np.ndarray, "f d"], times: Float[np.ndarray, "f"], budget: int
) -> Int[np.ndarray, "k"]:
    """Greedy k-centre: the first frame, then again and again the one farthest from all taken.

    A scene that returns is taken once, however long it lasts, and an event that is short but looks
    like nothing else is taken early: no frame of the video is farther from a taken one than twice
    the least distance that any choice of `budget` frames can reach (T. Gonzalez, Clustering to
    minimize the maximum intercluster distance, 1985). Distance is the angle of vectors. Time is
    f * budget products of vectors, memory the vectors and one number a frame.

    Args:
        vectors: of the frames, float of any width; a zero vector is at a right angle to all.
        times: seconds; only their number is used.
        budget: number of frames, at least 1.

    Returns:
        Ascending indices. Of frames at the same distance, the earlier one.
    """
    if len(times) <= budget:
        return np.arange(len(times))
    unit = np.asarray(vectors, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
    taken = [0]
    nearest = unit @ unit[0]  # of each frame, its highest cosine with a taken one
    while len(taken) < budget:
        nearest[taken[-1]] = np.inf
        taken.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, unit @ unit[taken[-1]])
    return np.sort(taken)


def all_frames(
    vectors: Float[np.ndarray, "f d"], times: Float[np.ndarray, "f"], budget: int
) -> Int[np.ndarray, "f"]:
    """Every frame."""
    return np.arange(len(times))


POLICIES: dict[str, Policy] = {
    "all": all_frames,
    "even": even_frames,
    "fps1": fps1_frames,
    "first": first_frames,
    "windows": window_frames,
    "change": change_frames,
}
