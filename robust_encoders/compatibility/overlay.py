"""All checks of an adapter or a projection against a pipeline, made at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import Sketch, compare, sketch
from robust_encoders.artifact.forms import adapter_of
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state, unwrapped
from robust_encoders.compatibility import architecture, pipeline_state
from robust_encoders.compatibility.facts import Facts, config_of
from robust_encoders.compatibility.report import Check, CompatReport
from robust_encoders.overlays import adapters
from robust_encoders.overlays.projection import PROJECTION_TENSOR
from robust_encoders.pipeline.composition import PREFIXES, Composition, composition_of, deployed_in, reference_of
from robust_encoders.pipeline.offload import mode_of
from robust_encoders.pipeline.shared_copy import original_of
from robust_encoders.pipeline.textual_inversion import first_rows


class OverlayContent(NamedTuple):
    """Manifest, tensors and configuration of an adapter or a projection, for the checks."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def covers(self, component: str) -> bool:
        """Return true if the overlay changes weights or outputs of a component."""
        if self.manifest.form == "projection":
            return component == "text_encoder"
        return any(key.startswith(PREFIXES[component]) for key in self.tensors)


def check(pipe: Any, overlay: OverlayContent, *, allow_partial: bool = False) -> CompatReport:
    """Make all checks of an adapter or a projection against a pipeline; change nothing.

    Args:
        pipe: A diffusers pipeline.
        overlay: Adapter or projection.
        allow_partial: True to report other text encoders of the pipeline as a warning instead of an error.
    """
    components = _components(pipe)
    if not components.ok:
        return CompatReport((components,))
    facts = _facts(pipe, overlay.manifest, allow_partial)
    answers: list[Check | None] = [
        components,
        *(question(facts) for question in _GENERAL),
        _text_encoder(pipe, overlay),
        *_shapes(pipe, overlay),
        *(_bare(pipe, name) for name in PREFIXES),
        _rank(pipe, overlay),
    ]
    return CompatReport(tuple(answer for answer in answers if answer is not None))


_GENERAL: Sequence[Callable[[Facts], Check | None]] = (
    pipeline_state.other_encoders,
    architecture.tokenizer_present,
    architecture.same_tokenizer,
    pipeline_state.unet_fingerprint,
    pipeline_state.precision,
    pipeline_state.versions,
)


def _components(pipe: Any) -> Check:
    missing = [name for name in (*PREFIXES, "tokenizer") if getattr(pipe, name, None) is None]
    modules = not missing and all(isinstance(unwrapped(getattr(pipe, name)), nn.Module) for name in PREFIXES)
    return Check(
        "components",
        modules and hasattr(pipe, "components"),
        "error",
        "a diffusers pipeline with a text_encoder, a tokenizer and a unet",
        f"a {type(pipe).__name__} without {', '.join(missing)}" if missing else f"a {type(pipe).__name__}",
        "adapters and projections are made for Stable Diffusion; load such a pipeline with all its components",
    )


def _facts(pipe: Any, manifest: Manifest, allow_partial: bool) -> Facts:
    current = deployed_in(pipe)
    return Facts.gather(
        pipe,
        replace(manifest, component="text_encoder"),  # the component that the checks of the text side read
        config_of(current),
        current=current,
        original=reference_of(pipe),
        partial=allow_partial,
    )


def _text_encoder(pipe: Any, overlay: OverlayContent) -> Check:
    """Check that the pipeline has the text encoder that the overlay was made with.

    For an overlay on the text encoder this must be the attached text encoder. For one on the UNet alone it must be the
    base's encoder, which computes the gates.
    """
    deployed = overlay.covers("text_encoder")
    encoder = deployed_in(pipe) if deployed else reference_of(pipe)
    return encoder_check(overlay.manifest, _sketch(encoder), deployed=deployed)


def _sketch(encoder: nn.Module) -> Sketch:
    return sketch(first_rows(nested_state(encoder), int(config_of(encoder)["vocab_size"])))


def encoder_check(manifest: Manifest, found: Sketch, *, deployed: bool) -> Check:
    """Return the check that a text encoder is the one that an overlay was made with.

    Args:
        manifest: Manifest of the overlay.
        found: Sketch (a few values of every tensor) of the text encoder.
        deployed: True if it is the attached text encoder, which prompts pass through; false if it only computes an
            adapter's gates.
    """
    expected, role = manifest.base.text_encoder, "that prompts pass through" if deployed else "of the base"
    outcome = "nothing recorded in the manifest" if expected is None else compare(found, expected)
    remedy = (
        "the overlay was computed or trained for that encoder and has another effect with a different one; make an "
        "overlay for this encoder, or detach the encoder that took its place"
    )
    return Check(
        "text encoder",
        expected is not None and compare(found, expected).kind != "differs",
        "error",
        f"the text encoder {role} to be the one that the overlay was made with ({manifest.base.family})",
        str(outcome),
        remedy
        if deployed
        else "that encoder computes the overlay's gates; load the base that the overlay was made for",
    )


def require_still_fit(pipe: Any, coming: Sketch) -> None:
    """Check that the overlays on a pipeline's text encoder also fit the encoder that is to replace it.

    Args:
        pipe: The pipeline.
        coming: Sketch of the new encoder.

    Raises:
        IncompatibleError: If overlays were made for the encoder that is taken out; the message names each of them.
    """
    overlays = [
        overlay
        for overlay in composition_of(pipe).overlays
        if OverlayContent(overlay.manifest, overlay.tensors, {}).covers("text_encoder")
    ]
    checks = [encoder_check(overlay.manifest, coming, deployed=True) for overlay in overlays]
    named = [replace(one, name=f"{one.name} of {overlay.label}") for one, overlay in zip(checks, overlays, strict=True)]
    CompatReport(tuple(named)).raise_if_incompatible()


def _shapes(pipe: Any, overlay: OverlayContent) -> list[Check]:
    if overlay.manifest.form == "projection":
        width = config_of(reference_of(pipe)).get("hidden_size")
        found = overlay.tensors[PROJECTION_TENSOR].shape[0]
        return [
            Check(
                "width",
                width == found,
                "error",
                f"{width} (text encoder)",
                str(found),
                "load the base that the projection was made for",
            )
        ]
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


def _bare(pipe: Any, name: str) -> Check:
    """Check that the component can be copied together with its hooks."""
    module = getattr(pipe, name)
    found = [f"{mode_of(pipe, module)}"] if mode_of(pipe, module) not in ("none", "model offload") else []
    if unwrapped(module) is not module or getattr(module, "_compiled_call_impl", None) is not None:
        found.append("compiled")
    return Check(
        f"state of the {name}",
        not found,
        "error",
        "neither compiled nor offloaded layer by layer",
        " and ".join(found) or "neither",
        "attach first, then compile or enable offloading",
    )


def _rank(pipe: Any, overlay: OverlayContent) -> Check | None:
    """Check that an adapter comes before any projection is fused into the UNet."""
    composition: Composition = composition_of(pipe)
    fused = [overlay.label for overlay in composition.overlays if not overlay.live and not overlay.is_adapter]
    if not fused or overlay.manifest.form != "adapter":
        return None
    return Check(
        "order",
        False,
        "error",
        "no projection fused into the UNet before an adapter is attached",
        ", ".join(fused),
        "detach the projection, attach both, fuse the adapter, then the projection",
    )
