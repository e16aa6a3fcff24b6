"""Swapping one component of a pipeline: all or nothing, undone exactly, and known to the pipeline that carries it."""

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
from robust_encoders.pipeline.bypass import to_unload
from robust_encoders.pipeline.offload import SUPPORTED, denoiser_of, follow, imitate, mode_of
from robust_encoders.pipeline.textual_inversion import EMBEDDING, carry_over, first_rows

logger = logging.getLogger(__name__)

# On the pipeline itself: a copy of the pipeline copies it along with the modules it speaks of, and nothing outlives
# the pipeline.
_RECORD = "_robust_encoders_attachment"
OVERLAYS_RECORD = "_robust_encoders_composition"


@dataclass(frozen=True, eq=False)
class Attachment:
    """What is needed to undo an attachment.

    Args:
        component: The slot.
        installed: The module that was put there.
        original: The object that was there before any robust encoder; None for an empty slot.
        identity: Hash of the encoder's tensors.
        label: Its name, for messages.
        weights: Sketch of the module as it was put there, without learned tokens.
        source: Place that the encoder was loaded from; empty for one that was made in memory.
        registered: Entry that a modular pipeline had for the slot before any robust encoder.
    """

    component: str
    installed: nn.Module
    original: nn.Module | None
    identity: str
    label: str
    weights: Sketch
    source: str
    registered: tuple[Any, Any] | None = None

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings of the encoder, without learned tokens."""
        return self.weights[EMBEDDING].shape[0]


def attachment_of(pipe: Any) -> Attachment | None:
    """Return what was attached through this pipeline, or None."""
    return getattr(pipe, _RECORD, None)


def has_overlays(pipe: Any) -> bool:
    """Return whether adapters or projections are attached to a pipeline."""
    return hasattr(pipe, OVERLAYS_RECORD)


def install(
    pipe: Any, make: Callable[[], nn.Module], *, component: str, identity: str, label: str, source: str
) -> None:
    """Put a module into a slot, in the place, precision, mode and trainability of what it replaces.

    Args:
        pipe: A diffusers pipeline that passed every check.
        make: Makes the module; called before anything is changed.
        component: The slot.
        identity: Hash of the encoder's tensors.
        label: Its name, for messages.
        source: Place that the encoder was loaded from; empty for one that was made in memory.
    """
    before = attachment_of(pipe)
    old: nn.Module | None = getattr(pipe, component)
    module = make()
    weights = sketch(nested_state(module))
    if old is None:
        _settle(module, pipe)
    else:
        model = unwrapped(old)
        carry_over(module, model, getattr(pipe, component.replace("text_encoder", "tokenizer"), None))
        imitate(module, model)
        follow(module, model)
    original = before.original if before else old
    entry = before.registered if before else registered(pipe, component)
    record = Attachment(component, module, original, identity, label, weights, source, entry)
    _swap(pipe, component, module, record)
    logger.info("attached %s", label)


def registered(pipe: Any, component: str) -> tuple[Any, Any] | None:
    """Return what a modular pipeline says about a slot: the specification it loads it by, and its configuration."""
    specs = getattr(pipe, "_component_specs", None)
    return None if specs is None else (specs.get(component), pipe.config.get(component))


def restore_registered(pipe: Any, component: str, entry: tuple[Any, Any] | None) -> None:
    """Give a modular pipeline back what :func:`registered` returned; nothing happens to another pipeline."""
    if entry is not None:
        pipe._component_specs[component], configured = entry
        pipe.register_to_config(**{component: configured})


def _settle(module: nn.Module, pipe: Any) -> None:
    """Put the newcomer of an empty slot where the part is that reads it."""
    leader = denoiser_of(pipe)
    if leader is None:
        module.to(pipe.device, pipe.dtype)
    else:
        follow(module, leader)


def uninstall(pipe: Any, record: Attachment, *, to: nn.Module | None, then: Attachment | None) -> None:
    """Put back what was in a slot before.

    Args:
        pipe: The pipeline.
        record: Attachment that is asked about.
        to: Object that comes back into the slot.
        then: The attachment that is in force afterwards.

    Raises:
        StaleAttachmentError: If something else is in the slot now, or was put around it by a kind of offloading that
            cannot be carried over, or a LoRA or a textual inversion was loaded since.
    """
    require_current(pipe, record)
    current = getattr(pipe, record.component)
    if (mode := mode_of(pipe, current)) not in SUPPORTED:
        raise StaleAttachmentError(
            f"expected the pipeline without {mode}, as it was when {record.label} was attached; undo the {mode} "
            "(pipe.reset_device_map() for a device map) or load the pipeline again"
        )
    if needed := to_unload(pipe, record.component, unwrapped(current), to, record.vocabulary):
        raise StaleAttachmentError(
            f"expected the pipeline as it was when {record.label} was attached, found "
            + " and ".join(needed)
            + " first, then detach"
        )
    if to is not None:
        follow(unwrapped(to), unwrapped(current))
    _swap(pipe, record.component, to, then)
    if then is None:
        restore_registered(pipe, record.component, record.registered)
    _forget(pipe, record.installed)


def restore(pipe: Any, record: Attachment | None, to: nn.Module | None, then: Attachment | None) -> None:
    """Undo, at the end of a block, what was attached at its beginning, also if that was undone and done again inside.

    Args:
        pipe: The pipeline.
        record: Attachment that is asked about.
        to: Object that comes back into the slot.
        then: The attachment that was in force before it.

    Raises:
        StaleAttachmentError: As :func:`uninstall` says.
    """
    current = attachment_of(pipe)
    if record is None or record is then or current is None:
        return
    uninstall(pipe, current if current.identity == record.identity else record, to=to, then=then)


def is_attached(pipe: Any, component: str, identity: str) -> bool:
    """Return whether an encoder is in a pipeline already, as it was attached.

    Args:
        pipe: The pipeline.
        component: The slot.
        identity: Hash of the encoder's tensors.

    Raises:
        StaleAttachmentError: If something else took the place of what was attached, or its weights were changed.
    """
    record = attachment_of(pipe)
    if record is None:
        return False
    require_current(pipe, record)
    if record.identity != identity:
        return False
    if not is_intact(record):
        raise StaleAttachmentError(
            f"expected {record.label} in pipe.{component} as it was attached, found its weights changed since, by a "
            "LoRA or by training perhaps; unload what was loaded, or detach it and load the encoder again"
        )
    return True


def label_in(pipe: Any, component: str, identity: str) -> str:
    """Return the name of another robust encoder in a pipeline, attached or saved with it; empty if there is none.

    Args:
        pipe: The pipeline.
        component: The slot.
        identity: Hash of the tensors of the encoder that is to be attached.
    """
    if record := attachment_of(pipe):
        return record.label
    found = getattr(getattr(unwrapped(getattr(pipe, component, None)), "config", None), "robust_encoders", None)
    if not isinstance(found, Mapping) or found.get("content_sha256") == identity:
        return ""
    return f"{found.get('concept')!r} erased by {found.get('method')}, which came with the pipeline"


def _forget(pipe: Any, module: nn.Module) -> None:
    """Take a module out of the manager of a modular pipeline's components, which would keep it for ever."""
    manager: Any = getattr(pipe, "_components_manager", None)
    for name in [name for name, part in getattr(manager, "components", {}).items() if part is module]:
        manager.remove(name)


def require_current(pipe: Any, record: Attachment) -> None:
    """Check that the slot still holds what was attached.

    Args:
        pipe: The pipeline.
        record: Attachment that is asked about.

    Raises:
        StaleAttachmentError: If it holds something else.
    """
    found = unwrapped(getattr(pipe, record.component))
    if found is not record.installed:
        raise StaleAttachmentError(
            f"expected {record.label} in pipe.{record.component}, found a {type(found).__name__} that was put there "
            f"since; set pipe.{record.component} back to the encoder that was attached, or keep the pipeline as it is"
        )


def _swap(pipe: Any, component: str, module: nn.Module | None, record: Attachment | None) -> None:
    before: nn.Module | None = getattr(pipe, component)
    record_before = attachment_of(pipe)
    with ExitStack() as undo:
        undo.callback(_set_record, pipe, record_before)
        undo.callback(put, pipe, component, before)
        put(pipe, component, module)
        _set_record(pipe, record)
        undo.pop_all()


def put(pipe: Any, component: str, module: nn.Module | None) -> None:
    """Put a module into a slot of a pipeline by the pipeline's own means."""
    if hasattr(pipe, "update_components"):  # a modular pipeline, which keeps a specification of each component
        pipe.update_components(**{component: module})
        return
    # The pipeline's own way to renew its chain of hooks, on the device it was enabled with; a no-op without offloading.
    offloaded = bool(getattr(pipe, "_all_hooks", None))
    if offloaded:
        pipe.maybe_free_model_hooks()
    # A plain assignment would leave an empty slot empty in model_index.json.
    pipe.register_modules(**{component: module})
    if offloaded:
        pipe.maybe_free_model_hooks()


def _set_record(pipe: Any, record: Attachment | None) -> None:
    if record is not None:
        setattr(pipe, _RECORD, record)
    elif attachment_of(pipe) is not None:
        delattr(pipe, _RECORD)


def is_intact(record: Attachment) -> bool:
    """Return whether an attached module holds the weights it was attached with, as far as its sketch shows."""
    found = sketch(first_rows(nested_state(record.installed), record.vocabulary))
    return compare(found, record.weights).kind != "differs"
