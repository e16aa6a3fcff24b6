"""Composition of overlays: any number of overlays are laid over a pipeline's components and removed again.

The order of their effects does not depend on the order of attaching. First the text encoder with its adapters applies,
then the projections sorted by hash, then the UNet with its adapters and, after each cross-attention, the sum of the
erasers. In the weights of the UNet, a delta comes first, then fused adapters are added, then the weights are multiplied
by fused projections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.overlays.facilitated_transport import Carrier, encode_targets, special_ids
from robust_encoders.pipeline.attach import OVERLAYS_RECORD, attachment_of, put, restore_registered
from robust_encoders.pipeline.attached_overlay import PREFIXES, AttachedOverlay
from robust_encoders.pipeline.module_settings import carry_changes, warn_of_losses
from robust_encoders.pipeline.offload import follow
from robust_encoders.pipeline.overlay_hosts import Host, concerns, host_of
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.untouched import require_untouched
from robust_encoders.utils.inference_mode import makes_normal_tensors


@dataclass(frozen=True, eq=False)
class Composition:
    """All overlays that are attached to a pipeline.

    Args:
        overlays: Overlays in the fixed order.
        hosts: Components that carry the overlays.
        carrier: Object that carries the adapters' gates from the text encoder to the UNet.
    """

    overlays: tuple[AttachedOverlay, ...] = ()
    hosts: tuple[Host, ...] = ()
    carrier: Carrier | None = None

    def find(self, identity: str) -> AttachedOverlay | None:
        """Return the overlay with this hash, or None."""
        return next((overlay for overlay in self.overlays if overlay.identity == identity), None)


def composition_of(pipe: Any) -> Composition:
    """Return the overlays that are attached to a pipeline."""
    found: Composition | None = getattr(pipe, OVERLAYS_RECORD, None)
    return Composition() if found is None else found


def compose(pipe: Any, overlays: Sequence[AttachedOverlay]) -> None:
    """Replace a pipeline's overlays by the given ones; if anything fails, the previous overlays stay.

    Args:
        pipe: A pipeline against which all given overlays were checked.
        overlays: Overlays in any order; an empty sequence removes all overlays.

    Raises:
        StaleAttachmentError: If a component was replaced, or something was loaded into it, after overlays were
            attached.
    """
    before = composition_of(pipe)
    with ExitStack() as undo:
        _take_off(pipe, before)
        undo.callback(_put_on, pipe, before.overlays)
        _put_on(pipe, overlays)
        undo.pop_all()


@contextmanager
def lifted(pipe: Any) -> Iterator[None]:
    """Remove all overlays for the length of a ``with`` block; afterwards lay them over the components of that moment.

    Args:
        pipe: The pipeline.

    Raises:
        StaleAttachmentError: If a component was replaced or changed, see :func:`compose`.
    """
    before = composition_of(pipe)
    _take_off(pipe, before)
    try:
        yield
    finally:
        _put_on(pipe, before.overlays)


def reference_of(pipe: Any) -> nn.Module:
    """Return the text encoder that a pipeline had before any robust encoder, without overlays."""
    record = attachment_of(pipe)
    if record is None or record.original is None:
        return deployed_in(pipe)
    original: nn.Module = unwrapped(record.original)
    return original


def deployed_in(pipe: Any) -> nn.Module:
    """Return the attached text encoder, the one that prompts pass through, without overlays."""
    deployed: nn.Module = beneath(pipe, "text_encoder")
    return deployed


def unet_of(pipe: Any) -> nn.Module | None:
    """Return the UNet of a pipeline without overlays; None for an empty slot."""
    found: nn.Module | None = beneath(pipe, "unet")
    return found


def beneath(pipe: Any, component: str) -> Any:
    """Return what a slot holds without overlays and without a ``torch.compile`` wrapper.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
    """
    host = next((host for host in composition_of(pipe).hosts if host.component == component), None)
    return unwrapped(part_of(pipe, component) if host is None else host.original)


@makes_normal_tensors
def _take_off(pipe: Any, composition: Composition) -> None:
    require_untouched(pipe, composition.hosts)
    with ExitStack() as undo:
        for host in composition.hosts:
            undo.callback(put, pipe, host.component, host.module)
            warn_of_losses(host.component, host.settings, getattr(pipe, host.component))
            follow(host.original, host.module)
            carry_changes(host.settings, host.module, host.original)
            put(pipe, host.component, host.original)
            restore_registered(pipe, host.component, host.registered)
        undo.pop_all()
    if hasattr(pipe, OVERLAYS_RECORD):
        delattr(pipe, OVERLAYS_RECORD)


@makes_normal_tensors
def _put_on(pipe: Any, overlays: Sequence[AttachedOverlay]) -> None:
    if not overlays:
        return
    ordered = [_with_targets(pipe, overlay) for overlay in sorted(overlays, key=lambda overlay: overlay.place)]
    carrier = _carrier(pipe, ordered)
    hosts = [
        host_of(pipe, name, ordered, carrier)
        for name in PREFIXES
        if any(concerns(overlay, name) for overlay in ordered)
    ]
    with ExitStack() as undo:
        for host in hosts:
            undo.callback(restore_registered, pipe, host.component, host.registered)
            undo.callback(put, pipe, host.component, host.original)
            put(pipe, host.component, host.module)
        setattr(pipe, OVERLAYS_RECORD, Composition(tuple(ordered), tuple(hosts), carrier))
        undo.pop_all()


def _with_targets(pipe: Any, overlay: AttachedOverlay) -> AttachedOverlay:
    if not overlay.is_gated or overlay.targets is not None:
        return overlay
    return replace(overlay, targets=encode_targets(overlay.config["prompts"], pipe.tokenizer, reference_of(pipe)))


def _carrier(pipe: Any, overlays: Sequence[AttachedOverlay]) -> Carrier:
    gated = [overlay for overlay in overlays if overlay.is_gated]
    reference = reference_of(pipe)
    # Overlays that are fused into the text encoder's copy cannot be switched off for the pass that computes the gates.
    fused = any("text_encoder" in overlay.components() for overlay in overlays if not overlay.live)
    carrier = Carrier(
        [overlay.targets for overlay in gated if overlay.targets is not None],
        special_ids(pipe.tokenizer),
        reference=None if reference is deployed_in(pipe) and not fused else reference,
        apart=any("text_encoder" in overlay.components() for overlay in overlays),
    )
    for gates in (carrier.text, carrier.unet):
        gates.scales = tuple(overlay.scale for overlay in gated)
        gates.transport = gated[0].transport if gated else "paper"
    return carrier
