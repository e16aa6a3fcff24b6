"""Composition of overlays: any number of adapters and projections are laid over a pipeline's components and removed.

The order of their effects does not depend on the order of attaching. First the text encoder with its adapters applies,
then the projections sorted by hash, then the UNet with its adapters. When overlays are fused into the UNet, adapters
are added to its weights first, then the weights are multiplied by the projections.
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
    """One attached adapter or projection, with its settings.

    Args:
        manifest: Manifest of the artifact.
        tensors: Tensors of the artifact.
        config: Configuration of the artifact.
        identity: Hash of tensors and configuration.
        label: Name of the overlay, for messages.
        scale: Factor of an adapter's strength.
        transport: Rule by which gates scale an adapter, see :class:`robust_encoders.overlays.adapters.Gates`.
        gate: Constant gate of a fused overlay; None for a live overlay, whose gates depend on the prompt.
        targets: Encoded prompts of an adapter, with which other prompts are compared; computed when it is attached.
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
        """True for an adapter, false for a projection."""
        return self.manifest.form == "adapter"

    @property
    def live(self) -> bool:
        """True if the overlay acts by hooks, false if it is fused into the weights."""
        return self.gate is None

    def adapter(self) -> Adapter:
        """Return the adapter in the tensors."""
        return adapter_of(self.tensors, self.config)

    def components(self) -> tuple[str, ...]:
        """Return the names of the components that the overlay changes."""
        if not self.is_adapter:
            return ("text_encoder",) if self.live else ("unet",)
        return tuple(name for name, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in self.tensors))


@dataclass(frozen=True, eq=False)
class Host:
    """A component of a pipeline that carries overlays.

    Args:
        component: Name of the slot.
        original: Module that was in the slot before the overlays.
        module: Copy of it with overlays, which is in the slot now.
        shapes: Names and shapes of the parameters of ``module`` when it was put into the slot.
        registered: Entry of a modular pipeline for the slot before the overlays.
    """

    component: str
    original: nn.Module
    module: nn.Module
    shapes: frozenset[tuple[str, torch.Size]]
    registered: tuple[Any, Any] | None


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
            f"put there since; set {slot} back to the previous module, or leave the pipeline as it is"
        )
    shapes = _shapes(host.module)
    if shapes != host.shapes or has_adapter(host.module) != has_adapter(host.original):
        odd = sorted({name for name, _ in shapes ^ host.shapes})[:2]
        raise StaleAttachmentError(
            f"expected {slot} as it was when overlays were attached to it, found weights loaded or unloaded since "
            f"({', '.join(odd) or 'a LoRA'}, ...); undo that first, by pipe.unload_lora_weights(), "
            "pipe.unload_textual_inversion() or pipe.unload_ip_adapter(), and load the weights again afterwards"
        )


def _keep_processors(host: Host) -> None:
    """Keep the attention processors that the user chose while overlays were attached."""
    original: Any = host.original
    chosen, had = getattr(host.module, "attn_processors", {}), getattr(original, "attn_processors", {})
    if {name: type(one) for name, one in chosen.items()} != {name: type(one) for name, one in had.items()}:
        original.set_attn_processor(dict(chosen))


def _put_on(pipe: Any, overlays: Sequence[AttachedOverlay]) -> None:
    if not overlays:
        return
    # Adapters come first: fusing adds them to the weights before it multiplies the weights by projections.
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
    """Return true if an overlay changes a component or, like a live adapter, needs the text encoder for its gates."""
    return component in overlay.components() or (component == "text_encoder" and overlay.is_adapter and overlay.live)


def _with_targets(pipe: Any, overlay: AttachedOverlay) -> AttachedOverlay:
    if not (overlay.is_adapter and overlay.live) or overlay.targets is not None:
        return overlay
    return replace(overlay, targets=encode_targets(overlay.config["prompts"], pipe.tokenizer, reference_of(pipe)))


def _carrier(pipe: Any, overlays: Sequence[AttachedOverlay]) -> Carrier:
    gated = [overlay for overlay in overlays if overlay.is_adapter and overlay.live]
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


def _host(pipe: Any, component: str, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> Host:
    original = unwrapped(getattr(pipe, component))
    live = [overlay for overlay in overlays if overlay.live]
    here = [overlay.label for overlay in live if _concerns(overlay, component)]
    module = shared_copy(original, " and ".join(here))
    for overlay in overlays:
        if not overlay.live and component in overlay.components():
            _fuse(module, component, overlay)
    if here:
        # All live overlays are passed, also those of other components: the gates have one column for each adapter.
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
        # This hook sets the gates, so it is registered before the adapters' own hooks.
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
    """Forward hook that multiplies the output of a text encoder's final norm by projections, one after the other.

    Args:
        matrices: Projections (D, D) in the order in which they apply.
        carrier: Carrier of the gates; while its ``bare`` is true, the hook changes nothing.
    """

    matrices: Sequence[Tensor]
    carrier: Carrier

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for matrix in () if self.carrier.bare else self.matrices:
            output = projection.projected(output, matrix)
        return output
