"""State dicts as files hold them: plain names and tensors, no larger than their file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders.conversion.lookalikes import what_else
from robust_encoders.conversion.wrappers import unwrapped_names
from robust_encoders.errors import IntegrityError


def entry_of(data: Any, part: str, path: Path) -> Any:
    """Return one entry of a file that holds one state dict for each component.

    Args:
        data: Content of the file.
        part: Name of the entry.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If there is no such entry.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get(part), Mapping):
        raise IntegrityError(
            f"expected an entry {part!r} with a state dict in {path}, found none; leave the component out, or pass "
            "another file"
        )
    return data[part]


def plain(data: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict as names and plain tensors, without the names of wrappers such as ``module.``.

    Args:
        data: Content of a file, or an entry of it.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If it holds anything else; the message names the first of them.
    """
    if not isinstance(data, Mapping):
        raise IntegrityError(
            f"expected names and tensors in {path}, found a {type(data).__name__}; pass a file that holds a state dict"
        )
    wrong = [f"{str(name)[:80]!r}: {fault}" for name, value in data.items() if (fault := _fault(name, value))]
    if wrong:
        shown = "; ".join(wrong[:8]) + f"; and {len(wrong) - 8} more" * (len(wrong) > 8)
        other = what_else(filter(_is_text, data))
        raise IntegrityError(
            f"expected names and plain tensors in {path}, found {len(wrong)} others: {shown}"
            + (f": {other.what}; {other.remedy}" if other.what else "; save the state dict alone")
        )
    return {name: tensor.detach() for name, tensor in unwrapped_names(data, path).items()}


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _fault(name: object, value: object) -> str:
    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return "a sparse or quantised tensor, or one without values"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"shape {tuple(value.shape)}, but {value.untyped_storage().nbytes()} bytes"
    return ""


def require_no_more(tensors: Mapping[str, Tensor], size: int, path: Path) -> None:
    """Check that the tensors together are not larger than their file.

    A short pickle can give one large storage thousands of names, and each of them would be written by itself.

    Args:
        tensors: Mapping of names to tensors, each of which will be written.
        size: Size of the file in bytes.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If they are larger.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > size:
        raise IntegrityError(
            f"expected tensors of at most {size} bytes in {path}, the size of the file, found {total} bytes in "
            f"{len(tensors)} tensors: several share their numbers; save a copy of each"
        )
