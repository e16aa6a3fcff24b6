"""Every question about an adapter or a projection and a pipeline, asked at once."""

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
    """An adapter or a projection as the checks see it."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def covers(self, component: str) -> bool:
        """Return whether it changes weights or outputs of a component."""
        if self.manifest.form == "projection":
            return component == "text_encoder"
        return any(key.startswith(PREFIXES[component]) for key in self.tensors)


def check(pipe: Any, overlay: OverlayContent, *, allow_partial: bool = False) -> CompatReport:
    """Ask everything about an adapter or a projection and a pipeline; change nothing.

    Args:
        pipe: A diffusers pipeline.
        overlay: The adapter or projection.
        allow_partial: Turn "other text encoders stay as they are" into a warning.
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
        "adapters and projections are of Stable Diffusion: load such a pipeline whole",
    )


def _facts(pipe: Any, manifest: Manifest, allow_partial: bool) -> Facts:
    current = deployed_in(pipe)
    return Facts.gather(
        pipe,
        replace(manifest, component="text_encoder"),  # which is what text questions are about
        config_of(current),
        current=current,
        original=reference_of(pipe),
        partial=allow_partial,
    )


def _text_encoder(pipe: Any, overlay: OverlayContent) -> Check:
    """Is the encoder that it was made with there: as what prompts pass through, or as what gates are computed with?"""
    deployed = overlay.covers("text_encoder")
    encoder = deployed_in(pipe) if deployed else reference_of(pipe)
    return encoder_check(overlay.manifest, _sketch(encoder), deployed=deployed)


def _sketch(encoder: nn.Module) -> Sketch:
    return sketch(first_rows(nested_state(encoder), int(config_of(encoder)["vocab_size"])))


def encoder_check(manifest: Manifest, found: Sketch, *, deployed: bool) -> Check:
    """Return whether a text encoder is the one that an artifact was made with.

    Args:
        manifest: Origin and facts of the overlay.
        found: Sketch of the encoder.
        deployed: Whether it is what prompts pass through; otherwise what an adapter's gates are computed with.
    """
    expected, role = manifest.base.text_encoder, "that prompts pass through" if deployed else "of the base"
    outcome = "nothing recorded in the manifest" if expected is None else compare(found, expected)
    remedy = (
        "it was solved or trained for that encoder and does something else behind another one; make one for this "
        "encoder, or detach the encoder that took its place"
    )
    return Check(
        "text encoder",
        expected is not None and compare(found, expected).kind != "differs",
        "error",
        f"the text encoder {role} to be the one it was made with ({manifest.base.family})",
        str(outcome),
        remedy if deployed else "its gates are computed with that encoder; load the base that it was made for",
    )


def require_still_fit(pipe: Any, coming: Sketch) -> None:
    """Check that what is attached to the text encoder of a pipeline fits another one that is to take its place.

    Args:
        pipe: The pipeline.
        coming: Sketch of the other encoder.

    Raises:
        IncompatibleError: Naming every overlay that was made for the encoder that is to go.
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
                "load the base it was made for",
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
    """Can the component be copied, hooks and all?"""
    module = getattr(pipe, name)
    found = [f"{mode_of(pipe, module)}"] if mode_of(pipe, module) not in ("none", "model offload") else []
    if unwrapped(module) is not module or getattr(module, "_compiled_call_impl", None) is not None:
        found.append("compiled")
    return Check(
        f"state of the {name}",
        not found,
        "error",
        "neither compiled nor offloaded layer by layer",
        " and ".join(found) or "so",
        "attach first, then compile or enable offloading",
    )


def _rank(pipe: Any, overlay: OverlayContent) -> Check | None:
    """Does it add up with what is attached?"""
    composition: Composition = composition_of(pipe)
    fused = [overlay.label for overlay in composition.overlays if not overlay.live and not overlay.is_adapter]
    if not fused or overlay.manifest.form != "adapter":
        return None
    return Check(
        "order",
        False,
        "error",
        "no projection fused into the UNet, which adapters would have to come before",
        ", ".join(fused),
        "detach it, attach the adapter, then fuse both",
    )
