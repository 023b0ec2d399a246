"""How worker processes live and end with the process that started them."""

import os
import signal
import threading
import time


def exit_with_parent(parent: int) -> None:
    """Runs first in a worker process, so that it ends with the process that started it.

    Ctrl-C is left to the parent, which may want to save first. A parent that was killed can tell
    nobody, and its workers would live on with its output open.

    Args:
        parent: number of the process to follow.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
