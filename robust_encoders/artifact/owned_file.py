"""Reading of safetensors files into memory of this process, so that verified bytes are the bytes that are used.

The safetensors library maps a file by default. A mapped page that was not used yet shows what another program writes
into the file later, and a file that is cut off ends the process with SIGBUS. This module copies each tensor once, and
its hash is computed from the copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.foreign_files import SAMPLE
from robust_encoders.artifact.tensor_files import METADATA, MOST_HEADER
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.bounded_files import regular

# The names of dtypes in the header of a file.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class OwnedFile(NamedTuple):
    """A safetensors file in memory that no other program can change.

    Args:
        header: First bytes of the file: the length of its header, and the header.
        tensors: Mapping of names to tensors, in the order of the file; each has its own storage.
        state: State of the file while it was read; None if the file changed meanwhile.
    """

    header: bytes
    tensors: dict[str, Tensor]
    state: os.stat_result | None

    @property
    def size(self) -> int:
        """Number of bytes that were read."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def metadata(self) -> dict[str, str]:
        """Texts that the header holds beside the tensors."""
        found: dict[str, str] = json.loads(self.header[8:]).get(METADATA, {})
        return found

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes that were read."""
        digest = hashlib.sha256(self.header)
        for tensor in self.tensors.values():
            digest.update(bytes_of(tensor))
        return digest.hexdigest()


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return true if two states of a path belong to the same, unchanged file.

    Args:
        one: Result of ``os.stat``.
        other: Result of ``os.stat`` at another time.
    """
    return state_of(one) == state_of(other)


def state_of(state: os.stat_result) -> dict[str, int]:
    """Return the values by which an unchanged file is recognised: device, inode, size in bytes, and times in ns."""
    return {
        "device": state.st_dev,
        "inode": state.st_ino,
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
    }


def read_owned(path: Path) -> OwnedFile:
    """Read a safetensors file into memory of this process, once and without a second copy; no hash is checked.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: If the file cannot be read, or is no safetensors file.
    """
    try:
        # Tensors made in inference mode could not be trained or loaded into a model later.
        regular(path)
        with path.open("rb", buffering=0) as file, torch.inference_mode(False):
            before = os.fstat(file.fileno())
            header = _read_header(file, before.st_size, path)
            tensors = {}
            for name, dtype, shape in _layout(header, before.st_size, path):
                tensors[name] = torch.empty(shape, dtype=dtype, device="cpu")
                fill(file, bytes_of(tensors[name]), path)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise IntegrityError(f"expected {path}, cannot read it: {error}; fetch the artifact again") from error
    return OwnedFile(header, tensors, after if same_file(before, after) else None)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file by their names; only the header is read.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: If the file cannot be read, or is no safetensors file.
    """
    return {name: shape for name, _, shape in layout_of(path).tensors}


class FileLayout(NamedTuple):
    """The layout of a safetensors file.

    Args:
        begin: Number of bytes before the first tensor.
        tensors: Name, dtype and shape of each tensor in the order of the file; no byte lies between them.
        state: State of the file when its header was read.
    """

    begin: int
    tensors: list[tuple[str, torch.dtype, tuple[int, ...]]]
    state: os.stat_result


def layout_of(path: Path) -> FileLayout:
    """Return the layout of a safetensors file; only the header is read.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: If the file cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            state = os.fstat(file.fileno())
            header = _read_header(file, state.st_size, path)
            return FileLayout(len(header), _layout(header, state.st_size, path), state)
    except OSError as error:
        raise IntegrityError(f"expected {path}, cannot read it: {error}; fetch the artifact again") from error


def _read_header(file: FileIO, size: int, path: Path) -> bytes:
    """Return length and header; only the beginning if the header is longer than may be read."""
    start = bytearray(min(8, size))
    fill(file, memoryview(start), path)
    length = int.from_bytes(start, "little")
    rest = bytearray(min(length if length <= MOST_HEADER else SAMPLE, size - len(start)))
    fill(file, memoryview(rest), path)
    return bytes(start + rest)


def _layout(header: bytes, size: int, path: Path) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Return name, dtype and shape of each tensor, in the order of the file; no byte may belong to none or to two."""
    layout, at = [], 0
    for name, (begin, end), dtype, shape in sorted(_entries(header, size, path), key=lambda entry: entry[1]):
        if begin != at or end - begin != math.prod(shape) * dtype.itemsize:
            raise _other_kind(path, f"{name[:100]!r} of shape {shape} at bytes {begin} to {end} after byte {at}")
        layout.append((name, dtype, shape))
        at = end
    if len(header) + at != size:
        raise _other_kind(path, f"{size} bytes instead of {len(header) + at}")
    return layout


def _entries(header: bytes, size: int, path: Path) -> list[tuple[str, tuple[int, int], torch.dtype, tuple[int, ...]]]:
    entries = []
    for name, entry in tensor_files.parsed(header, size, str(path)).items():
        if name == METADATA:
            continue
        try:
            (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], DTYPES[entry["dtype"]]
            if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
                raise ValueError("a number that is negative or not whole")
        except (KeyError, TypeError, ValueError) as error:
            raise _other_kind(path, f"{name[:100]!r} described as {str(entry)[:150]}") from error
        entries.append((name, (begin, end), dtype, tuple(shape)))
    return entries


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU; they share its memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def fill(file: FileIO, view: memoryview, path: Path) -> None:
    """Fill a piece of memory with the next bytes of a file.

    Args:
        file: Unbuffered file.
        view: Memory to fill.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If the file ends earlier.
    """
    while len(view):
        if not (count := file.readinto(view)):
            raise IntegrityError(
                f"expected {len(view)} more bytes in {path}, found its end: the file was cut off while it was read; "
                "fetch the artifact again"
            )
        view = view[count:]


def _other_kind(path: Path, found: str) -> IntegrityError:
    return IntegrityError(f"expected safetensors in {path}, found something else: {found[:300]}; fetch it again")
