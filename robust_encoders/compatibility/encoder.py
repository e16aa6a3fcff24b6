"""Every question about an encoder and a pipeline, asked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility import architecture as fit
from robust_encoders.compatibility import pipeline_state as condition
from robust_encoders.compatibility.facts import Facts
from robust_encoders.compatibility.report import Check, CompatReport
from robust_encoders.pipeline.attach import attachment_of
from robust_encoders.pipeline.shared_copy import beneath

QUESTIONS: tuple[Callable[[Facts], Check | None], ...] = (
    condition.other_encoders,
    fit.module_class,
    fit.width,
    fit.field("layers", "num_hidden_layers"),
    fit.field("heads", "num_attention_heads"),
    fit.field("feed-forward width", "intermediate_size"),
    fit.field("activation", "hidden_act"),
    fit.tokenizer_present,
    fit.vocabulary,
    fit.positions,
    fit.special_tokens,
    fit.same_tokenizer,
    condition.base_fingerprint,
    condition.unet_fingerprint,
    condition.precision,
    condition.versions,
    condition.offloading,
    condition.hooks,
    condition.adapters,
    condition.learned,
)


def check(pipe: Any, manifest: Manifest, config: Mapping[str, Any], *, allow_partial: bool = False) -> CompatReport:
    """Ask everything about an encoder and a pipeline; change nothing.

    Args:
        pipe: A diffusers pipeline.
        manifest: Of the encoder.
        config: Configuration of the encoder.
        allow_partial: Turn "other text encoders stay as they are" into a warning.
    """
    component = _component(pipe, manifest)
    if not component.ok:
        return CompatReport((component,))
    current, record = beneath(getattr(pipe, manifest.component)), attachment_of(pipe)
    original = beneath(record.original) if record else current
    subject = Facts.gather(pipe, manifest, config, current=current, original=original, partial=allow_partial)
    # A slot that holds no torch module, or one without weights, cannot be asked anything else.
    questions = QUESTIONS if all(map(_readable, (subject.current, subject.original))) else QUESTIONS[:2]
    answers = [question(subject) for question in questions]
    return CompatReport((component, *(answer for answer in answers if answer is not None)))


def _readable(module: Any) -> bool:
    return module is None or (isinstance(module, nn.Module) and any(True for _ in module.parameters()))


def _component(pipe: Any, manifest: Manifest) -> Check:
    # The second is a modular pipeline.
    known = hasattr(pipe, "register_modules") or hasattr(pipe, "update_components")
    slots = list(getattr(pipe, "components", {})) if known else []
    return Check(
        "component",
        manifest.component in slots,
        "error",
        f"a diffusers pipeline with a {manifest.component}",
        f"a {type(pipe).__name__} with {', '.join(slots) or 'no components'}",
        "pass the pipeline object itself, of a kind that conditions on a CLIP text encoder",
    )
