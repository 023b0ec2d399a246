"""Standard streams that cannot end a command: closed ones, ASCII-only ones, pipes that end.

A run of days may be started with its output in a pipe, `| head`, or in a terminal that is gone by
the evening. The command goes on, and what cannot be written any more is dropped.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

# The reader, or the terminal, is gone: nobody wants the rest.
_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class _Output(io.FileIO):
    """A stream of bytes that drops what cannot be written; `error` is why, if it matters."""

    error: OSError | None = None

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            return None  # a pipe that is full; the buffer above says so
        except OSError as error:
            if error.errno not in _GONE:
                self.error = error
            with open(os.devnull, "wb") as nowhere:
                # Libraries in C write here too, and ours would fail again and again.
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs the `main` of a command and exits with its code.

    The exit code is 1 when the command did its work but its output could not be written for a
    reason that its reader cannot know, such as a full disk.
    """
    outputs = protect_streams()
    try:
        code = main()
    except SystemExit as end:  # of a parser, after --help
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failed = [output.error for output in outputs if output.error]
    if failed:
        with contextlib.suppress(OSError):
            print(f"the output could not be written: {failed[0].strerror}", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def protect_streams() -> list[_Output]:
    """Replaces standard output and error by streams that accept everything.

    A stream that was closed is opened on nothing first: the next file to be opened would get its
    number, and messages would be written into it. A character that the encoding of a stream lacks
    is written as its escape.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, mode)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    sys.stdin = sys.stdin or open(0, closefd=False)
    found = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old is not None:
            old.flush()
        output = _Output(number, "wb", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=getattr(old, "encoding", "utf-8"),
            errors="backslashreplace",
            # On a terminal, and under PYTHONUNBUFFERED, each line appears at once.
            line_buffering=number == 2 or getattr(old, "write_through", False) or output.isatty(),
        )
        setattr(sys, name, stream)
        found.append(output)
    return found
