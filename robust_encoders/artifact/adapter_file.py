"""Files of one-dimensional adapters in the layout of SPM's release, which kohya's scripts also use for a LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_encoders.artifact import tensor_files
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.adapters import Adapter


def read(source: str | Path | bytes) -> Adapter:
    """Return the adapters in a file.

    Args:
        source: Path of the file, or its bytes.

    Raises:
        IntegrityError: If it is no adapter file: not in the safetensors format, without the metadata, or with tensors
            of another layout.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    tensors = tensor_files.loads(data, "the adapter file" if isinstance(source, bytes) else str(source))
    metadata = _header(data).get("__metadata__", {})
    try:
        prompts = tuple(prompt.strip() for prompt in metadata["prompts"].split(","))
        # The release writes whole numbers as "1" and as "1.0".
        rank, alpha = int(float(metadata["rank"])), float(metadata["alpha"])
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"expected prompts, rank and alpha in the file's metadata, found {metadata or 'none'}: gates cannot be "
            "computed without the prompts; use the file that SPM's training wrote, not one that a tool rewrote"
        ) from error
    return Adapter(tensors, prompts, rank, alpha)


def write_bytes(adapter: Adapter, more: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of an adapter file; equal adapters give equal bytes.

    Args:
        adapter: Adapter to write.
        more: Further metadata of the file, beside prompts, rank and alpha.

    Raises:
        ValueError: If a prompt contains a comma, which separates prompts in the file, or has space around it.
    """
    require_storable(adapter.prompts)
    own = {"prompts": ",".join(adapter.prompts), "rank": str(adapter.rank), "alpha": str(float(adapter.alpha))}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    return tensor_files.file_bytes(tensors, {**(more or {}), **own})


def require_storable(prompts: Sequence[str]) -> None:
    """Check that an adapter file can store the given prompts.

    Raises:
        ValueError: If a prompt contains a comma, which separates prompts in the file, or has space around it.
    """
    if odd := [prompt for prompt in prompts if "," in prompt or prompt != prompt.strip()]:
        raise ValueError(
            f"expected prompts without commas and without space around them, found {odd}: the file joins them by "
            "commas; name each part as a prompt of its own"
        )


def _header(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found
