"""Replacement of one component of a pipeline: completely or not at all, exactly undone, and recorded on the pipeline.

A *slot* is the attribute of a pipeline that holds a component, for example ``pipe.text_encoder``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import nn

from robust_encoders.artifact.fingerprint import Sketch, compare, sketch
from robust_encoders.clip.state_dict import nested_state, unwrapped
from robust_encoders.errors import StaleAttachmentError
from robust_encoders.pipeline.bypass import forget_embeddings, to_unload
from robust_encoders.pipeline.module_settings import (
    Settings,
    carry_changes,
    imitate,
    settings_of,
    settings_since,
    warn_of_losses,
)
from robust_encoders.pipeline.offload import SUPPORTED, denoiser_of, follow, mode_of
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.textual_inversion import EMBEDDING, carry_over, first_rows
from robust_encoders.utils.inference_mode import makes_normal_tensors

logger = logging.getLogger(__name__)

# The records, one for each slot, are an attribute of the pipeline itself. A copy of the pipeline then copies them
# together with the modules that they refer to, and they do not outlive the pipeline.
_RECORDS = "_robust_encoders_attachments"
OVERLAYS_RECORD = "_robust_encoders_composition"


@dataclass(frozen=True, eq=False)
class Attachment:
    """Record of an attached encoder: all that is needed to undo the attachment.

    Args:
        component: Name of the slot.
        installed: Module that was put into the slot.
        original: Object in the slot before any robust encoder; None for an empty slot.
        identity: Hash of the encoder's tensors.
        label: Name of the encoder, for messages.
        weights: Sketch (a few values of every tensor) of the installed module, without tokens of textual inversion.
        source: Place that the encoder was loaded from; empty for an encoder that was made in memory.
        settings: Settings of the installed module when it was put into the slot.
        registered: Entry of a modular pipeline for the slot before any robust encoder.
    """

    component: str
    installed: nn.Module
    original: nn.Module | None
    identity: str
    label: str
    weights: Sketch
    source: str
    settings: Settings
    registered: tuple[Any, Any] | None = None

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings of the encoder, without tokens of textual inversion."""
        return self.weights[EMBEDDING].shape[0]


def attachments_of(pipe: Any) -> tuple[Attachment, ...]:
    """Return the records of the robust encoders that were attached to this pipeline, by slot."""
    found: tuple[Attachment, ...] = getattr(pipe, _RECORDS, ())
    return found


def attachment_of(pipe: Any, component: str = "text_encoder") -> Attachment | None:
    """Return the record of the robust encoder that was attached to a slot of this pipeline, or None.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
    """
    return next((record for record in attachments_of(pipe) if record.component == component), None)


def has_overlays(pipe: Any) -> bool:
    """Return true if overlays are attached to a pipeline."""
    return hasattr(pipe, OVERLAYS_RECORD)


@makes_normal_tensors
def install(
    pipe: Any, make: Callable[[], nn.Module], *, component: str, identity: str, label: str, source: str
) -> None:
    """Put a module into a slot; device, precision, training mode and trainable parameters follow the replaced module.

    Args:
        pipe: A diffusers pipeline that passed every check.
        make: Function that makes the module; it is called before anything is changed.
        component: Name of the slot.
        identity: Hash of the encoder's tensors.
        label: Name of the encoder, for messages.
        source: Place that the encoder was loaded from; empty for an encoder that was made in memory.
    """
    before = attachment_of(pipe, component)
    old: nn.Module | None = part_of(pipe, component)
    module = make()
    weights = sketch(nested_state(module))
    if old is None:
        _settle(module, pipe)
    else:
        model = unwrapped(old)
        carry_over(module, model, part_of(pipe, component.replace("text_encoder", "tokenizer")))
        imitate(module, model)
        follow(module, model)
    original = before.original if before else old
    entry = before.registered if before else registered(pipe, component)
    settings = settings_since(before.settings, module) if before else settings_of(module)
    record = Attachment(component, module, original, identity, label, weights, source, settings, entry)
    _swap(pipe, component, module, record)
    logger.info("attached %s", label)


def registered(pipe: Any, component: str) -> tuple[Any, Any] | None:
    """Return a modular pipeline's entry for a slot: loading specification and configuration; else None."""
    specs = getattr(pipe, "_component_specs", None)
    return None if specs is None else (specs.get(component), pipe.config.get(component))


def restore_registered(pipe: Any, component: str, entry: tuple[Any, Any] | None) -> None:
    """Restore in a modular pipeline the entry that :func:`registered` returned; other pipelines stay as they are."""
    if entry is not None:
        pipe._component_specs[component], configured = entry
        pipe.register_to_config(**{component: configured})


def _settle(module: nn.Module, pipe: Any) -> None:
    """Move the module for an empty slot to the device and dtype of the denoiser, which reads its output."""
    leader = denoiser_of(pipe)
    if leader is None:
        module.to(pipe.device, pipe.dtype)
    else:
        follow(module, leader)


@makes_normal_tensors
def uninstall(pipe: Any, record: Attachment, *, to: nn.Module | None, then: Attachment | None) -> None:
    """Undo an attachment: put the previous object back into the slot.

    Args:
        pipe: The pipeline.
        record: Record of the attachment to undo.
        to: Object that is put back into the slot; None empties the slot.
        then: Record of the attachment that is valid afterwards; None if there is none.

    Raises:
        StaleAttachmentError: If the slot now holds another module, if a kind of offloading was enabled that cannot be
            carried over, or if a LoRA or a textual inversion was loaded after attaching.
    """
    require_current(pipe, record)
    current = part_of(pipe, record.component)
    if (mode := mode_of(pipe, current)) not in SUPPORTED:
        raise StaleAttachmentError(
            f"expected the pipeline without {mode}, as it was when {record.label} was attached, found {mode} enabled; "
            f"undo the {mode} (pipe.reset_device_map() for a device map) or load the pipeline again"
        )
    if needed := to_unload(pipe, record.component, unwrapped(current), to, record.vocabulary):
        raise StaleAttachmentError(
            f"expected the pipeline as it was when {record.label} was attached, found "
            + " and ".join(needed)
            + " first, then detach"
        )
    warn_of_losses(record.component, record.settings, current)
    if to is not None:
        follow(unwrapped(to), unwrapped(current))
        carry_changes(record.settings, record.installed, unwrapped(to))
    _swap(pipe, record.component, to, then)
    if then is None:
        restore_registered(pipe, record.component, record.registered)
    _forget(pipe, record.installed)


def restore(pipe: Any, record: Attachment | None, to: nn.Module | None, then: Attachment | None) -> None:
    """Undo, at the end of a block, the attachment made at its beginning.

    This works even if the encoder was detached and attached again inside the block.

    Args:
        pipe: The pipeline.
        record: Record of the attachment that the block made.
        to: Object that is put back into the slot; None empties the slot.
        then: Record of the attachment before the block; None if there was none.

    Raises:
        StaleAttachmentError: If the attachment cannot be undone, see :func:`uninstall`.
    """
    current = None if record is None else attachment_of(pipe, record.component)
    if record is None or record is then or current is None:
        return
    uninstall(pipe, current if current.identity == record.identity else record, to=to, then=then)


def is_attached(pipe: Any, component: str, identity: str, found: Any) -> bool:
    """Return true if an encoder is already attached to a slot of a pipeline, with unchanged weights.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
        identity: Hash of the encoder's tensors.
        found: Object in the encoder's slot, without overlays and without a ``torch.compile`` wrapper.

    Raises:
        StaleAttachmentError: If the attached module was replaced, or its weights were changed.
    """
    record = attachment_of(pipe, component)
    if record is None:
        return False
    _require_installed(record, found)
    if record.identity != identity:
        return False
    if not is_intact(record):
        raise StaleAttachmentError(
            f"expected {record.label} in pipe.{record.component} as it was attached, found its weights changed since, "
            "perhaps by a LoRA or by training; unload the LoRA, or detach the encoder and load it again"
        )
    return True


def label_in(pipe: Any, component: str, identity: str) -> str:
    """Return the name of another robust encoder that is attached to a slot or was saved with it; else empty.

    Args:
        pipe: The pipeline.
        component: Name of the slot.
        identity: Hash of the tensors of the encoder that is to be attached.
    """
    if record := attachment_of(pipe, component):
        return record.label
    found = getattr(getattr(unwrapped(part_of(pipe, component)), "config", None), "robust_encoders", None)
    if not isinstance(found, Mapping) or found.get("content_sha256") == identity:
        return ""
    return f"{found.get('concept')!r} erased by {found.get('method')}, which came with the pipeline"


def _forget(pipe: Any, module: nn.Module) -> None:
    """Remove a module from the components manager of a modular pipeline, which would keep it in memory for ever."""
    manager: Any = getattr(pipe, "_components_manager", None)
    for name in [name for name, part in getattr(manager, "components", {}).items() if part is module]:
        manager.remove(name)


def require_current(pipe: Any, record: Attachment) -> None:
    """Check that the slot still holds the attached module.

    Args:
        pipe: The pipeline.
        record: Record of the attachment.

    Raises:
        StaleAttachmentError: If the slot holds another object.
    """
    _require_installed(record, unwrapped(part_of(pipe, record.component)))


def _require_installed(record: Attachment, found: Any) -> None:
    if found is not record.installed:
        now = "an empty slot" if found is None else f"a {type(found).__name__} that was put there since"
        raise StaleAttachmentError(
            f"expected {record.label} in pipe.{record.component}, found {now}; set pipe.{record.component} back to the "
            "attached encoder, or leave the pipeline as it is"
        )


def _swap(pipe: Any, component: str, module: nn.Module | None, record: Attachment | None) -> None:
    before: nn.Module | None = part_of(pipe, component)
    record_before = attachment_of(pipe, component)
    with ExitStack() as undo:
        undo.callback(_set_record, pipe, component, record_before)
        undo.callback(put, pipe, component, before)
        put(pipe, component, module)
        _set_record(pipe, component, record)
        undo.pop_all()


def put(pipe: Any, component: str, module: nn.Module | None) -> None:
    """Put a module into a slot of a pipeline by the pipeline's own method."""
    if "text_encoder" in component:
        forget_embeddings(pipe)
    if hasattr(pipe, "update_components"):  # a modular pipeline, which keeps a specification of each component
        pipe.update_components(**{component: module})
        return
    # maybe_free_model_hooks renews the pipeline's chain of offload hooks on the same device. Without offloading there
    # is no chain to renew.
    offloaded = bool(getattr(pipe, "_all_hooks", None))
    if offloaded:
        pipe.maybe_free_model_hooks()
    # After a plain assignment, a slot that was empty would stay empty in model_index.json.
    pipe.register_modules(**{component: module})
    if offloaded:
        pipe.maybe_free_model_hooks()


def _set_record(pipe: Any, component: str, record: Attachment | None) -> None:
    # A tuple that is replaced, not a mapping that is changed: a shallow copy of the pipeline shares it.
    others = tuple(one for one in attachments_of(pipe) if one.component != component)
    records = others if record is None else tuple(sorted((*others, record), key=lambda one: one.component))
    if records:
        setattr(pipe, _RECORDS, records)
    elif hasattr(pipe, _RECORDS):
        delattr(pipe, _RECORDS)


def is_intact(record: Attachment) -> bool:
    """Return true if an attached module still has the weights of its attachment, as far as its sketch shows."""
    found = sketch(first_rows(nested_state(record.installed), record.vocabulary))
    return compare(found, record.weights).kind != "differs"
