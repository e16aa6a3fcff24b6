"""What a pipeline carries: a robust encoder, overlays, and what can carry a concept past them."""

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
    """What a pipeline carries.

    Args:
        attached: Whether a robust encoder is in the pipeline.
        tracked: Whether it was attached through this pipeline, so that ``detach`` can undo it.
        intact: Whether its weights are those that were attached, as far as eight values of every tensor show; None
            where that is not known.
        component: The slot.
        provenance: Facts that the encoder carries: concept, method, base, content hash, package version.
        notes: Remarks for the user, in sentences.
        source: Place that the encoder was loaded from: a folder, or a repository and its commit; empty where not known.
        bypasses: Ways in which the concept can pass the encoder in this pipeline, in sentences.
        overlays: Names of the adapters and projections that are attached, in the order in which they apply.
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
    """Return what a pipeline carries.

    Args:
        pipe: A diffusers pipeline.
        component: The slot to look into where nothing was attached through this pipeline.
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
        note = f"{record.label} was attached here, but something else was put into its place since"
        return Status(provenance is not None, component=slot, provenance=provenance, notes=(note,))
    if provenance is None:
        return Status(attached=False)
    around = bypasses_in(pipe, slot, top)
    if record is None:
        note = "the encoder came with the pipeline or from another one: there is nothing that detach could put back"
        return Status(True, component=slot, provenance=provenance, notes=(note,), bypasses=around)
    intact = is_intact(record)
    notes = () if intact else ("the attached weights were changed since, by a LoRA or by training perhaps",)
    return Status(True, True, intact, slot, provenance, notes, record.source, around)
