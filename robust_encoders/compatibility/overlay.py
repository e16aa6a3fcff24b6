"""All checks of an overlay against a pipeline, made at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from robust_encoders.artifact.fingerprint import Sketch, compare, sketch
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state, unwrapped
from robust_encoders.compatibility import architecture, learned_vectors, pipeline_state
from robust_encoders.compatibility.facts import Facts, config_of
from robust_encoders.compatibility.overlay_shapes import OverlayContent, shape_checks
from robust_encoders.compatibility.pipeline_state import learned_tokens
from robust_encoders.compatibility.report import Check, CompatReport
from robust_encoders.pipeline.attached_overlay import PREFIXES
from robust_encoders.pipeline.attentions import attentions_of, is_fused
from robust_encoders.pipeline.composition import composition_of, deployed_in, reference_of, unet_of
from robust_encoders.pipeline.foreign_code import foreign_hooks, replaced_forwards
from robust_encoders.pipeline.offload import mode_of
from robust_encoders.pipeline.parts import part_of, parts_of
from robust_encoders.pipeline.slots import OUTPUTS, reading_of
from robust_encoders.pipeline.textual_inversion import EMBEDDING, added_tokens, first_rows


def check(
    pipe: Any, overlay: OverlayContent, *, allow_partial: bool = False, allow_large_vectors: bool = False
) -> CompatReport:
    """Make all checks of an overlay against a pipeline; change nothing.

    Args:
        pipe: A diffusers pipeline.
        overlay: Content of the overlay.
        allow_partial: True to report other text encoders of the pipeline as a warning instead of an error.
        allow_large_vectors: True to report learned vectors of large norm as a warning instead of an error.
    """
    components = _components(pipe)
    if not components.ok:
        return CompatReport((components,))
    facts = replace(_facts(pipe, overlay.manifest, allow_partial), allow_large_vectors=allow_large_vectors)
    if unread := _unread(facts):  # the other checks read weights
        return CompatReport((components, *unread), facts.slots)
    answers: list[Check | None] = [
        components,
        *(question(facts) for question in _GENERAL),
        _text_encoder(pipe, overlay),
        _learned_tokens(pipe),
        *shape_checks(pipe, overlay),
        _output(pipe, overlay),
        *(_bare(pipe, name) for name in PREFIXES),
        _separate(pipe, overlay),
        *(_hooked(pipe, name) for name in PREFIXES),
        _rank(pipe, overlay),
    ]
    return CompatReport(tuple(answer for answer in answers if answer is not None), facts.slots)


_GENERAL: Sequence[Callable[[Facts], Check | None]] = (
    pipeline_state.other_encoders,
    architecture.tokenizer_present,
    architecture.same_tokenizer,
    pipeline_state.unet_fingerprint,
    pipeline_state.precision,
    pipeline_state.versions,
    learned_vectors.learned_vectors,
    pipeline_state.adapters,
)


def _components(pipe: Any) -> Check:
    missing = [name for name in (*PREFIXES, "tokenizer") if part_of(pipe, name) is None]
    modules = not missing and all(isinstance(unwrapped(getattr(pipe, name)), nn.Module) for name in PREFIXES)
    return Check(
        "components",
        modules and bool(parts_of(pipe)),
        "error",
        "a diffusers pipeline with a text_encoder, a tokenizer and a unet",
        f"a {type(pipe).__name__} without {', '.join(missing)}" if missing else f"a {type(pipe).__name__}",
        "overlays are made for Stable Diffusion; load such a pipeline with all its components",
    )


def _unread(facts: Facts) -> tuple[Check, ...]:
    """Return the errors that weights of the text encoder or the UNet cannot be read; empty if all can."""
    remedy = "load the pipeline again, with all weights in memory and without quantisation"
    parts = {"text_encoder": (facts.original, facts.current), "unet": (facts.unet,)}
    found = (pipeline_state.unread(name, modules, remedy) for name, modules in parts.items())
    return tuple(check for check in found if check is not None)


def _facts(pipe: Any, manifest: Manifest, allow_partial: bool) -> Facts:
    current = deployed_in(pipe)
    facts = Facts.gather(
        pipe,
        replace(manifest, component="text_encoder"),  # the component that the checks of the text side read
        config_of(current),
        current=current,
        original=reference_of(pipe),
        partial=allow_partial,
    )
    # Without overlays, so that the answer does not depend on the order of attaching.
    unet = unet_of(pipe)
    return replace(facts, unet=unet, unet_config=config_of(unet))


def _text_encoder(pipe: Any, overlay: OverlayContent) -> Check:
    """Check that the pipeline has the text encoder that the overlay was made with.

    For an overlay on the text encoder this must be the attached text encoder. For one on the UNet alone it must be the
    base's encoder: it computes an adapter's gates, and a delta or an eraser was trained on its outputs.
    """
    deployed = overlay.covers("text_encoder")
    encoder = deployed_in(pipe) if deployed else reference_of(pipe)
    return encoder_check(overlay.manifest, _sketch(encoder, overlay.manifest), deployed=deployed)


def _sketch(encoder: nn.Module, manifest: Manifest) -> Sketch:
    """Return the sketch of a text encoder, without the vectors of a textual inversion."""
    recorded = manifest.base.text_encoder or {}
    vocabulary = recorded[EMBEDDING].shape[0] if EMBEDDING in recorded else int(config_of(encoder)["vocab_size"])
    return sketch(first_rows(nested_state(encoder), vocabulary))


def _learned_tokens(pipe: Any) -> Check | None:
    """Warn if tokens of a textual inversion are loaded."""
    tokens = added_tokens(pipe.tokenizer)
    return learned_tokens(tokens) if tokens else None


def encoder_check(manifest: Manifest, found: Sketch, *, deployed: bool) -> Check:
    """Return the check that a text encoder is the one that an overlay was made with.

    Args:
        manifest: Manifest of the overlay.
        found: Sketch (a few values of every tensor) of the text encoder.
        deployed: True if it is the attached text encoder, which prompts pass through; false if it is the base's.
    """
    expected, role = manifest.base.text_encoder, "that prompts pass through" if deployed else "of the base"
    outcome = "nothing recorded in the manifest" if expected is None else compare(found, expected)
    if deployed:
        remedy = (
            "the overlay was computed or trained for that encoder and has another effect with a different one; make an "
            "overlay for this encoder, or detach the encoder that took its place"
        )
    else:
        use = "computes the overlay's gates" if manifest.form == "adapter" else "gave the outputs it was trained on"
        remedy = f"that encoder {use}; load the base that the overlay was made for"
    return Check(
        "text encoder",
        expected is not None and compare(found, expected).kind != "differs",
        "error",
        f"the text encoder {role} to be the one that the overlay was made with ({manifest.base.family})",
        str(outcome),
        remedy,
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


def _output(pipe: Any, overlay: OverlayContent) -> Check | None:
    """Check that the pipeline reads the last hidden state, which a projection multiplies."""
    read = reading_of(pipe)
    if overlay.manifest.form != "projection" or read in ("last", "unknown"):
        return None
    return Check(
        "output",
        False,
        "error",
        f"a pipeline that draws with {OUTPUTS['last']} of its text encoder, which a projection multiplies",
        f"{type(pipe).__name__}, which draws with {OUTPUTS[read]}",
        "the projection would have no effect; load the base that it was made for",
    )


def _bare(pipe: Any, name: str) -> Check:
    """Check that the component can be copied together with its hooks."""
    module = getattr(pipe, name)
    found = [f"{mode_of(pipe, module)}"] if mode_of(pipe, module) not in ("none", "model offload") else []
    if unwrapped(module) is not module or getattr(module, "_compiled_call_impl", None) is not None:
        found.append("compiled")
    if patched := replaced_forwards(unwrapped(module)):
        found.append(f"a replaced forward of {', '.join(patched[:3])}")
    return Check(
        f"state of the {name}",
        not found,
        "error",
        "neither compiled nor patched nor offloaded layer by layer",
        " and ".join(found) or "neither",
        "attach first, then compile, patch or enable offloading",
    )


def _separate(pipe: Any, overlay: OverlayContent) -> Check | None:
    """Check that the UNet calls the layers that the overlay changes."""
    if not overlay.covers("unet") or not any(map(is_fused, attentions_of(unwrapped(pipe.unet)))):
        return None
    return Check(
        "projections",
        False,
        "error",
        "separate projections for queries, keys and values in the unet",
        "fused projections, beside which an overlay on the layers has no effect",
        "call pipe.unfuse_qkv_projections() first",
    )


def _hooked(pipe: Any, name: str) -> Check | None:
    """Check that the component has no hooks of other code, which will act on the copy, too."""
    found = sorted({path or "the module itself" for path, *_ in foreign_hooks(unwrapped(getattr(pipe, name)))})
    if not found:
        return None
    return Check(
        f"hooks of the {name}",
        False,
        "warning",
        "no hooks of other code",
        f"hooks on {', '.join(found[:3])}",
        "they act on the copy with the overlay, too, but their handles reach the original only: to be able to remove "
        "them, register them after attaching",
    )


def _rank(pipe: Any, overlay: OverlayContent) -> Check | None:
    """Check that an adapter comes before any projection is fused into the UNet."""
    attached = composition_of(pipe).overlays
    fused = [other.label for other in attached if not other.live and other.form == "projection"]
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
