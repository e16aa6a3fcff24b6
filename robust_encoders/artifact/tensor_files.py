"""The one reader and writer of safetensors files in this package, for the loader, the converter and training caches.

The format allows a header of 100 MB. A million empty tensors fit into it, and take a minute and gigabytes to read. This
reader checks the header against limits that lie far above all published text encoders before it reads the file. The
writer sorts the metadata, which the library writes in a random order, so equal tensors give equal bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.artifact.foreign_files import SAMPLE, Foreign, foreign
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.bounded_files import NotReadableError, regular

# OpenCLIP-G's text encoder has 516 tensors and a header of 54 kB, the UNet of SD 1.4 has 686 tensors. A checkpoint of a
# training holds five tensors for each of them.
MOST_TENSORS = 2**14
MOST_HEADER = 2**22
METADATA = "__metadata__"
_ALIGNMENT = 8


def loads(data: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file in memory.

    Args:
        data: Content of the file.
        where: Name of the file for the error message.

    Raises:
        IntegrityError: If it is no safetensors file, or its header breaks the limits or names a tensor twice.
    """
    parsed(data[: 8 + MOST_HEADER], len(data), where)
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise _unreadable(where, foreign(data[:SAMPLE], len(data)), error) from error


def header(path: Path) -> dict[str, Any]:
    """Return the header of a file: dtype, shape and place of every tensor by name, and ``__metadata__``.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: See :func:`loads`. The numbers in the header are not checked; the library does that.
        OSError: If the file cannot be read.
    """
    try:
        size = regular(path).st_size
    except NotReadableError as error:
        raise IntegrityError(f"expected safetensors in {path}, found that {error}; pass a file") from error
    with path.open("rb") as file:
        return parsed(_head(file), size, str(path))


def names(path: Path) -> list[str]:
    """Return the names of the tensors in a file; for errors, see :func:`header`.

    Args:
        path: Path of the file.
    """
    return [name for name in header(path) if name != METADATA]


def metadata_of(path: Path) -> dict[str, Any]:
    """Return the metadata of a file; empty if it has none. The tensors are not read. For errors, see :func:`header`.

    Args:
        path: Path of the file.
    """
    found = header(path).get(METADATA, {})
    if not isinstance(found, dict):
        raise _no_safetensors(str(path), "metadata that is no JSON object")
    return found


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file; equal tensors and metadata give equal bytes.

    Args:
        tensors: Contiguous tensors on the CPU.
        metadata: Metadata of the file; ``format`` is ``pt`` for transformers and diffusers.
    """
    data = safetensors.torch.save(dict(tensors))
    end = 8 + int.from_bytes(data[:8], "little")
    return with_metadata(data[8:end], metadata) + memoryview(data)[end:]


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file of :func:`file_bytes` without a copy of the tensors in memory.

    Args:
        path: Path of the file. A second file lies beside it meanwhile.
        tensors: Contiguous tensors on the CPU.
        metadata: Metadata of the file.
    """
    aside = path.with_name(f"{path.name}.part")
    safetensors.torch.save_file(dict(tensors), aside)
    with aside.open("rb") as source, path.open("wb") as target:
        length = int.from_bytes(source.read(8), "little")
        target.write(with_metadata(source.read(length), metadata))
        shutil.copyfileobj(source, target, 2**20)
    aside.unlink()


def with_metadata(text: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return length and header of a file with sorted metadata; readers require a multiple of eight bytes.

    Args:
        text: Header as JSON, with or without other metadata.
        metadata: Metadata of the file.
    """
    found = {METADATA: dict(sorted(metadata.items())), **json.loads(text)}
    new = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    new += b" " * (-len(new) % _ALIGNMENT)
    return len(new).to_bytes(8, "little") + new


def _head(file: BinaryIO) -> bytes:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    return start + file.read(length if length <= MOST_HEADER else SAMPLE)


def parsed(head: bytes, size: int, where: str) -> dict[str, Any]:
    """Return the header in the first bytes of a file.

    Args:
        head: First bytes of the file: the length of its header and the header, or 8 bytes and a sample of a longer one.
        size: Size of the file in bytes.
        where: Name of the file for the error message.

    Raises:
        IntegrityError: See :func:`header`.
    """
    length = int.from_bytes(head[:8], "little")
    if other := foreign(head[:SAMPLE], size):
        raise IntegrityError(f"expected safetensors in {where}, found {other.what}; {other.remedy}")
    if size < 8 or length > size - 8:
        raise _no_safetensors(where, f"a header of {length} bytes in a file of {size}")
    if length > MOST_HEADER:
        raise _too_much(where, f"a header of {length} bytes", f"{MOST_HEADER} bytes")
    try:
        found = json.loads(head[8 : 8 + length], object_pairs_hook=lambda pairs: _once(pairs, where))
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(where, f"a header that is no JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise _no_safetensors(where, "a header that is no JSON object")
    if len(found) > MOST_TENSORS + 1:
        raise _too_much(where, f"{len(found)} tensors", f"{MOST_TENSORS} tensors")
    return found


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Refuse a header with a duplicate name, because readers disagree on which of the two entries is valid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise IntegrityError(
            f"expected every name once in the header of {where}, found {', '.join(twice)[:200]} twice; "
            "download the file again"
        )
    return found


def _too_much(where: str, found: str, most: str) -> IntegrityError:
    return IntegrityError(
        f"expected a file of weights in {where}, found {found}, where {most} are the most that is read: no text "
        "encoder needs as much; pass a file that holds the text encoder alone"
    )


def _unreadable(where: str, other: Foreign | None, error: SafetensorError) -> IntegrityError:
    if other is None:
        return _no_safetensors(where, str(error)[:300])
    return IntegrityError(f"expected safetensors in {where}, found {other.what}; {other.remedy}")


def _no_safetensors(where: str, found: str) -> IntegrityError:
    return IntegrityError(f"expected safetensors in {where}, found something else: {found}; download the file again")
