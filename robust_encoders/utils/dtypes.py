"""Precisions by name: what ``--dtype`` offers and what ``dtype=`` takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

# What --dtype offers.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
}  # fmt: skip
# What `export --dtype` offers, too: the names that other applications use.
SHORT: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_of(given: object) -> torch.dtype:
    """Return the precision that a value stands for.

    Args:
        given: A floating dtype of torch, or its name: ``float32``, ``float16``, ``bfloat16``, ``fp32``, ``fp16`` or
            ``bf16``.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, torch.dtype) and given.is_floating_point:
        return given
    known = {**DTYPES, **SHORT}
    if isinstance(given, str) and given in known:
        return known[given]
    raise ValueError(
        f"expected a precision as dtype: a floating torch.dtype, or one of {', '.join(DTYPES)}, found {given!r}; pass "
        "one of these"
    )


def dtype_or_none(given: object) -> torch.dtype | None:
    """Return the precision that a value stands for; None for None, which keeps the precision as it is.

    Args:
        given: None, or a value as :func:`dtype_of` takes it.

    Raises:
        ValueError: If it is anything else.
    """
    return None if given is None else dtype_of(given)
