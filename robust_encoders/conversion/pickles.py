"""The only place that reads pickles.

``torch.load(weights_only=True)`` builds tensors and plain containers and refuses everything else. A pickle that would
run code is therefore refused before any of it runs. What it would take of memory is known and checked beforehand.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from robust_encoders.artifact.foreign_files import (
    LINE_ENDS,
    SAMPLE,
    Foreign,
    foreign,
    line_ends_changed,
    safetensors_inside,
)
from robust_encoders.conversion.archive_listing import is_archive, members
from robust_encoders.conversion.pickle_calls import RefusedError
from robust_encoders.conversion.pickle_listing import Listing, listing, odd_entries
from robust_encoders.conversion.pickle_machine import MOST_PICKLE
from robust_encoders.errors import IntegrityError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_SAVE_AGAIN = (
    "load it where you trust it, save its state dict alone by `safetensors.torch.save_file`, or ask its publisher for "
    "safetensors"
)


def read_pickle(path: Path) -> Any:
    """Return the content of a file of ``torch.save``: plain containers and tensors.

    Args:
        path: Path of a regular file.

    Raises:
        IntegrityError: If the file is none, holds other objects, or would take more memory than its size.
    """
    _require_no_other(path)
    try:
        found = _listing_of(path)
        if odd := odd_entries(found.root):
            raise _others(path, odd)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except RefusedError as error:
        raise IntegrityError(
            f"expected a pickle with tensors only in {path}, found {error}: refused, and nothing in it was run; "
            f"{'download the file again' if error.damaged else _SAVE_AGAIN}"
        ) from error
    except IntegrityError:
        raise
    except Exception as error:
        # A damaged file can make the reader raise any error. The reader's own message would advise weights_only=False.
        raise IntegrityError(
            f"expected a pickle with tensors only in {path}, found something else ({type(error).__name__}): refused, "
            f"and nothing in it was run; {_SAVE_AGAIN}"
        ) from error


def _others(path: Path, odd: list[str]) -> IntegrityError:
    shown = "; ".join(odd[:8]) + f"; and {len(odd) - 8} more" * (len(odd) > 8)
    return IntegrityError(
        f"expected names and plain tensors in {path}, found {len(odd)} others: {shown}; save the state dict alone"
    )


def _require_no_other(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(SAMPLE)
    size = path.stat().st_size
    if is_archive(head) or head[:1] == b"\x80":
        other = LINE_ENDS if line_ends_changed(head) else None
    elif safetensors_inside(head, size):
        other = Foreign("a safetensors file", "give it the suffix .safetensors")
    else:
        other = foreign(head, size)
    if other is not None:
        raise IntegrityError(f"expected a pickle in {path}, found {other.what}; {other.remedy}")


def _listing_of(path: Path) -> Listing:
    with path.open("rb") as file:
        if not is_archive(file.read(4)):
            file.seek(0)
            return _of_stream(file.read(MOST_PICKLE), path.stat().st_size)
        found = members(path)
        data = found["data.pkl"]
        file.seek(data.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(name + extra, 1)
        listed = listing(BytesIO(file.read(data.file_size)))
    for storage in listed.storages.values():
        record = found.get(f"data/{storage.key}")
        if record is None or record.file_size != storage.size:
            had = "none" if record is None else f"{record.file_size} bytes"
            raise RefusedError(
                f"one that claims {storage.size} bytes for the storage {storage.key[:40]!r}, which has {had}"
            )
    return listed


def _of_stream(data: bytes, size: int) -> Listing:
    """Return the listing of a file in torch's format before 1.6: five pickles, then the storages."""
    stream = BytesIO(data)
    if (listing(stream).root, listing(stream).root) != (_MAGIC, _PROTOCOL):
        raise RefusedError("a pickle that torch.save did not write")
    listing(stream)  # facts about the machine that wrote it
    listed, order = listing(stream), listing(stream).root
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(listed.storages):
        raise RefusedError("one whose list of storages is another than its tensors need")
    at = stream.tell()
    for storage in (listed.storages[key] for key in order):
        at += 8 + storage.size
    if at > size:
        raise RefusedError(f"one that claims {at} bytes in a file of {size}", damaged=True)
    return listed
