"""All checks of an artifact against the CLIP and the MODEL of a ComfyUI graph, made at once."""

from __future__ import annotations

from collections.abc import Callable

from robust_encoders.artifact.reader import Artifact
from robust_encoders.compatibility.facts import unknown
from robust_encoders.compatibility.report import OTHERS, Check, CompatReport
from robust_encoders.integrations.comfyui.architecture import WHOLE, precision, tokenizer
from robust_encoders.integrations.comfyui.connected import SLOTS, Connected
from robust_encoders.integrations.comfyui.subject import Subject
from robust_encoders.pipeline.slots import FIRST, SECOND

PLACE = "the connected models"
_Question = Callable[[Subject], Check | None]


def check(artifact: Artifact, models: Connected, *, allow_partial: bool = False) -> CompatReport:
    """Make all checks; change nothing. What is left, names and shapes of a UNet, is checked when it is changed.

    Args:
        artifact: Artifact in any form.
        models: The CLIP and the MODEL.
        allow_partial: True to report other text encoders of the CLIP as a warning instead of an error.
    """
    subject = Subject(artifact, models, allow_partial)
    first = [_form(subject), *([_component(subject)] if subject.changes_text else []), _model(subject)]
    if not all(one.ok for one in first if one is not None):
        return CompatReport(tuple(one for one in first if one is not None), place=PLACE)
    questions = (*(_TEXT if subject.changes_text else ()), *_ALWAYS)
    if artifact.manifest.form == "weights":
        questions = (*WHOLE, *questions)
    answers = [*first, *(question(subject) for question in questions)]
    slots = subject.slots if subject.changes_text else None
    return CompatReport(tuple(answer for answer in answers if answer is not None), slots, PLACE)


def _form(subject: Subject) -> Check | None:
    if subject.manifest.form != "eraser":
        return None
    return Check(
        "form",
        False,
        "error",
        "a whole text encoder, a projection, an adapter or a delta",
        "an eraser, whose modules are no part of ComfyUI's UNet",
        "draw with this package and diffusers, or choose another encoder",
    )


def _component(subject: Subject) -> Check:
    wanted = SLOTS[SECOND if subject.manifest.component == SECOND else FIRST]
    bases = "SDXL" if subject.manifest.component == SECOND else "Stable Diffusion 1 or 2"
    return Check(
        "component",
        bool(subject.models.slot),
        "error",
        f"a CLIP of {bases}, with the text encoder {' or '.join(wanted)}",
        f"a CLIP with {', '.join(subject.models.encoders) or 'no text encoder'}",
        f"connect the CLIP of a checkpoint of {bases}; there are no robust encoders for T5, Llama or Qwen",
    )


def _model(subject: Subject) -> Check | None:
    if not subject.changes_unet:
        return None
    return Check(
        "model",
        bool(subject.models.unet_keys),
        "error",
        f"the MODEL of a checkpoint, because a {subject.manifest.form} changes the UNet",
        "none connected" if subject.models.model is None else "a model that is no UNet of Stable Diffusion",
        "connect MODEL of Load Checkpoint with this node, and the node's output MODEL with the sampler",
    )


def _other_encoders(subject: Subject) -> Check:
    slots = subject.slots
    return Check(
        OTHERS,
        not slots.open,
        "warning" if subject.allow_partial else "error",
        "no other text encoder" + " without this concept's erasure" * bool(slots.covered),
        ", ".join(slots.open) or "none",
        "the concept stays reachable through them; switch allow_partial on to accept that",
    )


def _other_patches(subject: Subject) -> Check:
    changed = subject.patched_by_others()
    return Check(
        "other patches",
        not changed,
        "error",
        "the weights of the loader, without a LoRA or a merge before this node",
        f"{len(changed)} patched weights, the first of them {changed[0]}" if changed else "none",
        "it would be overwritten: connect this node directly with the loader, and the LoRA after this node, with which "
        "the erasure was not measured",
    )


def _other_artifacts(subject: Subject) -> Check | None:
    form = subject.manifest.form
    if form not in ("weights", "delta"):
        return None
    ((weights, keys),) = subject.places
    found = [patch.label for patch in weights.attached(keys.values()).values()]
    what = "text encoder" if form == "weights" else "UNet"
    return Check(
        "robust encoder",
        not found,
        "error",
        f"a {what} that no other artifact changed",
        ", ".join(found) or "none",
        "it would be overwritten: bypass the other node, or put this node before it if that one is no whole encoder",
    )


def _base(subject: Subject) -> Check | None:
    # A recorded base is compared when the artifact is attached, and the status says how far the models differ from it.
    return unknown("base fingerprint") if subject.manifest.base.text_encoder is None else None


def _hooks(subject: Subject) -> Check | None:
    patcher = subject.models.clip.patcher
    found = [name for name in ("forced_hooks", "hook_patches", "injections") if getattr(patcher, name, None)]
    if not found or not subject.changes_text:
        return None
    return Check(
        "hooks",
        False,
        "warning",
        "a CLIP without hooks",
        ", ".join(found),
        "they change the weights again while a prompt is encoded, and the erasure was not measured with them",
    )


_TEXT: tuple[_Question, ...] = (_other_encoders, tokenizer, precision, _base, _hooks)
_ALWAYS: tuple[_Question, ...] = (_other_patches, _other_artifacts)
