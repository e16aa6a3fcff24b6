"""Files of one-dimensional adapters in the layout of SPM's release, which kohya's scripts also use for a LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.adapters import Adapter

_ALIGNMENT = 8


def read(source: str | Path | bytes) -> Adapter:
    """Return the adapters in a file.

    Args:
        source: Path of the file, or its bytes.

    Raises:
        IntegrityError: If it is no adapter file: not in the safetensors format, without the metadata, or with tensors
            of another layout.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors, found something else: {str(error)[:300]}") from error
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


def write_bytes(adapter: Adapter) -> bytes:
    """Return the bytes of an adapter file; equal adapters give equal bytes.

    Args:
        adapter: Adapter to write.

    Raises:
        ValueError: If a prompt contains a comma, which separates prompts in the file, or has space around it.
    """
    require_storable(adapter.prompts)
    metadata = {"prompts": ",".join(adapter.prompts), "rank": str(adapter.rank), "alpha": str(float(adapter.alpha))}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    return _with_metadata(tensors, metadata)


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


def _with_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return safetensors bytes with sorted metadata; the library itself writes the keys in a random order."""
    data = safetensors.torch.save(dict(tensors))
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_header(data)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + data[end:]
