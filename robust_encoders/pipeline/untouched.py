"""Checks that the components with overlays are still as they were when the overlays were attached."""

from __future__ import annotations

from typing import Any

from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import StaleAttachmentError
from robust_encoders.pipeline.attentions import attentions_of, is_fused
from robust_encoders.pipeline.bypass import has_adapter, has_ip_adapter
from robust_encoders.pipeline.offload import SUPPORTED, mode_of
from robust_encoders.pipeline.overlay_hosts import Host, shapes_of
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.textual_inversion import rows_of


def require_untouched(pipe: Any, hosts: tuple[Host, ...]) -> None:
    """Check that nothing was put in the place of components with overlays, or loaded into them.

    Args:
        pipe: The pipeline.
        hosts: Components that carry the overlays.

    Raises:
        StaleAttachmentError: If something was; the message names everything with the call that undoes it.
    """
    _raise([problem for host in hosts for problem in _problems(pipe, host)])


def require_in_place(pipe: Any, hosts: tuple[Host, ...]) -> None:
    """Check that every component with overlays is still in its slot.

    Args:
        pipe: The pipeline.
        hosts: Components that carry the overlays.

    Raises:
        StaleAttachmentError: If something was put in its place; the message names each of them.
    """
    _raise([problem for host in hosts for problem in _replaced(pipe, host)])


def _raise(problems: list[str]) -> None:
    if problems:
        raise StaleAttachmentError(
            "expected the components as they were when overlays were attached to them, found "
            + "; ".join(problems)
            + "; then try again"
        )


def _replaced(pipe: Any, host: Host) -> list[str]:
    current, slot = unwrapped(part_of(pipe, host.component)), f"pipe.{host.component}"
    if current is host.module:
        return []
    now = "nothing" if current is None else f"a {type(current).__name__} that was put there since"
    return [f"in {slot} {now}: set {slot} back to the previous module, or leave the pipeline as it is"]


def _problems(pipe: Any, host: Host) -> list[str]:
    if replaced := _replaced(pipe, host):
        return replaced
    current, slot = unwrapped(getattr(pipe, host.component)), f"pipe.{host.component}"
    found = [] if (mode := mode_of(pipe, current)) in SUPPORTED else [f"{mode} of {slot}: {_undo(mode)}"]
    if any(map(is_fused, attentions_of(current))):
        found.append(f"fused projections in {slot}: call pipe.unfuse_qkv_projections()")
    loaded = _loaded(slot, current, host.original)
    if not loaded and not found and (odd := shapes_of(current) ^ host.shapes):
        names = ", ".join(sorted({name for name, _ in odd})[:2])
        loaded = [f"weights of {slot} loaded or unloaded since ({names}, ...): undo that"]
    return found + loaded


def _undo(mode: str) -> str:
    return "call pipe.reset_device_map()" if mode == "device map" else "undo it, or load the pipeline again"


def _loaded(slot: str, now: nn.Module, before: nn.Module) -> list[str]:
    kinds = {
        "a LoRA": (has_adapter(now), has_adapter(before), "pipe.unload_lora_weights()"),
        "an IP-Adapter": (has_ip_adapter(now), has_ip_adapter(before), "pipe.unload_ip_adapter()"),
        "a textual inversion": (rows_of(now), rows_of(before), "pipe.unload_textual_inversion()"),
    }
    return [
        f"{name} that was loaded into {slot} since: call {call}"
        if (there or 0) > (had or 0)
        else f"{name} that was unloaded from {slot} since: load it again, and unload it after detaching"
        for name, (there, had, call) in kinds.items()
        if there != had
    ]
