"""Helpers for all commands: exit codes, answers on stdout, tables, and the error for a contradictory command line."""

from __future__ import annotations

import difflib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from robust_encoders.errors import RobustEncodersError
from robust_encoders.redaction import redacted

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2
EXIT_PIPE = 141  # a shell's exit code for a program that SIGPIPE ended


class UsageError(RobustEncodersError):
    """A command line parses, but contradicts itself or names something that does not exist; only commands raise it."""


def say(text: str) -> None:
    """Write an answer to stdout; if the reader closed the pipe, exit with the code of SIGPIPE."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:  # for example head or a pager that has quit
        hang_up()
    except OSError as error:
        _lose(error)


def say_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    say(json.dumps(value, indent=1, ensure_ascii=False))


def say_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values to stdout, one pair per line."""
    for line in columns([(key, str(value)) for key, value in fields.items()]):
        say(line)


def flush() -> None:
    """Flush stdout; if the reader closed the pipe, exit as :func:`say` does; if the disk is full, say so."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        hang_up()
    except OSError as error:
        _lose(error)


def in_shell(run: Callable[[], int]) -> int:
    """Run a command for the shell; tokens and signed addresses in warnings and tracebacks are hidden.

    Args:
        run: Function that runs the command.

    Returns:
        Exit code of the command; 1 after an unexpected error, whose traceback is written to stderr.
    """
    with warnings.catch_warnings():
        written = warnings.formatwarning
        warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: _write_error(
            written(message, category, filename, lineno, line)
        )
        try:
            return run()
        except BrokenPipeError:
            hang_up()
        except Exception:  # noqa: BLE001 - the interpreter would print the same traceback, with the secrets in it
            _write_error(traceback.format_exc())
            return EXIT_NO


def _write_error(text: str) -> None:
    with suppress(OSError):  # nobody reads it, or its disk is full
        sys.stderr.write(redacted(text))


def fail(message: str, code: int) -> int:
    """Write an error to stderr and return its exit code."""
    with suppress(OSError):  # nobody reads it, or its disk is full
        sys.stderr.write(f"robust-encoders: {message}\n")
    return code


def hang_up() -> NoReturn:
    """Exit as a program whose reader has gone."""
    _discard_output()
    raise SystemExit(EXIT_PIPE)


def _lose(error: OSError) -> NoReturn:
    _discard_output()
    raise SystemExit(fail(f"the answer cannot be written: {error.strerror}; write it to another place", EXIT_NO))


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's flush at exit does not fail


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return one line for each row, with cells padded to the width of their column."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def choose(name: str, known: Collection[str], what: str) -> str:
    """Return ``name`` if it is one of the known names.

    Args:
        name: Requested name.
        known: Names that exist.
        what: Kind of object that the names stand for, for the error message.

    Raises:
        UsageError: If the name is unknown; the message suggests the closest names.
    """
    if name in known:
        return name
    close = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    raise UsageError(f"expected a {what}, found {name!r}; {hint}")
