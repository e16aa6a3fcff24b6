"""The one reader of files of prompts: encodings, and errors that name the file and the line.

UTF-8 is read with and without a byte order mark, UTF-16 and UTF-32 with one. Nothing else is guessed: a wrong guess
would change words of prompts without notice.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from robust_encoders.errors import RobustEncodersError

_MARKS = (  # the mark of UTF-32 begins with that of UTF-16, so it is tried first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")
# Control characters except tab, line feed, form feed and carriage return.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
# Characters without width; a byte order mark stands inside a file if files were joined.
_INVISIBLE = "\ufeff\u200b\u2060"
_REPLACEMENT = "\ufffd"
_SHOWN = 60
# Files of tables and of records, which a reader of lines would take for prompts.
_OTHER_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".ods", ".docx", ".odt", ".rtf")


class PromptFileError(RobustEncodersError, ValueError):
    """A file of prompts is missing, has another encoding, a wrong format or wrong contents."""


def read_text(path: Path) -> str:
    """Return the text of a file of prompts.

    Args:
        path: Path of the file: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Raises:
        PromptFileError: If there is no such file, or it is not text in one of these encodings. The message names the
            file, and the line of the first wrong byte.
    """
    data = _bytes(path)
    codec = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if codec.startswith("utf-8") and b"\0" in data:
        raise PromptFileError(_with_zeros(path, data))
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise PromptFileError(_undecodable(path, data, codec, error)) from error
    if found := _CONTROL.search(text):
        line = len(_LINE_END.findall(text[: found.start()])) + 1
        raise PromptFileError(
            f"expected text in {path}, found the control character U+{ord(found[0]):04X} in line {line}; remove it, or "
            "pass a text file"
        )
    return text


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file with one prompt a line; blank lines and spaces around a prompt are left out.

    Args:
        path: Path of the file, see :func:`read_text`.

    Raises:
        PromptFileError: If the file cannot be read, has no prompt, or is a table.
    """
    if path.suffix.lower() in _OTHER_FORMATS and path.is_file():
        raise PromptFileError(
            f"expected a text file with one prompt a line, found {path}: its lines are no prompts; write the prompts "
            "alone into a .txt file"
        )
    lines = [line.strip().strip(_INVISIBLE).strip() for line in _LINE_END.split(read_text(path))]
    damaged = next((i for i, line in enumerate(lines, 1) if _REPLACEMENT in line), None)
    if damaged is not None:
        raise PromptFileError(
            f"expected prompts in {path}, found U+FFFD in line {damaged}: {lines[damaged - 1][:_SHOWN]!r}. This "
            "character replaces one that was read in a wrong encoding; write the original character"
        )
    prompts = tuple(filter(None, lines))
    if not prompts:
        raise PromptFileError(f"expected at least one prompt in {path}, found none; write one prompt a line")
    return prompts


def control_character(text: str) -> str | None:
    """Return the first character that :func:`read_text` refuses; None if there is none."""
    found = _CONTROL.search(text)
    return None if found is None else found[0]


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PromptFileError(f"expected a file of prompts, found a folder: {path}; name a file in it")
        if not path.exists():
            raise PromptFileError(f"expected a file of prompts, found nothing at {path}; correct the path")
        if not path.is_file():  # reading a pipe would wait, and its contents could not be read twice
            raise PromptFileError(f"expected a file of prompts, found no regular file at {path}; save it as a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PromptFileError):
            raise
        raise PromptFileError(f"expected a readable file of prompts, cannot read {str(path)!r}: {error}") from error


def _undecodable(path: Path, data: bytes, codec: str, error: UnicodeDecodeError) -> str:
    if codec != "utf-8":
        at = data[: error.start].decode(codec, errors="ignore")
        line = len(_LINE_END.findall(at)) + 1
        kind = codec.removesuffix("-sig").upper()
        return (
            f"expected {kind} in {path}, as its byte order mark says, found {error.reason} in line {line}; save the "
            "file again as UTF-8"
        )
    line = _line_of(data, error.start)
    start = max(data.rfind(b"\n", 0, error.start), data.rfind(b"\r", 0, error.start)) + 1
    row = re.split(rb"[\r\n]", data[start:], maxsplit=1)[0]
    byte = f"0x{data[error.start]:02x}"
    return (
        f"expected UTF-8 in {path}, found byte {byte} in line {line}, which reads {_guessed(row)} in Windows-1252. "
        f"Save the file as UTF-8, for example by `iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.txt`, with the "
        "encoding that it has in place of WINDOWS-1252"
    )


def _guessed(row: bytes) -> str:
    return repr(row.decode("cp1252", errors="replace").strip()[:_SHOWN])


def _with_zeros(path: Path, data: bytes) -> str:
    line = _line_of(data, data.index(b"\0"))
    # Nearly every other byte of English text in UTF-16 is zero.
    if max(data[::2].count(0), data[1::2].count(0)) > len(data) // 4:
        return (
            f"expected UTF-8 in {path}, found zero bytes from line {line} on, as in UTF-16 without a byte order mark; "
            "save the file as UTF-8"
        )
    return f"expected text in {path}, found a zero byte in line {line}, as in a binary file; pass a text file"


def _line_of(data: bytes, place: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", data[:place])) + 1
