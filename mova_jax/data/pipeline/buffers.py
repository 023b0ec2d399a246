"""Buffer pool for frame batches.

    pool = BufferPool()
    frames = pool((4, 64, 224, 224, 3))   # u8, undefined contents
    del frames                            # and without a view of it, the memory is free for reuse

The system zeroes every new page, which costs more than decoding into it.
"""

import math
import threading
import weakref

import numpy as np


class BufferPool:
    """Arrays whose memory is reused once neither they nor views of them are referenced.

    A reference of any kind protects an array: a list of batches, a view, JAX reading it without a
    copy. Safe to use from several threads. Pickling drops the memory.
    """

    def __init__(self):
        """Starts without memory."""
        self._lock = threading.Lock()
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array u8[shape] with undefined contents."""
        size = math.prod(shape)
        with self._lock:
            held = [each for each in self._blocks if each[1]() is not None]
            free = [block for block, user in self._blocks if user() is None and len(block) == size]
            block = free.pop() if free else np.empty(size, np.uint8)
            # In NumPy a view of a view refers to the array at the bottom. That is this one, for its
            # own base is no array, so it lives as long as any view of it.
            bottom = np.frombuffer(memoryview(block), np.uint8)
            self._blocks = [*held, (block, weakref.ref(bottom))]
        return bottom.reshape(shape)

    def __reduce__(self):
        return BufferPool, ()
