"""The output of one module inside a text encoder, captured while the encoder runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..trainer.parameters import LAYER


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of a module inside the context, with their gradients.

    The hook ends with the context, so a backward pass that recomputes activations adds nothing.

    Args:
        module: Module that returns one tensor.
    """
    seen: list[Tensor] = []

    def see(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen.append(output)

    handle = module.register_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def last_attention_output(text_encoder: nn.Module) -> nn.Module:
    """Return the output projection of the last layer's attention in a CLIP text encoder.

    Raises:
        ValueError: If the text encoder has no such module.
    """
    found = {
        int(match[1]): module
        for name, module in text_encoder.named_modules()
        if (match := LAYER.search(name)) and match[2] == "self_attn.out_proj"
    }
    return _found([found[layer] for layer in sorted(found)], text_encoder, "self_attn.out_proj")


def final_norm(text_encoder: nn.Module) -> nn.Module:
    """Return the layer norm after the last layer of a CLIP text encoder.

    Raises:
        ValueError: If the text encoder has no such module.
    """
    named = text_encoder.named_modules()
    return _found([one for name, one in named if name.endswith("final_layer_norm")], text_encoder, "final_layer_norm")


def _found(modules: Sequence[nn.Module], text_encoder: nn.Module, name: str) -> nn.Module:
    """Return the last of the modules, and refuse a text encoder without any."""
    if not modules:
        raise ValueError(
            f"expected a CLIP text encoder with a module {name}, found none in {type(text_encoder).__name__}: choose a "
            "base with a CLIP text encoder"
        )
    return modules[-1]
