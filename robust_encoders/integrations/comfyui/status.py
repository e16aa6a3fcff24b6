"""The text on a node: which artifact is attached, what it covers, and what it does not cover."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from robust_encoders.integrations.comfyui.subject import Subject

_WIDTH = 80  # characters
_FORMS = {
    "projection": "its matrix is multiplied into the key and value matrices of the UNet",
    "adapter": "it acts at full strength on every prompt, also on those without the concept: its gates are lost",
    "delta": "its tensors replace those of the UNet",
}


@dataclass(frozen=True)
class Status:
    """Status of an artifact in a graph.

    Args:
        label: Name of the artifact: its concept and method.
        source: Place that it was loaded from: a folder, or a repository and its commit; empty if unknown.
        identity: Hash that identifies the artifact.
        subject: The artifact and the models that were connected with the node.
        already: True if it was attached by an earlier node.
        notes: Differences from the base that it was made for.
        warnings: Failed checks that did not forbid attaching.
    """

    label: str
    source: str
    identity: str
    subject: Subject
    already: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def covered(self) -> tuple[str, ...]:
        """Sentences that name what the artifact covers."""
        return tuple(_covered(self.subject))

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Sentences that name the ways in which the concept can still reach a picture."""
        return tuple(_not_covered(self.subject))

    @property
    def head(self) -> str:
        """Two short lines, because a node shows no more until it is made larger."""
        problems = (*self.warnings, *self.notes)
        told = f", {len(problems)} warning{'s' if len(problems) > 1 else ''}" if problems else ""
        on = "on, by an earlier node" if self.already else "on"
        return f"{self.label}\n{on}: {', '.join(_places(self.subject))}{told}"

    def __str__(self) -> str:
        """Return the two lines, then warnings, what is covered, what is not, and the facts of the artifact."""
        manifest = self.subject.manifest
        facts = {
            "loaded from": self.source or "memory",
            "sha256": self.identity,
            "base": manifest.base.family,
            "license": manifest.license or "not stated",
        }
        more = {
            "warnings": (*self.warnings, *self.notes),
            "covered": self.covered,
            "not covered": self.not_covered,
        }
        lines = [self.head]
        for name, sentences in more.items():
            lines += [f"{name}:", *(line for one in sentences for line in _item(one))] if sentences else []
        return "\n".join([*lines, *(f"{name}: {text}" for name, text in facts.items())])


def _item(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, _WIDTH, initial_indent="- ", subsequent_indent="  ")


def _places(subject: Subject) -> Iterator[str]:
    if subject.changes_text:
        yield f"text encoder {subject.slots.number} of {len(subject.slots.kinds)}"
    if subject.changes_unet:
        yield "UNet"


def _covered(subject: Subject) -> Iterator[str]:
    if subject.changes_text:
        closed = " and ".join((subject.models.slot, *subject.slots.covered))
        yield f"prompts that are encoded with the CLIP of this node, by {closed}"
    if subject.changes_unet:
        yield "pictures that are drawn with the MODEL of this node"
    if (form := subject.manifest.form) in _FORMS:
        yield _FORMS[form]


def _not_covered(subject: Subject) -> Iterator[str]:
    if subject.changes_text:
        yield "prompts that are encoded with another CLIP: connect both nodes CLIP Text Encode with this one"
        if still := subject.slots.open:
            yield f"the other text encoders ({', '.join(still)}): the concept is reachable through them"
        yield "embeddings in a prompt (embedding:NAME): a learned vector can bring the concept back"
        yield "emphasis such as (word:1.3), and what follows the 75th token: the erasure was not measured with them"
    yield "a LoRA after this node: it may have learned the concept"
    yield "starting pictures and image prompts, which can show the concept themselves"
