"""The copies of components that carry overlays: which overlays they hold in their weights, and which as hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import StaleAttachmentError
from robust_encoders.overlays import adapters, delta, eraser, projection
from robust_encoders.overlays.facilitated_transport import Carrier, final_norm
from robust_encoders.pipeline.attach import registered
from robust_encoders.pipeline.attached_overlay import PREFIXES, AttachedOverlay
from robust_encoders.pipeline.attentions import attentions_of, is_fused
from robust_encoders.pipeline.module_settings import Settings, settings_of
from robust_encoders.pipeline.shared_copy import allow_saving, shared_copy

_FUSED = frozenset(("to_qkv", "to_kv", "to_added_qkv"))


@dataclass(frozen=True, eq=False)
class Host:
    """A component of a pipeline that carries overlays.

    Args:
        component: Name of the slot.
        original: Module that was in the slot before the overlays.
        module: Copy of it with overlays, which is in the slot now.
        shapes: Names and shapes of the parameters of ``module`` when it was put into the slot.
        settings: Settings of ``module`` when it was put into the slot.
        registered: Entry of a modular pipeline for the slot before the overlays.
    """

    component: str
    original: nn.Module
    module: nn.Module
    shapes: frozenset[tuple[str, torch.Size]]
    settings: Settings
    registered: tuple[Any, Any] | None


def concerns(overlay: AttachedOverlay, component: str) -> bool:
    """Return true if an overlay changes a component or, like a live adapter, needs the text encoder for its gates.

    Args:
        overlay: The overlay.
        component: Name of the component.
    """
    return component in overlay.components() or (component == "text_encoder" and overlay.is_gated)


def host_of(pipe: Any, component: str, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> Host:
    """Return a copy of a pipeline's component that carries overlays; the pipeline is not changed.

    Args:
        pipe: The pipeline, without overlays.
        component: Name of the slot.
        overlays: Overlays of the pipeline in the fixed order, also those of other components.
        carrier: Object that carries the adapters' gates from the text encoder to the UNet.
    """
    original = unwrapped(getattr(pipe, component))
    require_separate(attentions_of(original), component)
    live = [overlay for overlay in overlays if overlay.live]
    here = [overlay.label for overlay in live if concerns(overlay, component)]
    module = shared_copy(original, " and ".join(here))
    for overlay in overlays:
        if not overlay.live and component in overlay.components():
            _write(module, component, overlay)
    if here:
        # All live overlays are passed, also those of other components: the gates have one column for each adapter.
        _HOOKED[component](module, live, carrier)
        _compile_anew(module)
    else:
        allow_saving(module)
    return Host(component, original, module, shapes_of(module), settings_of(module), registered(pipe, component))


def require_separate(attentions: Sequence[nn.Module], component: str) -> None:
    """Check that the layers of attentions are used, on which overlays act.

    Args:
        attentions: Attentions of the component.
        component: Name of the component, for the message.

    Raises:
        StaleAttachmentError: If an attention uses a fused matrix instead.
    """
    if any(map(is_fused, attentions)):
        raise StaleAttachmentError(
            f"expected pipe.{component} with separate projections for queries, keys and values, found them fused, so "
            "that an overlay on their layers would have no effect; call pipe.unfuse_qkv_projections() first"
        )


def shapes_of(module: nn.Module) -> frozenset[tuple[str, torch.Size]]:
    """Return names and shapes of a module's parameters, which change when something is loaded into it."""
    named = ((name, parameter.shape) for name, parameter in module.named_parameters())
    # unfuse_qkv_projections leaves the fused matrices in the module, where nothing reads them.
    return frozenset((name, shape) for name, shape in named if not _FUSED.intersection(name.split(".")))


def _write(module: nn.Module, component: str, overlay: AttachedOverlay) -> None:
    """Write a delta or a fused overlay into the weights of a copy."""
    if overlay.form == "delta":
        delta.replace_parameters(module, overlay.tensors)
        return
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
    matrices = [overlay.tensors[projection.PROJECTION_TENSOR] for overlay in overlays if overlay.form == "projection"]
    if matrices:
        final_norm(module).register_forward_hook(_Projected(matrices, carrier))
    if adapted:
        module.register_forward_hook(carrier.after_text, with_kwargs=True, always_call=True)


def _hook_unet(module: nn.Module, overlays: Sequence[AttachedOverlay], carrier: Carrier) -> None:
    module.register_forward_pre_hook(carrier.before_unet, with_kwargs=True)
    adapted = [overlay.adapter() for overlay in overlays if overlay.is_adapter]
    if adapters.hook(module, adapted, adapters.UNET_PREFIX, carrier.unet):
        module.register_forward_pre_hook(_Separate(attentions_of(module)))
    # An eraser reads the output of a whole cross-attention, so the adapters on the layers inside apply before it.
    eraser.hook(module, [overlay.eraser() for overlay in overlays if overlay.form == "eraser"])
    module.register_forward_hook(carrier.after_unet, with_kwargs=True, always_call=True)


@dataclass(eq=False)
class _Separate:
    """Forward pre-hook of a UNet that refuses to draw where the layers with adapters are not called.

    Args:
        attentions: Attentions of the UNet.
    """

    attentions: Sequence[nn.Module]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        require_separate(self.attentions, "unet")


def _compile_anew(module: nn.Module) -> None:
    """Keep ``torch.compile`` from using code that it made for a module of the same class without these hooks.

    By default it does not look at hooks when it decides if compiled code fits a module, but it does look for a forward
    of the object's own.
    """
    for part in module.modules():
        if part._forward_hooks or part._forward_pre_hooks:
            vars(part)["forward"] = part.forward


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
