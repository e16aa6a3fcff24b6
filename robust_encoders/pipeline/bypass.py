"""Bypasses: parts of a pipeline that can bring a concept back past an attached encoder.

Also names the add-ons, such as a LoRA, that must be unloaded before the encoder can be exchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.pipeline.textual_inversion import added_tokens, highest_id, rows_of, tokens_without_vector


def has_adapter(module: nn.Module) -> bool:
    """Return true if a module holds a LoRA or another adapter of peft.

    Args:
        module: Component without a ``torch.compile`` wrapper.
    """
    return bool(getattr(module, "_hf_peft_config_loaded", False)) or any(
        type(part).__module__.split(".")[0] == "peft" for part in module.modules()
    )


def other_text_encoders(pipe: Any, component: str) -> tuple[str, ...]:
    """Return the names of a pipeline's text encoders other than the one in a slot, including those of a prior.

    Args:
        pipe: A diffusers pipeline.
        component: Name of the slot.
    """
    parts = getattr(pipe, "components", {}).items()
    named = [name for name, part in parts if "text_encoder" in name and part is not None]
    return tuple(sorted(name for name in named if name != component))


def to_unload(
    pipe: Any, component: str, current: nn.Module, coming: nn.Module | None, vocabulary: int
) -> tuple[str, ...]:
    """Return the add-ons of the current encoder that the next encoder lacks, each with the call that unloads it.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
        current: Encoder in the slot, without a ``torch.compile`` wrapper.
        coming: Encoder that would take its place; None empties the slot.
        vocabulary: Number of token embeddings of ``current`` when it was attached.
    """
    found = []
    if coming is not None and has_adapter(current) and not has_adapter(unwrapped(coming)):
        call = "call pipe.unload_lora_weights()" if hasattr(pipe, "unload_lora_weights") else "unload it"
        found.append(f"a LoRA in the text encoder: {call}")
    tokenizer = _tokenizer(pipe, component)
    if tokenizer is None:
        return tuple(found)
    if tokens := tokens_without_vector(tokenizer, current, coming, vocabulary):
        call = f"pipe.unload_textual_inversion({list(tokens)})" if hasattr(pipe, "unload_textual_inversion") else ""
        found.append(
            f"tokens of a textual inversion ({', '.join(tokens)}): {f'call {call}' if call else 'unload them'}"
        )
    elif (rows := rows_of(coming)) is not None and highest_id(tokenizer) >= rows:
        found.append(f"special tokens beyond the {rows} that the next encoder embeds: remove them from pipe.tokenizer")
    return tuple(found)


def _tokenizer(pipe: Any, component: str) -> Any:
    return getattr(pipe, component.replace("text_encoder", "tokenizer"), None)


def bypasses_in(pipe: Any, component: str, module: nn.Module) -> tuple[str, ...]:
    """Return sentences that name the ways in which a concept can still reach the pictures of a pipeline.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
        module: Robust encoder in the slot, without a ``torch.compile`` wrapper.
    """
    return (*_loaded(pipe, component, module), *_arguments(pipe))


def _loaded(pipe: Any, component: str, module: nn.Module) -> Iterator[str]:
    if others := other_text_encoders(pipe, component):
        yield f"other text encoders ({', '.join(others)}) are unchanged: the concept is reachable through them"
    if tokens := added_tokens(_tokenizer(pipe, component)):
        yield f"learned tokens ({', '.join(tokens)}): a vector found by textual inversion can bring the concept back"
    if has_adapter(module):
        yield "a LoRA in the text encoder: it changes the robust weights, and the erasure was never measured with it"
    denoisers = [getattr(pipe, name, None) for name in ("unet", "transformer")]
    if any(getattr(getattr(d, "config", None), "encoder_hid_dim_type", None) == "ip_image_proj" for d in denoisers):
        yield "an IP-Adapter: image prompts do not pass through the text encoder"


def _arguments(pipe: Any) -> Iterator[str]:
    takes = set(inspect.signature(type(pipe).__call__).parameters)
    takes |= set(getattr(getattr(pipe, "blocks", None), "input_names", ()))
    if "prompt_embeds" in takes:
        yield (
            "prompt_embeds: embeddings from another text encoder are drawn unchanged; prompt-weighting tools may pass "
            "such embeddings, because they keep the encoder they were built with"
        )
    if "clip_skip" in takes:
        yield "clip_skip: it reads an earlier layer, for which the erasure was neither trained nor measured"
    if "image" in takes:
        yield "image: a concept that a starting picture already shows is not erased from it"
