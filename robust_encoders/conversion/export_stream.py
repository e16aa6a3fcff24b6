"""Rewriting of large safetensors files tensor by tensor: a checkpoint of gigabytes is never in memory as a whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.owned_file import DTYPES, bytes_of, fill, layout_of, same_file
from robust_encoders.conversion.precision import cast
from robust_encoders.errors import IntegrityError

# Function of the present value of a tensor that returns its new value, of the same shape.
Change = Callable[[Tensor], Tensor]
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_CHUNK = 2**20  # bytes


class Entry(NamedTuple):
    """Dtype, shape and first byte of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A safetensors file of which only the header was read.

    Args:
        path: Path of the file.
        entries: Mapping of names to places of the tensors, in the order of the file.
        metadata: Texts in the header beside the tensors.
        state: State of the file when its header was read.
    """

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    state: os.stat_result

    @classmethod
    def opened(cls, path: Path) -> TensorFile:
        """Read the header of a file.

        Args:
            path: Path of the file.

        Raises:
            IntegrityError: If it cannot be read, or is no safetensors file.
        """
        layout, entries = layout_of(path), {}
        at = layout.begin
        for name, dtype, shape in layout.tensors:
            entries[name] = Entry(dtype, shape, at)
            at += entries[name].nbytes
        return cls(path, entries, tensor_files.metadata_of(path), layout.state)

    def read(self, name: str) -> Tensor:
        """Return one tensor, which no other program can change.

        Args:
            name: Name of the tensor.

        Raises:
            IntegrityError: If the file was cut off.
        """
        with self.path.open("rb", buffering=0) as file:
            return self.tensor(file, name)

    def tensor(self, file: FileIO, name: str) -> Tensor:
        """Return one tensor from the open, unbuffered file; for errors, see :meth:`read`.

        Args:
            file: This file, opened.
            name: Name of the tensor.
        """
        entry = self.entries[name]
        with torch.inference_mode(False):
            tensor = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        file.seek(entry.begin)
        fill(file, bytes_of(tensor), self.path)
        return tensor


@dataclass(frozen=True, eq=False)
class Edits:
    """What becomes of a file.

    Args:
        changes: Mapping of names to functions that return the new value of a tensor.
        dropped: Names of tensors that the new file does not have.
        dtype: Dtype of all weights of the new file; None to keep that of each tensor.
        metadata: Metadata of the new file.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    dtype: torch.dtype | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def entries(self, source: TensorFile) -> dict[str, Entry]:
        """Return the places of the tensors in the new file.

        Args:
            source: File that is rewritten.
        """
        kept = {name: entry for name, entry in source.entries.items() if name not in self.dropped}
        dtypes = {name: self._dtype_of(name, entry) for name, entry in kept.items()}
        # Larger numbers first, as the library writes them: every tensor then begins at a multiple of their size.
        made, at = {}, 0
        for name in sorted(kept, key=lambda name: -dtypes[name].itemsize):
            made[name] = Entry(dtypes[name], kept[name].shape, at)
            at += made[name].nbytes
        return made

    def _dtype_of(self, name: str, entry: Entry) -> torch.dtype:
        # In a checkpoint, a name without a point is a constant of the noise schedule, which stays in float32.
        weight = entry.dtype.is_floating_point and bool(entry.shape) and "." in name
        return self.dtype if self.dtype is not None and weight else entry.dtype


def size_after(source: TensorFile, edits: Edits) -> int:
    """Return the size of the new file in bytes.

    Args:
        source: File that is rewritten.
        edits: Edits of the file.
    """
    entries = edits.entries(source)
    return len(_head(entries, edits.metadata)) + sum(entry.nbytes for entry in entries.values())


def rewrite(source: TensorFile, target: Path, edits: Edits) -> None:
    """Write a changed copy of a file; at most one tensor of the file and its new value are in memory.

    Args:
        source: File that is read.
        target: Path of the new file, which must not exist.
        edits: Edits of the file.

    Raises:
        IntegrityError: If a value is beyond the range of its new dtype, or the source changes meanwhile.
    """
    entries = edits.entries(source)
    with source.path.open("rb", buffering=0) as file, target.open("xb") as written:
        written.write(_head(entries, edits.metadata))
        for name, entry in entries.items():
            if name in edits.changes or entry.dtype != source.entries[name].dtype:
                written.write(bytes_of(_new(file, source, name, edits, entry.dtype)))
            else:
                _copy(file, written, source, name)
        written.flush()
        os.fsync(written.fileno())
        if not same_file(source.state, os.fstat(file.fileno())):
            raise IntegrityError(
                f"expected {source.path} unchanged while it was read, found it changed; export again when no other "
                "program writes to it"
            )


def _new(file: FileIO, source: TensorFile, name: str, edits: Edits, dtype: torch.dtype) -> Tensor:
    value = source.tensor(file, name)
    if name in edits.changes:
        value = edits.changes[name](value)
    return cast(name, value, dtype, source.path).contiguous()


def _copy(file: FileIO, written: BinaryIO, source: TensorFile, name: str) -> None:
    entry = source.entries[name]
    file.seek(entry.begin)
    for left in range(entry.nbytes, 0, -_CHUNK):
        piece = bytearray(min(left, _CHUNK))
        fill(file, memoryview(piece), source.path)
        written.write(piece)


def _head(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    listed = {
        name: {
            "dtype": _CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.begin + entry.nbytes],
        }
        for name, entry in entries.items()
    }
    return tensor_files.with_metadata(json.dumps(listed).encode(), metadata)


def require_plain(file: TensorFile, names: Iterable[str]) -> None:
    """Check that tensors that will be changed are stored as plain numbers in half or full precision.

    Args:
        file: File with the tensors.
        names: Names of the tensors.

    Raises:
        IntegrityError: If one is stored in another way; the message names the first of them.
    """
    odd = [name for name in names if file.entries[name].dtype.itemsize < 2 or not _is_float(file, name)]
    if odd:
        raise IntegrityError(
            f"expected weights in half or full precision in {file.path}, found {odd[0][:100]} and {len(odd) - 1} more "
            f"in {file.entries[odd[0]].dtype}: a quantised checkpoint; pass the one that it was made from"
        )


def _is_float(file: TensorFile, name: str) -> bool:
    return file.entries[name].dtype.is_floating_point
