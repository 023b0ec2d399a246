"""Memory used again: the system zeroes every new page, which costs more than what goes into it.

    keep_freed()                            # first in a process that reads records
    reused = BufferPool()
    frames = reused((4, 64, 224, 224, 3))   # u8, whatever was there before
    del frames                              # nor is there a view of it: it may be handed out again

Each `BufferPool` keeps what was held at once, of one size.
"""

import ctypes
import math
import threading
import weakref

import numpy as np

_KEPT = 2**27  # bytes
_LARGEST = 2**25  # bytes, as much as glibc allows
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed() -> None:
    """Lets this process keep up to 128 MiB of what it freed, in each arena of glibc's malloc.

    Reading a record takes several times its size for a moment. By its own rule malloc gives that
    back to the system after each record, in pages that are then asked for again one by one. Other
    C libraries have no such rule to set, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


class BufferPool:
    """Arrays in memory that is handed out again once nobody holds them, or a view of them.

    Whoever holds an array keeps it as it is: a list of batches, a view, JAX that reads it where it
    lies. Can be used by several threads; a pickled one has no memory yet.
    """

    def __init__(self):
        """Has no memory yet."""
        self._lock = threading.Lock()
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array to write, u8[shape]; what is in it is undefined."""
        size = math.prod(shape)
        with self._lock:
            held = [each for each in self._blocks if each[1]() is not None]
            free = [block for block, user in self._blocks if user() is None and len(block) == size]
            block = free.pop() if free else np.empty(size, np.uint8)
            # In NumPy all views, and views of views, refer to the array at the bottom: to this
            # one, for what it rests on itself is no array. So it lives as long as any of them.
            bottom = np.frombuffer(memoryview(block), np.uint8)
            self._blocks = [*held, (block, weakref.ref(bottom))]
        return bottom.reshape(shape)

    def __reduce__(self):
        return BufferPool, ()
