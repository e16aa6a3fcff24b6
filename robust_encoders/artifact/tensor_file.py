"""Files in the safetensors format with several metadata keys, in the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from robust_encoders.errors import IntegrityError

_ALIGNMENT = 8
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file; equal tensors and metadata give equal bytes.

    The library writes the metadata keys in a random order, so the header is written again with sorted keys. Readers
    require that the header fills a multiple of eight bytes.

    Args:
        tensors: Contiguous tensors on the CPU.
        metadata: Metadata of the file; ``format`` is ``pt`` for transformers and diffusers.
    """
    data = safetensors.torch.save(dict(tensors))
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + memoryview(data)[end:]


def metadata_of(path: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file; empty if it has none. The tensors are not read.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: If the file cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _LONGEST_HEADER else None
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected safetensors in {path}, cannot read it: {error}; pass another file") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise IntegrityError(f"expected safetensors in {path}, found another format; pass another file")
    return dict(header.get("__metadata__", {}))
