"""Bars: on a terminal one line that is drawn again, in a log lines of their own."""

import io
import sys

import pytest

from mova_jax.utils.progress_bar import bar_of, show_frames


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_each_state_is_a_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with bar_of("videos", 40, initial=10) as bar:
        bar.mininterval = 0.0
        for _ in range(10):
            show_frames(bar, 8)
        with bar_of("inner", 2, range(2)) as inner:  # a second bar moves the cursor on a terminal
            assert list(inner) == [0, 1]
        bar.update(20)
    text = stream.getvalue()
    assert text.endswith("\n") and not {"\r", "\x1b"} & set(text) and "\n\n" not in text
    lines = text.splitlines()
    assert lines[0].startswith("videos:  25% 10/40 [00:00<?")
    assert lines[-1].startswith("videos: 100% 40/40 [") and "frame/s" in lines[-1]
    assert [line[:17] for line in lines if "inner" in line] == [
        "inner:   0% 0/2 [",
        "inner: 100% 2/2 [",
    ]


@pytest.mark.parametrize("delay", [0.0, 100.0])
def test_on_a_terminal_it_is_a_bar_and_short_work_shows_nothing(monkeypatch, delay):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(bar_of("videos", 3, range(3), delay=delay)) == [0, 1, 2]
    text = stream.getvalue()
    assert ("\rvideos: 100%|" in text, text.strip() == "") == (delay == 0, delay > 0)
