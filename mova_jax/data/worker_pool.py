"""Worker processes that end with the process that started them."""

import os
import signal
import threading
import time


def exit_with_parent(parent: int, *worker: int) -> None:
    """Initialises a worker process, so that it ends when its parent does, even when that is killed.

    The worker ignores Ctrl-C: the parent handles it, and may want to save first.

    Args:
        parent: id of the process that started this one.
        worker: number and count of the workers, which Grain passes; unused.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
