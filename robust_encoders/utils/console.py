"""What every command shares: exit codes, answers on stdout, tables, and the error of a command line without sense."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from robust_encoders.errors import RobustEncodersError

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2
EXIT_PIPE = 141  # what a shell says of a program that SIGPIPE ended


class UsageError(RobustEncodersError):
    """A command line that parses, but contradicts itself or names what does not exist; raised by commands alone."""


def say(text: str) -> None:
    """Write an answer to stdout; end, as a signal would, where nobody reads on."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:  # head, a pager
        _hang_up()


def say_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    say(json.dumps(value, indent=1, ensure_ascii=False))


def say_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values to stdout, one pair a line."""
    for line in columns([(key, str(value)) for key, value in fields.items()]):
        say(line)


def flush() -> None:
    """Send to stdout what was not sent yet; end as :func:`say` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _hang_up()


def fail(message: str, code: int) -> int:
    """Write an error to stderr and return its exit code."""
    sys.stderr.write(f"robust-encoders: {message}\n")
    return code


def _hang_up() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
    raise SystemExit(EXIT_PIPE)


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a line for each row, cells padded to the width of their column."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def choose(name: str, known: Collection[str], what: str) -> str:
    """Return ``name`` if it is known.

    Args:
        name: Name that was asked for.
        known: Names that exist.
        what: Kind of thing that has these names, for the message.

    Raises:
        UsageError: If it is not, with the closest names.
    """
    if name in known:
        return name
    close = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    raise UsageError(f"expected a {what}, found {name!r}; {hint}")
