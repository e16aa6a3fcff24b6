"""Adapters and projections on a pipeline: any number of them, put over its components and taken off again.

Order is fixed, whatever the order of attaching: the text encoder with its adapters, the projections by hash, the UNet
with its adapters. What is fused into the UNet is: its own weights, adapters added, then projections multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.artifact.forms import adapter_of
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import StaleAttachmentError
from robust_encoders.overlays import adapters, projection
from robust_encoders.overlays.adapters import Adapter
from robust_encoders.overlays.facilitated_transport import Carrier, GateTargets, encode_targets, final_norm, special_ids
from robust_encoders.pipeline.attach import OVERLAYS_RECORD, attachment_of, put, registered, restore_registered
from robust_encoders.pipeline.bypass import has_adapter
from robust_encoders.pipeline.offload import follow
from robust_encoders.pipeline.shared_copy import allow_saving, shared_copy

PREFIXES: Mapping[str, str] = {"text_encoder": adapters.TEXT_PREFIX, "unet": adapters.UNET_PREFIX}


@dataclass(frozen=True, eq=False)
class AttachedOverlay:
    """One adapter or projection as it is attached.

    Args:
        manifest: Manifest of the artifact.
        tensors: Tensors of the artifact.
        config: Configuration of the artifact.
        identity: Hash of tensors and configuration.
        label: Name of the overlay, for messages.
        scale: Factor of an adapter's strength.
        transport: Rule by which gates scale an adapter.
        gate: Constant in place of one per prompt, of an overlay that is fused; None for a live one.
        targets: Conditionings that prompts are compared with, of an adapter; filled in when it is attached.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    identity: str
    label: str
    scale: float = 1.0
    transport: adapters.Transport = "paper"
    gate: float | None = None
    targets: GateTargets | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter; otherwise it is a projection."""
        return self.manifest.form == "adapter"

    @property
    def live(self) -> bool:
        """Whether it is a hook; otherwise it is in the weights."""
        return self.gate is None

    def adapter(self) -> Adapter:
        """Return the adapter."""
        return adapter_of(self.tensors, self.config)

    def components(self) -> tuple[str, ...]:
        """Return the components that it changes."""
        if not self.is_adapter:
            return ("text_encoder",) if self.live else ("unet",)
        return tuple(name for name, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in self.tensors))


@dataclass(frozen=True, eq=False)
class Host:
    """A component of a pipeline that carries something.

    Args:
        component: The slot.
        original: Module that was in the slot.
        module: Module that is in the slot.
        shapes: Names and shapes of the parameters of ``module`` when it was put there.
        registered: Entry that a modular pipeline had for the slot.
    """

    component: str
    original: nn.Module
    module: nn.Module
    shapes: frozenset[tuple[str, torch.Size]]
    registered: tuple[Any, Any] | None


@dataclass(frozen=True, eq=False)
class Composition:
    """Everything that is attached to a pipeline beside a whole encoder.

    Args:
        overlays: Overlays in the fixed order.
        hosts: The components that carry them.
        carrier: Carrier of their gates.
    """

    overlays: tuple[AttachedOverlay, ...] = ()
    hosts: tuple[Host, ...] = ()
    carrier: Carrier | None = None

    def find(self, identity: str) -> AttachedOverlay | None:
        """Return the overlay with this content, or None."""
        return next((overlay for overlay in self.overlays if overlay.identity == identity), None)


def composition_of(pipe: Any) -> Composition:
    """Return what is attached to a pipeline beside a whole encoder."""
    found: Composition | None = getattr(pipe, OVERLAYS_RECORD, None)
    return Composition() if found is None else found


def compose(pipe: Any, overlays: Sequence[AttachedOverlay]) -> None:
    """Make these overlays the ones that a pipeline carries; all or nothing.

    Args:
        pipe: A pipeline that all of them were checked against.
        overlays: Overlays in any order; none takes everything off.

    Raises:
        StaleAttachmentError: If a component was replaced, or something was loaded into it, since overlays were put on.
    """
    before = composition_of(pipe)
    with ExitStack() as undo:
        _take_off(pipe, before)
        undo.callback(_put_on, pipe, before.overlays)
        _put_on(pipe, overlays)
        undo.pop_all()


@contextmanager
def lifted(pipe: Any) -> Iterator[None]:
    """Take all overlays off for the length of a ``with`` block; afterwards they lie over whatever is there then.

    Args:
        pipe: The pipeline.

    Raises:
        StaleAttachmentError: As :func:`compose`.
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
    """Return the text encoder that prompts pass through, without overlays."""
    host = next((host for host in composition_of(pipe).hosts if host.component == "text_encoder"), None)
    deployed: nn.Module = unwrapped(pipe.text_encoder if host is None else host.original)
    return deployed


def _take_off(pipe: Any, composition: Composition) -> None:
    for host in composition.hosts:
        _require_untouched(pipe, host)
    with ExitStack() as undo:
        for host in composition.hosts:
            undo.callback(put, pipe, host.component, host.module)
            follow(host.original, host.module)
            _keep_processors(host)
            put(pipe, host.component, host.original)
            restore_registered(pipe, host.component, host.registered)
        undo.pop_all()
    if hasattr(pipe, OVERLAYS_RECORD):
        delattr(pipe, OVERLAYS_RECORD)


def _require_untouched(pipe: Any, host: Host) -> None:
    current = unwrapped(getattr(pipe, host.component))
    slot = f"pipe.{host.component}"
    if current is not host.module:
        raise StaleAttachmentError(
            f"expected {slot} as it was when overlays were attached to it, found a {type(current).__name__} that was "
            "put there since; set it back, or keep the pipeline as it is"
        )
    shapes = _shapes(host.module)
    if shapes != host.shapes or has_adapter(host.module) != has_adapter(host.original):
        odd = sorted({name for name, _ in shapes ^ host.shapes})[:2]
        raise StaleAttachmentError(
            f"expected {slot} as it was when overlays were attached to it, found weights loaded or unloaded since "
            f"({', '.join(odd) or 'a LoRA'}, ...); undo that first, by pipe.unload_lora_weights(), "
            "pipe.unload_textual_inversion() or pipe.unload_ip_adapter(), then load it again afterwards"
        )


def _keep_processors(host: Host) -> None:
    """Carry attention processors over that were chosen while overlays were attached."""
    original: Any = host.original
    chosen, had = getattr(host.module, "attn_processors", {}), getattr(original, "attn_processors", {})
    if {name: type(one) for name, one in chosen.items()} != {name: type(one) for name, one in had.items()}:
        original.set_attn_processor(dict(chosen))


def _put_on(pipe: Any, overlays: Sequence[AttachedOverlay]) -> None:
    if not overlays:
        return
    # Adapters first: what is fused adds them to the weights before it multiplies by a projection.
    in_order = sorted(overlays, key=lambda overlay: (not overlay.is_adapter, overlay.identity))
    ordered = [_with_targets(pipe, overlay) for overlay in in_order]
    carrier = _carrier(pipe, ordered)
    hosts = [
        _host(pipe, name, ordered, carrier) for name in PREFIXES if any(_concerns(overlay, name) for overlay in ordered)
    ]
    with ExitStack() as undo:
        for host in hosts:
            undo.callback(restore_registered, pipe, host.component, host.registered)
            undo.callback(put, pipe, host.component, host.original)
            put(pipe, host.component, host.module)
        setattr(pipe, OVERLAYS_RECORD, Composition(tuple(ordered), tuple(hosts), carrier))
        undo.pop_all()


def _concerns(overlay: AttachedOverlay, component: str) -> bool:
    """Return whether an overlay needs anything of a component: live adapters take their gates from the text encoder."""
    return component in overlay.components() or (component == "text_encoder" and overlay.is_adapter and overlay.live)


def _with_targets(pipe: Any, overlay: AttachedOverlay) -> AttachedOverlay:
    if not (overlay.is_adapter and overlay.live) or overlay.targets is not None:
        return overlay
    return replace(overlay, targets=encode_targets(overlay.config["prompts"], pipe.tokenizer, reference_of(pipe)))


def _carrier(pipe: Any, overlays: Sequence[AttachedOverlay]) -> Carrier:
    gated = [overlay for overlay in overlays if overlay.is_adapter and overlay.live]
    reference = reference_of(pipe)
    # What is fused into the text encoder's copy cannot be passed by.
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


def _host(pipe: Any, component: str, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> Host:
    original = unwrapped(getattr(pipe, component))
    live = [overlay for overlay in overlays if overlay.live]
    here = [overlay.label for overlay in live if _concerns(overlay, component)]
    module = shared_copy(original, " and ".join(here))
    for overlay in overlays:
        if not overlay.live and component in overlay.components():
            _fuse(module, component, overlay)
    if here:
        # All of them, here or not: gates have a column for each adapter.
        _HOOKED[component](module, live, carrier)
    else:
        allow_saving(module)
    return Host(component, original, module, _shapes(module), registered(pipe, component))


def _shapes(module: nn.Module) -> frozenset[tuple[str, torch.Size]]:
    return frozenset((name, parameter.shape) for name, parameter in module.named_parameters())


def _fuse(module: nn.Module, component: str, overlay: AttachedOverlay) -> None:
    if overlay.is_adapter:
        constant = (overlay.gate or 0.0) * overlay.scale
        weights = adapters.fused_weights(module, [overlay.adapter()], PREFIXES[component], [constant])
    else:
        weights = projection.fused(module, overlay.tensors[projection.PROJECTION_TENSOR])
    for name, weight in weights.items():
        layer: Any = module.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


def _hook_text(module: nn.Module, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> None:
    adapted = [overlay.adapter() for overlay in overlays if overlay.is_adapter]
    if adapted:
        # Before the adapters' own hooks are there: it opens them.
        module.register_forward_pre_hook(carrier.before_text, with_kwargs=True)
        adapters.hook(module, adapted, adapters.TEXT_PREFIX, carrier.text)
    matrices = [overlay.tensors[projection.PROJECTION_TENSOR] for overlay in overlays if not overlay.is_adapter]
    if matrices:
        final_norm(module).register_forward_hook(_Projected(matrices, carrier))
    if adapted:
        module.register_forward_hook(carrier.after_text, with_kwargs=True, always_call=True)


def _hook_unet(module: nn.Module, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> None:
    module.register_forward_pre_hook(carrier.before_unet, with_kwargs=True)
    adapted = [overlay.adapter() for overlay in overlays if overlay.is_adapter]
    adapters.hook(module, adapted, adapters.UNET_PREFIX, carrier.unet)
    module.register_forward_hook(carrier.after_unet, with_kwargs=True, always_call=True)


_HOOKED: Mapping[str, Callable[[nn.Module, Sequence[AttachedOverlay], Carrier], None]] = {
    "text_encoder": _hook_text,
    "unet": _hook_unet,
}


@dataclass(eq=False)
class _Projected:
    """Multiplies what the last norm of a text encoder gives by matrices, one after the other.

    Args:
        matrices: (D, D) each, in the order in which they apply.
        carrier: Says when a pass is to see none of it.
    """

    matrices: Sequence[Tensor]
    carrier: Carrier

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for matrix in () if self.carrier.bare else self.matrices:
            output = projection.projected(output, matrix)
        return output
