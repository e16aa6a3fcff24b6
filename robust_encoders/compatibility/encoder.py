"""All checks of a whole encoder against a pipeline, made at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility import architecture, learned_vectors, pipeline_state, slot
from robust_encoders.compatibility.facts import Facts
from robust_encoders.compatibility.report import Check, CompatReport
from robust_encoders.pipeline.attach import attachment_of
from robust_encoders.pipeline.parts import part_of, parts_of
from robust_encoders.pipeline.shared_copy import original_of
from robust_encoders.pipeline.slots import FIRST, SECOND, Slots

QUESTIONS: tuple[Callable[[Facts], Check | None], ...] = (
    pipeline_state.other_encoders,
    architecture.module_class,
    pipeline_state.weights,
    architecture.width,
    slot.output,
    architecture.field("layers", "num_hidden_layers"),
    architecture.field("heads", "num_attention_heads"),
    architecture.field("feed-forward width", "intermediate_size"),
    architecture.field("activation", "hidden_act"),
    slot.projection,
    architecture.tokenizer_present,
    architecture.vocabulary,
    architecture.positions,
    architecture.special_tokens,
    architecture.same_tokenizer,
    pipeline_state.base_fingerprint,
    pipeline_state.unet_fingerprint,
    pipeline_state.precision,
    pipeline_state.versions,
    pipeline_state.offloading,
    pipeline_state.hooks,
    pipeline_state.overlays_of_others,
    pipeline_state.adapters,
    pipeline_state.textual_inversion,
    learned_vectors.learned_vectors,
    learned_vectors.own_vectors,
)


def check(
    pipe: Any,
    manifest: Manifest,
    config: Mapping[str, Any],
    *,
    allow_partial: bool = False,
    embeddings: Tensor | None = None,
    allow_large_vectors: bool = False,
) -> CompatReport:
    """Make all checks of an encoder against a pipeline; change nothing.

    Args:
        pipe: A diffusers pipeline.
        manifest: Manifest of the encoder.
        config: Configuration of the encoder.
        allow_partial: True to report other text encoders of the pipeline as a warning instead of an error.
        embeddings: Token embeddings (V, D) of the encoder; None compares learned vectors with the replaced encoder's.
        allow_large_vectors: True to report learned vectors of large norm as a warning instead of an error.
    """
    component = _component(pipe, manifest)
    if not component.ok:
        return CompatReport((component,), Slots.of(pipe, manifest.component, manifest.concept.name))
    current, record = original_of(part_of(pipe, manifest.component)), attachment_of(pipe, manifest.component)
    original = original_of(record.original) if record else current
    facts = Facts.gather(pipe, manifest, config, current=current, original=original, partial=allow_partial)
    facts = replace(facts, embeddings=embeddings, allow_large_vectors=allow_large_vectors)
    answers = [question(facts) for question in _questions(facts)]
    return CompatReport((component, *(answer for answer in answers if answer is not None)), facts.slots)


def _questions(facts: Facts) -> tuple[Callable[[Facts], Check | None], ...]:
    """Return the checks that can be made; most need a torch module in the slot, with weights that can be read."""
    if not all(map(_has_weights, (facts.current, facts.original))):
        return QUESTIONS[:2]
    return QUESTIONS[:3] if pipeline_state.weights(facts) else QUESTIONS


_NO_PIPELINE = "pass the pipeline object itself; the pipeline must be conditioned on a CLIP text encoder"
_SECOND_SLOT = (
    "this artifact is the second text encoder of SDXL: load such a pipeline, or take an encoder that was made for the "
    "text_encoder of this one"
)


def _has_weights(module: Any) -> bool:
    return module is None or (isinstance(module, nn.Module) and any(True for _ in module.parameters()))


def _component(pipe: Any, manifest: Manifest) -> Check:
    # Modular pipelines have update_components, all others register_modules.
    known = hasattr(pipe, "register_modules") or hasattr(pipe, "update_components")
    slots = list(parts_of(pipe)) if known else []
    return Check(
        "component",
        manifest.component in slots,
        "error",
        f"a diffusers pipeline with a {manifest.component}",
        f"a {type(pipe).__name__} with {', '.join(slots) or 'no components'}",
        _SECOND_SLOT if manifest.component == SECOND and FIRST in slots else _NO_PIPELINE,
    )
