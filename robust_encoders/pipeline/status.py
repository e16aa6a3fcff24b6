"""Status of a pipeline: its robust encoder, its overlays, and the ways past them that are still open to a concept."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.pipeline.attach import attachment_of, attachments_of, is_intact
from robust_encoders.pipeline.bypass import bypasses_in, bypasses_of_the_unet
from robust_encoders.pipeline.composition import Composition, composition_of
from robust_encoders.pipeline.parts import part_of, text_encoders_of
from robust_encoders.pipeline.references import holders_of
from robust_encoders.pipeline.scopes import changing
from robust_encoders.pipeline.shared_copy import is_shared_copy, original_of
from robust_encoders.pipeline.slots import erased_in

# Facts that an encoder carries, with the words before each.
_CARRIED = {"method": "method ", "base": "base ", "license": "licence "}


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
        scopes: Number of open ``with`` blocks of ``attached``, in all threads. What they attached leaves with them.
        further: Robust encoders in further slots of the pipeline, as in SDXL, each with the first seven fields.
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
    scopes: int = 0
    further: tuple[Status, ...] = ()

    def __str__(self) -> str:
        """Return the facts one to a line, then the notes and the open ways past the encoder."""
        if not (self.attached or self.overlays or self.notes or self.bypasses):
            return "No robust encoder and no overlays in this pipeline: nothing is erased."
        facts = {"robust encoder": _encoder_of(self), **_facts_of(self)}
        lines = [f"{name + ':':16}{text}" for name, text in facts.items()]
        for one in self.further:
            more = {"robust encoder": _encoder_of(one), **_whereabouts(one)}
            lines += [f"{name + ':':16}{text}" for name, text in more.items()]
        for head, sentences in {"notes": self.notes, "ways past it": self.bypasses}.items():
            lines += [f"{head}:", *(line for one in sentences for line in _item(one))] if sentences else []
        return "\n".join(lines)


def _encoder_of(found: Status) -> str:
    if not found.attached:
        return "none"
    carried = found.provenance or {}
    kind = f" ({carried['kind']})" if carried.get("kind") else ""
    parts = [f"erases {carried.get('concept', 'an unknown concept')}{kind}", f"in pipe.{found.component}"]
    parts += [f"{words}{carried[key]}" for key, words in _CARRIED.items() if carried.get(key)]
    return ", ".join(parts)


def _facts_of(found: Status) -> dict[str, str]:
    facts = {"overlays": ", ".join(found.overlays) or "none", **(_whereabouts(found) if found.attached else {})}
    return {**facts, "open scopes": str(found.scopes)} if found.scopes else facts


def _whereabouts(found: Status) -> dict[str, str]:
    weights = {True: "unchanged since they were attached", False: "changed since they were attached", None: "unknown"}
    undone = "attached here: detach puts the earlier encoder back"
    return {
        "loaded from": found.source or "unknown",
        "weights": weights[found.intact],
        "detach": undone if found.tracked else "not attached here: detach has nothing to put back",
    }


def _item(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 100, initial_indent="  - ", subsequent_indent="    ")


def status(pipe: Any, component: str = "text_encoder", *, references: bool = False) -> Status:
    """Return which robust encoder and which overlays a pipeline carries.

    Args:
        pipe: A diffusers pipeline.
        component: Name of the component that is examined if no text encoder of the pipeline is a robust one.
        references: Switch that searches the program for objects that hold a replaced component; ``bypasses`` then
            begins with them. The search takes seconds in a large program.
    """
    with changing(pipe) as scopes:  # no other thread changes the pipeline meanwhile
        composition = composition_of(pipe)
        names = _robust_slots(pipe) or [component]
        found, *further = (_status_of_encoder(pipe, name) for name in names)
        ways = [way for one, name in zip((found, *further), names, strict=True) for way in _bypasses(pipe, name, one)]
        notes = [note for one in (found, *further) for note in one.notes]
        return replace(
            found,
            notes=(*notes, *_notes_on_overlays(pipe, composition)),
            bypasses=(*(_held(pipe, composition) if references else ()), *dict.fromkeys(ways)),
            overlays=tuple(overlay.label for overlay in composition.overlays),
            scopes=scopes.open(),
            further=tuple(further),
        )


def _robust_slots(pipe: Any) -> list[str]:
    """Return the slots that a robust encoder was attached to, or that hold one, in order."""
    carrying = [name for name, part in text_encoders_of(pipe).items() if erased_in(part)]
    return sorted({*carrying, *(record.component for record in attachments_of(pipe))})


def _status_of_encoder(pipe: Any, slot: str) -> Status:
    record = attachment_of(pipe, slot)
    module = original_of(part_of(pipe, slot))
    provenance = getattr(getattr(module, "config", None), "robust_encoders", None)
    if record is not None and module is not record.installed:
        now = "its slot is empty now" if module is None else "another object has taken its place since"
        note = f"{record.label} was attached here, but {now}"
        return Status(provenance is not None, component=slot, provenance=provenance, notes=(note,))
    if provenance is None:
        return Status(attached=False)
    if record is None:
        note = "the encoder came with this pipeline or from another one, so detach has no other encoder to put back"
        return Status(True, component=slot, provenance=provenance, notes=(note,))
    intact = is_intact(record)
    notes = () if intact else ("the attached weights were changed since, perhaps by a LoRA or by training",)
    return Status(True, True, intact, slot, provenance, notes, record.source)


def _bypasses(pipe: Any, slot: str, found: Status) -> tuple[str, ...]:
    """Return the ways past the encoder and past overlays, whether they were attached here or came along."""
    text, unet = (unwrapped(part_of(pipe, name)) for name in (slot, "unet"))
    if found.attached or is_shared_copy(text):
        return bypasses_in(pipe, slot, text)
    return bypasses_of_the_unet(pipe) if is_shared_copy(unet) else ()


def _notes_on_overlays(pipe: Any, composition: Composition) -> Iterator[str]:
    for host in composition.hosts:
        current = unwrapped(part_of(pipe, host.component))
        if current is not host.module:
            now = "its slot is empty now" if current is None else "another object has taken its place since"
            yield f"overlays were attached to pipe.{host.component}, but {now}, so they have no effect there"
    known = {host.component for host in composition.hosts}
    for name in ("text_encoder", "unet"):
        if name not in known and is_shared_copy(part_of(pipe, name)):
            yield f"pipe.{name} carries overlays that came from another pipeline, so detach works only there"


def _held(pipe: Any, composition: Composition) -> Iterator[str]:
    """Yield sentences on objects that hold a component that was replaced in a pipeline."""
    replaced: dict[str, list[nn.Module]] = {host.component: [host.original] for host in composition.hosts}
    for record in attachments_of(pipe):
        if record.original is not None:
            original = unwrapped(record.original)
            wrapper = [] if original is record.original else [record.original]
            replaced.setdefault(record.component, []).extend([original, *wrapper])
    for component, modules in replaced.items():
        for holder in holders_of(modules, pipe):
            yield (
                f"{holder} holds the {component.replace('_', ' ')} that was replaced: what it computes with it is as "
                "before attaching; build it again after attaching"
            )
