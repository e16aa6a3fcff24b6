"""Files that are something else than their name says, for error messages: what a file is, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# Bytes at the start of a file that are looked at.
SAMPLE = 2**20
# Line feeds in the sample from which a sample without any bare one proves a conversion of line ends.
_LINES = 16
_FETCH = "download the file again"


class Foreign(NamedTuple):
    """A file that is no file of weights.

    Args:
        what: Description of the file, as a noun phrase.
        remedy: Advice for the user.
    """

    what: str
    remedy: str


LFS = Foreign(
    "a pointer of git-lfs instead of the file itself",
    "run `git lfs install` and `git lfs pull` in the clone, or download the file with huggingface_hub",
)
LINE_ENDS = Foreign(
    "the file with changed line ends (every LF has a CR before it)",
    "run `git config core.autocrlf false` and check the file out again, or download it in binary mode",
)
_UNPACK = "unpack it and pass the file of weights in it"
_STARTS: Mapping[bytes, Foreign] = {
    b"version https://git-lfs": LFS,
    b"GGUF": Foreign("a GGUF file of llama.cpp", "pass the safetensors file that it was made from"),
    b"\x89HDF": Foreign("an HDF5 file of TensorFlow or Keras", "pass the safetensors file of the same repository"),
    b"\x93NUMPY": Foreign("an array of NumPy", "pass a file that holds a state dict"),
    b"\x1f\x8b": Foreign("a gzip archive", _UNPACK),
    b"7z\xbc\xaf": Foreign("a 7z archive", _UNPACK),
    b"Rar!": Foreign("a RAR archive", _UNPACK),
    b"\xfd7zXZ": Foreign("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": Foreign("a Zstandard archive", _UNPACK),
    b"PK\x03\x04": Foreign("a zip archive, as torch.save writes it", "give it the suffix .pt or .bin"),
    b"\x80\x02": Foreign("a pickle, as torch.save writes it", "give it the suffix .pt or .bin"),
}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{12,}")


def foreign(head: bytes, size: int) -> Foreign | None:
    """Return what a file is if its first bytes show that it is no safetensors file; None if they do not.

    Args:
        head: First bytes of the file, up to ``SAMPLE``.
        size: Size of the file in bytes.
    """
    if size == 0:
        return Foreign("an empty file", _FETCH)
    if not head.strip(b"\0"):
        return Foreign("a file that begins with zeros, as an interrupted download leaves it", _FETCH)
    if (known := next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)) is not None:
        return known
    if head[257:262] == b"ustar":
        return Foreign("a tar archive", _UNPACK)
    if _PAGE.match(head):
        return Foreign("a web page", "download the file itself, for example by the Hub's link `resolve`, not `blob`")
    if _TEXT.fullmatch(head[:200]):
        begin = head[:40].decode("ascii").split("\n")[0].strip()
        return Foreign(f"a text that begins with {begin!r}", _FETCH)
    return LINE_ENDS if line_ends_changed(head) else None


def line_ends_changed(data: bytes) -> bool:
    """Return true if every line feed in binary data follows a carriage return, which chance does not bring about."""
    feeds = data.count(b"\n")
    return feeds >= _LINES and feeds == data.count(b"\r\n")


def is_pointer(path: Path) -> bool:
    """Return true if a file is a pointer of git-lfs, which a clone without git-lfs holds in place of large files.

    Args:
        path: Path of a regular file.
    """
    with path.open("rb") as file:
        return foreign(file.read(SAMPLE), path.stat().st_size) is LFS


def safetensors_inside(head: bytes, size: int) -> bool:
    """Return true if a file begins as a safetensors file does: a length that fits into the file, then a JSON object.

    Args:
        head: First nine bytes of the file.
        size: Size of the file in bytes.
    """
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def foreign_file(path: Path) -> Foreign | None:
    """Return what a file is if it is no file of weights; see :func:`foreign`.

    Args:
        path: Path of a regular file.
    """
    with path.open("rb") as file:
        head = file.read(SAMPLE)
    return foreign(head, path.stat().st_size)
