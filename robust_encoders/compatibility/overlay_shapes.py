"""Checks that a pipeline has the layers and parameters that an overlay changes, each in its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from robust_encoders.artifact.forms import adapter_of
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility.facts import config_of
from robust_encoders.compatibility.report import Check
from robust_encoders.overlays import adapters, delta, eraser
from robust_encoders.overlays.projection import PROJECTION_TENSOR
from robust_encoders.overlays.values import shown
from robust_encoders.pipeline.attached_overlay import PREFIXES
from robust_encoders.pipeline.composition import reference_of
from robust_encoders.pipeline.shared_copy import original_of


class OverlayContent(NamedTuple):
    """Manifest, tensors and configuration of an overlay, for the checks."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def covers(self, component: str) -> bool:
        """Return true if the overlay changes weights or outputs of a component."""
        if self.manifest.form == "projection":
            return component == "text_encoder"
        if self.manifest.form != "adapter":
            return component == self.manifest.component
        return any(key.startswith(PREFIXES[component]) for key in self.tensors)


def shape_checks(pipe: Any, overlay: OverlayContent) -> list[Check]:
    """Check that the components have every layer or parameter that an overlay names, in its shape.

    Args:
        pipe: A diffusers pipeline.
        overlay: Content of the overlay.
    """
    return _CHECKS[overlay.manifest.form](pipe, overlay)


def _projection(pipe: Any, overlay: OverlayContent) -> list[Check]:
    width = config_of(reference_of(pipe)).get("hidden_size")
    found = overlay.tensors[PROJECTION_TENSOR].shape[0]
    remedy = "load the base that the projection was made for"
    return [Check("width", width == found, "error", f"{width} (text encoder)", str(found), remedy)]


def _delta(pipe: Any, overlay: OverlayContent) -> list[Check]:
    wrong = delta.misfits(original_of(pipe.unet), overlay.tensors)
    return [
        Check(
            "tensors of the unet",
            not wrong,
            "error",
            f"a parameter of its name and shape for each of {len(overlay.tensors)} tensors",
            shown(wrong) if wrong else "all of them",
            "load the base that the delta was trained on",
        )
    ]


def _eraser(pipe: Any, overlay: OverlayContent) -> list[Check]:
    made = eraser.Eraser(overlay.tensors)
    wrong = eraser.misfits(original_of(pipe.unet), made)
    return [
        Check(
            "cross-attentions of the unet",
            not wrong,
            "error",
            f"a cross-attention of its width for each of {len(made.paths)} modules",
            shown(wrong) if wrong else "all of them",
            "load the base that the eraser was trained on",
        )
    ]


def _adapter(pipe: Any, overlay: OverlayContent) -> list[Check]:
    adapter = adapter_of(overlay.tensors, overlay.config)
    return [_layers(original_of(getattr(pipe, name)), adapter, name) for name in PREFIXES if overlay.covers(name)]


def _layers(root: nn.Module, adapter: adapters.Adapter, component: str) -> Check:
    prefix = PREFIXES[component]
    known = {"unet": adapters.unet_layers, "text_encoder": adapters.text_layers}[component](root)
    wrong = []
    down = ".lora_down.weight"
    stems = [key.removesuffix(down) for key in adapter.tensors if key.startswith(prefix) and key.endswith(down)]
    for stem in stems:
        path = known.get(stem.removeprefix(prefix))
        if path is None:
            wrong.append(f"no layer for {stem}")
            continue
        layer: Any = root.get_submodule(path)
        weight = getattr(layer, "base_layer", layer).weight
        ends = (adapter.tensors[f"{stem}.lora_up.weight"].shape[0], adapter.tensors[stem + down].shape[1])
        if ends != tuple(weight.shape[:2]):
            wrong.append(f"{path} of shape {tuple(weight.shape[:2])} for {ends}")
    return Check(
        f"layers of the {component}",
        not wrong,
        "error",
        f"a layer of its shape for each of {len(stems)} adapters",
        "; ".join(wrong[:3]) or "all of them",
        "load the base that the adapters were trained on",
    )


_CHECKS: Mapping[str, Callable[[Any, OverlayContent], list[Check]]] = {
    "adapter": _adapter,
    "projection": _projection,
    "delta": _delta,
    "eraser": _eraser,
}
