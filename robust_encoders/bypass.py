"""What can carry a concept past an attached encoder, and what has to go before the encoder can."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from .layouts import unwrapped
from .learned import highest_id, learned_tokens, rows_of


def has_adapter(module: nn.Module) -> bool:
    """Return whether a LoRA or another adapter of peft is in a module.

    Args:
        module: A component, uncompiled.
    """
    return bool(getattr(module, "_hf_peft_config_loaded", False)) or any(
        type(part).__module__.split(".")[0] == "peft" for part in module.modules()
    )


def other_text_encoders(pipe: Any, component: str) -> tuple[str, ...]:
    """Return the names of a pipeline's text encoders beside the one in a slot.

    Args:
        pipe: A diffusers pipeline.
        component: The slot.
    """
    parts = pipe.components.items()
    named = [name for name, part in parts if name.startswith("text_encoder") and part is not None]
    return tuple(sorted(name for name in named if name != component))


def to_unload(pipe: Any, component: str, current: nn.Module, coming: nn.Module | None) -> tuple[str, ...]:
    """Return, in words, what was loaded into an encoder, or together with it, that the next one does not have.

    Args:
        pipe: The pipeline.
        component: The slot.
        current: The encoder in it, uncompiled.
        coming: What would take its place; None empties the slot.
    """
    if coming is None:
        return ()
    found = []
    if has_adapter(current) and not has_adapter(unwrapped(coming)):
        found.append("a LoRA in the text encoder: call pipe.unload_lora_weights()")
    tokenizer, rows = _tokenizer(pipe, component), rows_of(coming)
    if tokenizer is not None and rows is not None and highest_id(tokenizer) >= rows:
        tokens = ", ".join(learned_tokens(tokenizer, rows)) or f"ids up to {highest_id(tokenizer)}"
        found.append(f"tokens of a textual inversion ({tokens}): call pipe.unload_textual_inversion()")
    return tuple(found)


def _tokenizer(pipe: Any, component: str) -> Any:
    return getattr(pipe, component.replace("text_encoder", "tokenizer"), None)


def ways_around(pipe: Any, component: str, module: nn.Module, vocabulary: int | None) -> tuple[str, ...]:
    """Return, in sentences, how a concept can still reach the pictures of a pipeline with a robust encoder.

    Args:
        pipe: The pipeline.
        component: The slot.
        module: The robust encoder in it, uncompiled.
        vocabulary: Number of token embeddings it came with; None where that is not known.
    """
    return (*_loaded(pipe, component, module, vocabulary), *_arguments(pipe))


def _loaded(pipe: Any, component: str, module: nn.Module, vocabulary: int | None) -> Iterator[str]:
    if others := other_text_encoders(pipe, component):
        yield f"{', '.join(others)} stayed as before: the concept is reachable through it"
    tokenizer = _tokenizer(pipe, component)
    base = len(tokenizer.get_vocab()) - len(tokenizer.get_added_vocab()) if tokenizer is not None else 0
    if tokens := learned_tokens(tokenizer, base if vocabulary is None else vocabulary):
        yield f"learned tokens ({', '.join(tokens)}): a vector found by textual inversion can bring the concept back"
    if has_adapter(module):
        yield "a LoRA in the text encoder: it changes the robust weights, and was never measured with them"
    if getattr(getattr(getattr(pipe, "unet", None), "config", None), "encoder_hid_dim_type", None) == "ip_image_proj":
        yield "an IP-Adapter: image prompts do not pass through the text encoder"


def _arguments(pipe: Any) -> Iterator[str]:
    takes = set(inspect.signature(type(pipe).__call__).parameters)
    takes |= set(getattr(getattr(pipe, "blocks", None), "input_names", ()))
    if "prompt_embeds" in takes:
        yield (
            "prompt_embeds: embeddings made elsewhere are drawn as they are, also by prompt-weighting tools that hold "
            "on to the encoder they were built with"
        )
    if "clip_skip" in takes:
        yield "clip_skip: it reads an earlier layer, for which the erasure was neither trained nor measured"
    if "image" in takes:
        yield "image: what a starting picture shows already is not erased from it"
