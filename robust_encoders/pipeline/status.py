"""Status of a pipeline: its robust encoder, its overlays, and the ways past them that are still open to a concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.pipeline.attach import attachment_of, is_intact
from robust_encoders.pipeline.bypass import bypasses_in
from robust_encoders.pipeline.composition import composition_of
from robust_encoders.pipeline.shared_copy import original_of


@dataclass(frozen=True)
class Status:
    """The robust encoder and the overlays of a pipeline.

    Args:
        attached: True if a robust encoder is in the pipeline.
        tracked: True if it was attached to this pipeline by ``attach``, so that ``detach`` can undo it.
        intact: True if its weights are unchanged since it was attached, as far as eight values of every tensor show;
            None if unknown.
        component: Name of the pipeline component that holds the encoder, for example ``text_encoder``.
        provenance: Facts that the encoder carries: concept and its kind, method, base, licence, content hash.
        notes: Remarks for the user, in sentences.
        source: Place that the encoder was loaded from: a folder, or a repository and its commit; empty if unknown.
        bypasses: Ways in which the concept can still reach this pipeline's pictures, in sentences.
        overlays: Names of the attached overlays, in their fixed order: deltas, adapters, projections, erasers.
    """

    attached: bool
    tracked: bool = False
    intact: bool | None = None
    component: str = ""
    provenance: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    source: str = ""
    bypasses: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()


def status(pipe: Any, component: str = "text_encoder") -> Status:
    """Return which robust encoder and which overlays a pipeline carries.

    Args:
        pipe: A diffusers pipeline.
        component: Name of the component that is examined if no encoder was attached by ``attach``.
    """
    labels = tuple(overlay.label for overlay in composition_of(pipe).overlays)
    return replace(_status_of_encoder(pipe, component), overlays=labels)


def _status_of_encoder(pipe: Any, component: str) -> Status:
    record = attachment_of(pipe)
    slot = record.component if record else component
    top = unwrapped(getattr(pipe, slot, None))
    module = original_of(top)
    provenance = getattr(getattr(module, "config", None), "robust_encoders", None)
    if record is not None and module is not record.installed:
        note = f"{record.label} was attached here, but another object has taken its place since"
        return Status(provenance is not None, component=slot, provenance=provenance, notes=(note,))
    if provenance is None:
        return Status(attached=False)
    around = bypasses_in(pipe, slot, top)
    if record is None:
        note = "the encoder came with this pipeline or from another one, so detach has no other encoder to put back"
        return Status(True, component=slot, provenance=provenance, notes=(note,), bypasses=around)
    intact = is_intact(record)
    notes = () if intact else ("the attached weights were changed since, perhaps by a LoRA or by training",)
    return Status(True, True, intact, slot, provenance, notes, record.source, around)
