"""The attentions of a UNet, and which of their layers they call."""

from __future__ import annotations

from typing import Any

from torch import nn


def processor_of(part: nn.Module) -> Any:
    """Return the attention processor of a part of a UNet; None for a part that has none."""
    return getattr(part, "processor", None) if hasattr(part, "set_processor") else None


def attentions_of(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the attentions of a module that have a processor.

    Args:
        module: Module without a ``torch.compile`` wrapper.
    """
    return tuple(part for part in module.modules() if processor_of(part) is not None)


def is_fused(attention: nn.Module) -> bool:
    """Return true if an attention uses one matrix for queries, keys and values instead of their own layers.

    Args:
        attention: Attention with a processor.
    """
    return type(attention.processor).__name__.startswith("Fused")
