"""The members of a zip archive of ``torch.save``, checked before any of them is read.

torch stores members uncompressed, one behind the other. A compressed member can grow a thousandfold, overlapping
members a millionfold, and of two members with one name each reader may choose another. All of them are refused.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from robust_encoders.conversion.pickle_calls import RefusedError
from robust_encoders.conversion.pickle_machine import MOST_PICKLE

MOST_MEMBERS = 2**14
MOST_DIRECTORY = 2**22
_END, _END_64, _LOCATOR_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DATA_DESCRIPTOR = 0x1, 0x8


def is_archive(head: bytes) -> bool:
    """Return true if the first bytes of a file are those of a zip archive."""
    return head.startswith(b"PK\x03\x04")


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive of ``torch.save`` by their names without the archive's own folder.

    Args:
        path: Path of the archive.

    Raises:
        RefusedError: If it is no such archive; the message is what was found, as a noun phrase.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            end = _require_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                found = archive.infolist()
            _require_no_program(found)
            _require_stored(found)
            _require_apart(file, found, end)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError) as error:
        raise RefusedError(f"a damaged zip archive ({str(error)[:100]})", damaged=True) from error
    return _by_name(found)


def _require_directory(file: BinaryIO, size: int) -> int:
    """Return where the directory begins; it must end the file, so that every reader finds the same directory."""
    file.seek(max(size - _END.size, 0))
    magic, *_, count, length, start, comment = _END.unpack(file.read(_END.size))
    end = size - _END.size
    if magic != b"PK\x05\x06" or comment:
        raise RefusedError("a zip archive that is cut off or has something behind its directory", damaged=True)
    file.seek(max(end - _LOCATOR_64.size, 0))
    magic, _, at, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
    if magic == b"PK\x06\x07":
        file.seek(min(at, size))
        magic, *_, count, length, start = _END_64.unpack(file.read(_END_64.size))
        if magic != b"PK\x06\x06" or at + _END_64.size + _LOCATOR_64.size != end:
            raise RefusedError("a zip archive with a damaged zip64 directory", damaged=True)
        end = at
    if start + length != end:
        raise RefusedError("a zip archive whose directory is not where it says", damaged=True)
    if length > MOST_DIRECTORY or count > MOST_MEMBERS:
        raise RefusedError(f"a zip archive of {count} members, where {MOST_MEMBERS} are the most that is read")
    return int(start)


def _require_no_program(found: list[zipfile.ZipInfo]) -> None:
    if any(info.filename.endswith("/constants.pkl") or "/code/" in info.filename for info in found):
        raise RefusedError("a program of TorchScript; load it by torch.jit.load and save its state_dict() alone")


def _require_stored(found: list[zipfile.ZipInfo]) -> None:
    for info in found:
        if info.flag_bits & _ENCRYPTED:
            raise RefusedError(f"a zip archive with the encrypted member {info.filename[:80]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise RefusedError(
                f"a zip archive with the compressed member {info.filename[:80]!r} ({info.compress_size} bytes, which "
                f"would grow to {info.file_size}); torch.save stores members uncompressed"
            )


def _require_apart(file: BinaryIO, found: list[zipfile.ZipInfo], directory: int) -> None:
    """Check that no byte of the file belongs to two members, and that both headers of every member agree."""
    free = 0
    for info in sorted(found, key=lambda one: one.header_offset):
        if info.header_offset < free:
            raise RefusedError(f"a zip archive in which {info.filename[:80]!r} overlaps another member")
        file.seek(info.header_offset)
        magic, _, flags, method, *_, size, _, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        stated = size in (info.compress_size, 0xFFFFFFFF) or flags & _DATA_DESCRIPTOR
        if magic != b"PK\x03\x04" or method or not stated or file.read(name) != _raw_name(info):
            raise RefusedError(f"a zip archive whose two headers of {info.filename[:80]!r} differ")
        free = info.header_offset + _LOCAL.size + name + extra + info.compress_size
    if free > directory:
        raise RefusedError("a zip archive with members that reach beyond the file", damaged=True)


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")


def _by_name(found: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    names = [info.filename for info in found]
    folder = names[0].split("/")[0] + "/" if names else ""
    if f"{folder}data.pkl" not in names or not all(name.startswith(folder) for name in names):
        shown = ", ".join(name[:60] for name in names[:4])
        raise RefusedError(f"a zip archive that torch.save did not write ({shown or 'empty'}); unpack it")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RefusedError(f"a zip archive that names a member twice ({twice[0][:80]})")
    by_name = {info.filename.removeprefix(folder): info for info in found}
    if by_name["data.pkl"].file_size > MOST_PICKLE:
        raise RefusedError(f"a pickle of {by_name['data.pkl'].file_size} bytes, where {MOST_PICKLE} are the most")
    return by_name
