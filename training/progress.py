"""Progress of long work: bars whose clock moves while one step takes long, in terminals, notebooks and log files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, TextIO

from tqdm import tqdm

# Seconds between two signs of life.
BEAT = 5.0
_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} left{postfix}"


class ProgressBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar of tqdm that shows the passed time every few seconds, also while one step takes minutes.

    In a log file, every sign of life is a line. Use it in a ``with`` block, which ends its thread.

    Args:
        args: Positional arguments of tqdm.
        beat: Seconds between two signs of life.
        kwargs: Keyword arguments of tqdm.
    """

    def __init__(self, *args: Any, beat: float = BEAT, **kwargs: Any) -> None:
        self._ended = Event()
        self._thread: Thread | None = None
        file = kwargs.get("file") or sys.stderr
        if not _is_terminal(file):
            kwargs = {"mininterval": beat, "bar_format": _LINE, **kwargs}
        super().__init__(*args, **kwargs)
        if not self.disable:
            self._thread = Thread(target=self._live, args=(beat,), name="progress", daemon=True)
            self._thread.start()

    def _live(self, beat: float) -> None:
        while not self._ended.wait(beat):
            self.refresh()

    def close(self) -> None:
        """End the signs of life, and show the last state."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        super().close()

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return the function that shows a state of the bar: it overwrites a terminal's line, and adds one to a log."""
        if _is_terminal(file):
            shown: Callable[[str], None] = tqdm.status_printer(file)
            return shown

        def add(state: str) -> None:
            if state.strip():
                file.write(f"{state.rstrip()}\n")
                file.flush()

        return add


def announce(text: str, *, shown: bool = True) -> None:
    """Write one line to stderr, above the bars.

    Args:
        text: The line.
        shown: False to write nothing.
    """
    if shown:
        tqdm.write(text, file=sys.stderr)


def passed(start: float) -> float:
    """Return the seconds since ``start``, a value of ``time.monotonic``."""
    return time.monotonic() - start


def duration(seconds: float) -> str:
    """Return a rounded length of time in words, such as ``40 seconds`` or ``3 hours``."""
    for unit, length, next_length in (("second", 1, 90), ("minute", 60, 5400), ("hour", 3600, 172800)):
        if seconds < next_length:
            n = max(1, round(seconds / length))
            return f"{n} {unit}{'s' if n > 1 else ''}"
    return f"{round(seconds / 86400)} days"


def _is_terminal(file: Any) -> bool:
    return bool(getattr(file, "isatty", lambda: False)())
