"""The shell around a command: streams of any encoding or none, logs of other libraries, and failures in words."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from robust_encoders.cli.interrupted import EXIT_INTERRUPTED
from robust_encoders.redaction import RedactingFormatter, redacted
from robust_encoders.utils.broken_libraries import broken_library
from robust_encoders.utils.console import EXIT_NO, fail, flush, in_shell
from robust_encoders.utils.failures import failure_in_words

DEBUG = ("ROBUST_ENCODERS_DEBUG", "HF_DEBUG")
_OURS = "robust_encoders"
_ESCAPES = "robust_encoders.escapes"
# Error handlers that stop at a character, or write bytes that are no text in the terminal's encoding.
_STRICT = ("strict", "surrogateescape")
# Where transformers says at every start that torchvision is missing, which no command needs.
_FALLBACKS = "transformers.utils.import_utils"


def debugging() -> bool:
    """Return true if the user asked for the logs of all libraries and for tracebacks, by an environment variable."""
    return any(os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off") for name in DEBUG)


def run_in_shell(run: Callable[[], int]) -> int:
    """Run a command for the shell, whatever its streams and its interruption are.

    Args:
        run: Function that runs the command.

    Returns:
        Exit code of the command; 130 after Ctrl-C, 1 after an unexpected error.
    """
    prepare_streams()
    made = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_without_secrets(made))
    try:
        return in_shell(run)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except SystemExit:  # after help, which is still to be written
        flush()
        raise
    finally:
        logging.setLogRecordFactory(made)


def prepare_streams() -> None:
    """Give the program streams to write to: escapes for characters that a terminal lacks, nothing for closed ones."""
    codecs.register_error(_ESCAPES, _escaped)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by `>&-`, or a program without a console
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the program ends
        elif name != "stdin" and getattr(stream, "errors", "") in _STRICT:
            stream.reconfigure(errors=_ESCAPES)


def configure_logs() -> None:
    """Let the package's own records and all warnings reach stderr; secrets in them are hidden.

    Every other record, such as the address of each request, is shown only if the user is debugging. So is the notice
    of transformers that pictures are read without torchvision, as they should be.
    """
    logging.getLogger(_FALLBACKS).addFilter(_is_needed)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    handler.addFilter(_is_shown)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def failure_of(error: Exception) -> str:
    """Return what is wrong with the machine, in words; empty for other failures and for a user who is debugging.

    Args:
        error: Exception of a command.
    """
    if debugging():
        return ""
    return redacted(broken_library(error) or failure_in_words(error))


def fail_in_words(error: Exception) -> int:
    """Write what is wrong with the machine to stderr, and return the exit code.

    Args:
        error: Exception of a command.

    Raises:
        Exception: The same exception, if it tells of something else.
    """
    if text := failure_of(error):
        return fail(text, EXIT_NO)
    raise error


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Replace characters by escapes such as ``\u00e9``, which JSON knows, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


def _is_shown(record: logging.LogRecord) -> bool:
    if record.name.partition(".")[0] == _OURS:
        return True
    return (record.levelno >= logging.WARNING or debugging()) and not _is_written_by_its_library(record.name)


def _is_needed(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage() or debugging()


def _is_written_by_its_library(name: str) -> bool:
    """Return true if a library has a handler of its own, which would make every line appear twice."""
    while name:
        if any(isinstance(one, logging.StreamHandler) for one in logging.getLogger(name).handlers):
            return True
        name = name.rpartition(".")[0]
    return False


def _without_secrets(made: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Return a factory of records without secrets, for the handlers that other libraries install for themselves."""

    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        one = made(*args, **kwargs)
        with suppress(Exception):  # a library's record that cannot be formatted is its handler's problem
            one.msg, one.args = redacted(one.getMessage()), None
        return one

    return record
