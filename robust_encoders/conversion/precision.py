"""The number formats of published text encoders: one format for all tensors, or a cast that the user chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import dtype_name
from robust_encoders.clip.text_model import COMPUTING
from robust_encoders.errors import IntegrityError

# Without their scales the numbers of such files mean something else.
_SCALES = re.compile(
    r".*(scaled_fp8|\.scale_weight|\.scale_input|\.weight_scale|\.input_scale|\.absmax|\.SCB|\.quant_map)"
)


def with_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a text encoder in one floating dtype.

    Args:
        tensors: Mapping of names to tensors.
        dtype: Dtype of the result; None to keep the tensors as they are.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If the tensors are quantised, have several dtypes or one in which nothing computes and ``dtype``
            is None, or have values beyond the range of ``dtype``.
    """
    if scaled := sorted(name for name in tensors if _SCALES.fullmatch(name)):
        raise IntegrityError(
            f"expected numbers that stand for themselves in {path}, found scales beside them ({scaled[0][:80]} and "
            f"{len(scaled) - 1} more): quantised weights; pass the weights in half or full precision"
        )
    found = _floating(tensors)
    if dtype is None:
        _require_one(found, path)
        return dict(tensors)
    return {name: cast(name, tensor, dtype, path) for name, tensor in tensors.items()}


def cast_in_words(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> str:
    """Return what casting to ``dtype`` changes, for the manifest; empty if it changes nothing.

    Args:
        tensors: Mapping of names to tensors as they were read.
        dtype: Dtype that was chosen; None for none.
    """
    found = _floating(tensors)
    if dtype is None or set(found) <= {dtype}:
        return ""
    return f"{', '.join(sorted(map(dtype_name, found)))} to {dtype_name(dtype)}"


def _floating(tensors: Mapping[str, Tensor]) -> dict[torch.dtype, int]:
    found: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            found[tensor.dtype] = found.get(tensor.dtype, 0) + 1
    return found


def _require_one(found: Mapping[torch.dtype, int], path: Path) -> None:
    if len(found) <= 1 and all(dtype in COMPUTING for dtype in found):
        return
    shown = ", ".join(f"{dtype_name(dtype)} ({count} tensors)" for dtype, count in sorted(found.items(), key=str))
    computes = ", ".join(map(dtype_name, COMPUTING))
    raise IntegrityError(
        f"expected tensors of one dtype in which a text encoder computes ({computes}) in {path}, found {shown}; choose "
        "one to cast them to: `robust-encoders convert --dtype float16` or, in Python, dtype=torch.float16"
    )


def cast(name: str, tensor: Tensor, dtype: torch.dtype, path: Path) -> Tensor:
    """Return a tensor in another floating dtype; a tensor of whole numbers stays as it is.

    Args:
        name: Name of the tensor, for the error message.
        tensor: Tensor of any shape.
        dtype: Dtype of the result.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If a finite value is beyond the range of ``dtype``.
    """
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    made = tensor.to(dtype)
    if not bool(torch.isfinite(made).all()) and bool(torch.isfinite(tensor.float()).all()):
        raise IntegrityError(
            f"expected values of {name} in {path} within the range of {dtype_name(dtype)}, found values up to "
            f"{tensor.float().abs().max().item():.3g}; choose --dtype float32 or bfloat16"
        )
    return made
