"""Bypasses: parts of a pipeline that can bring a concept back past an attached encoder.

Also names the add-ons, such as a LoRA, that must be unloaded before the encoder can be exchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.pipeline.learned_vectors import large_vectors
from robust_encoders.pipeline.parts import part_of, text_encoders_of
from robust_encoders.pipeline.slots import Slots, erased_in
from robust_encoders.pipeline.textual_inversion import (
    added_tokens,
    highest_id,
    rows_of,
    tokens_beyond,
    tokens_without_vector,
)


def has_adapter(module: nn.Module) -> bool:
    """Return true if a module holds a LoRA or another adapter of peft.

    Args:
        module: Component without a ``torch.compile`` wrapper.
    """
    return bool(getattr(module, "_hf_peft_config_loaded", False)) or any(
        type(part).__module__.split(".")[0] == "peft" for part in module.modules()
    )


def has_ip_adapter(module: Any) -> bool:
    """Return true if an IP-Adapter is loaded into a denoiser.

    Args:
        module: UNet or transformer without a ``torch.compile`` wrapper, or another component, or None.
    """
    return getattr(getattr(module, "config", None), "encoder_hid_dim_type", None) == "ip_image_proj"


def other_text_encoders(pipe: Any, component: str) -> tuple[str, ...]:
    """Return the names of a pipeline's text encoders other than the one in a slot, also of a prior or a whole CLIP.

    Args:
        pipe: A diffusers pipeline.
        component: Name of the slot.
    """
    return tuple(name for name, part in text_encoders_of(pipe).items() if part is not None and name != component)


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
    return part_of(pipe, component.replace("text_encoder", "tokenizer"))


def bypasses_in(pipe: Any, component: str, module: nn.Module) -> tuple[str, ...]:
    """Return sentences that name the ways in which a concept can still reach the pictures of a pipeline.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
        module: Robust encoder in the slot, or text encoder with an overlay, without a ``torch.compile`` wrapper.
    """
    return (
        *_of_the_text(pipe, component, module),
        *_loaded(pipe),
        *_arguments(pipe, {**_TEXT_ARGUMENTS, **_ALL_ARGUMENTS}),
    )


def bypasses_of_the_unet(pipe: Any) -> tuple[str, ...]:
    """Return sentences that name the ways past overlays that change the UNet alone.

    Args:
        pipe: The pipeline.
    """
    return (*_loaded(pipe), *_arguments(pipe, _ALL_ARGUMENTS))


def _of_the_text(pipe: Any, component: str, module: nn.Module) -> Iterator[str]:
    yield from _through_others(pipe, Slots.of(pipe, component, erased_in(module)))
    for name in embeddings_kept_in(pipe, module):
        yield (
            f"pipe.{name}: a tensor as wide as the text encoder's outputs is kept in the pipeline; if another encoder "
            "computed it, it is drawn unchanged, so compute it again after attaching"
        )
    if tokens := added_tokens(_tokenizer(pipe, component)):
        yield f"learned tokens ({', '.join(tokens)}): a vector found by textual inversion can bring the concept back"
    if lacking := tokens_beyond(_tokenizer(pipe, component), rows_of(module)):
        named = ", ".join(lacking[:6]) + ", ..." * (len(lacking) > 6)
        yield f"tokens ({named}) have no vector in this encoder: drawing with one of them fails"
    yield from large_vectors(_tokenizer(pipe, component), module)
    if has_adapter(module):
        yield "a LoRA in the text encoder: it changes the robust weights, and the erasure was never measured with it"


def _through_others(pipe: Any, slots: Slots) -> Iterator[str]:
    robust = [name for name in slots.open if erased_in(part_of(pipe, name))]
    for names, state in ((set(slots.open) - set(robust), "are unchanged"), (set(robust), "erase another concept")):
        if names:
            yield f"other text encoders ({', '.join(sorted(names))}) {state}: the concept is reachable through them"


def _loaded(pipe: Any) -> Iterator[str]:
    for name in ("unet", "transformer"):
        denoiser = unwrapped(part_of(pipe, name))
        if isinstance(denoiser, nn.Module) and has_adapter(denoiser):
            yield f"a LoRA in the {name}: it may have learned the concept, and the erasure was never measured with it"
        if has_ip_adapter(denoiser):
            yield "an IP-Adapter: image prompts do not pass through the text encoder"


_TEXT_ARGUMENTS: Mapping[str, str] = {
    "prompt_embeds": (
        "embeddings from another text encoder are drawn unchanged; tools that took hold of the old encoder, such as "
        "prompt weighting, traced encoders and caches of embeddings, pass such embeddings: build them after attaching "
        "(status with references=True searches for them)"
    ),
    "prompt_2": "it sends another text to the second text encoder; the erasure was measured with one text for both",
    "clip_skip": "it reads an earlier layer, for which the erasure was neither trained nor measured",
}
_ALL_ARGUMENTS: Mapping[str, str] = {"image": "a concept that a starting picture already shows is not erased from it"}


def _arguments(pipe: Any, ways: Mapping[str, str]) -> Iterator[str]:
    takes = set(inspect.signature(type(pipe).__call__).parameters)
    takes |= set(getattr(getattr(pipe, "blocks", None), "input_names", ()))
    for name, way in ways.items():
        if name in takes:
            yield f"{name}: {way}"


def embeddings_kept_in(pipe: Any, module: nn.Module) -> tuple[str, ...]:
    """Return the attributes of a pipeline that hold embeddings: tensors (B, L, D) as wide as an encoder's outputs.

    Args:
        pipe: The pipeline.
        module: Text encoder, without a ``torch.compile`` wrapper.
    """
    width = getattr(getattr(module, "config", None), "hidden_size", None)
    own = getattr(pipe, "__dict__", {}).items()
    return tuple(sorted(name for name, value in own if any(one.shape[-1] == width for one in _embeddings(value))))


def _embeddings(value: Any, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.ndim == 3 and value.is_floating_point():
            yield value
    elif depth and type(value) in (dict, list, tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _embeddings(one, depth - 1)


def forget_embeddings(pipe: Any) -> None:
    """Empty the places where a pipeline keeps an embedding that it computes again when it is missing.

    Marigold keeps the embedding of the empty prompt, its only prompt.

    Args:
        pipe: A pipeline whose text encoder is exchanged.
    """
    if getattr(pipe, "empty_text_embedding", None) is not None:
        pipe.empty_text_embedding = None
