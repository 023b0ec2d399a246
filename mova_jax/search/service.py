"""A searcher that many people ask at once: one thread works, in the order of the questions."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mova_jax.search.filters import Filter
from mova_jax.search.progress import Indexing
from mova_jax.search.query import Answer, Question, Searcher

# Questions that are asked ahead: the number of sentences, and their length, which is padded to one
# of three, choose the program.
_SENTENCES = tuple("Something moves" + " to the left" * more + "." for more in (0, 4, 9))
WARM_UP = tuple(" ".join([one] * count) for one in _SENTENCES for count in (1, 2, 4))
_LOOK = 60.0  # seconds between two looks for files that are gone


class Library:
    """A searcher whose index is opened again when it has changed; one thread asks it."""

    def __init__(
        self,
        searcher: Searcher,
        reopen: Callable[[], object | None] = lambda: None,
        indexing: Callable[[], Indexing | None] = lambda: None,
    ):
        """Starts the thread.

        Args:
            searcher: of the index.
            reopen: the index as it is now, or None if it has not changed.
            indexing: how far the commands are that fill it; None when none runs.
        """
        self._searcher, self._reopen, self.indexing = searcher, reopen, indexing
        self._thread, self.waiting = ThreadPoolExecutor(1, "device"), 0
        self.warming_up = False
        self._missing = (None, 0.0, 0)  # index, time of the look, files that were gone

    @property
    def index(self):
        """The index of the last look."""
        return self._searcher.index

    @property
    def image_size(self) -> int:
        """Pixels of a side of the frames that the model reads."""
        return self._searcher.model.image_size

    def entry(self, id: str):
        """The entry with an id; None without."""
        return self.index.get(id)

    def warm_up(self) -> None:
        """Asks questions ahead in the background, so that the first one need not compile.

        Each of them waits for its turn, so that a question of a person comes before the next.
        """
        self.warming_up = True
        questions = [*WARM_UP, None]  # the last is a picture

        def ask(text: str | None) -> None:
            # What is wrong with the index is said to the first one who asks.
            with contextlib.suppress(Exception):
                self._searcher.search(text or self._black_picture())

        def ask_next(_=None) -> None:
            if not questions:
                self.warming_up = False
                return
            with contextlib.suppress(RuntimeError):  # the thread ends
                self._thread.submit(ask, questions.pop(0)).add_done_callback(ask_next)

        ask_next()

    def _black_picture(self) -> Question:
        picture = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return self._searcher.like_frames([picture], "a picture")

    async def refresh(self) -> None:
        """Looks whether videos came or went."""
        if not (self.waiting or self.warming_up):  # what waits for the device looks by itself
            await self._run(self._refresh)

    async def missing(self) -> int:
        """The number of videos whose files are gone, as of the last minute."""
        index, looked, _ = self._missing
        if index is not self.index or time.monotonic() - looked > _LOOK:
            self._missing = await asyncio.to_thread(self._look_for_files)
        return self._missing[2]

    async def search(self, text: str, top: int, where: Filter) -> tuple[Answer, ...]:
        """See `Searcher.search`."""
        return await self._run(lambda: self._search(text, top, where))

    async def like(
        self, frames: Sequence[np.ndarray], top: int, where: Filter
    ) -> tuple[Answer, ...]:
        """The videos that are like some frames u8[H W 3]."""
        like = self._searcher.like_frames
        return await self._run(lambda: self._search(like(frames, "your file"), top, where))

    def _search(self, question, top: int, where: Filter) -> tuple[Answer, ...]:
        self._refresh()
        return self._searcher.search(question, top, where)

    async def _run(self, work: Callable):
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.waiting -= 1

    def _refresh(self) -> None:
        if (index := self._reopen()) is not None:
            self._searcher.index = index

    def _look_for_files(self) -> tuple[object, float, int]:
        index = self.index
        gone = [e for e in index.entries if not any(os.path.exists(f.path) for f in e.files)]
        return index, time.monotonic(), len(gone)
