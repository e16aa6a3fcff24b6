"""The facts that a published artifact has to state: concept, method and licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import compare
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.concepts import Concept
from robust_encoders.errors import ManifestError, PushError

# Words that stand where a fact should: they say that nobody stated it.
_NOTHING = frozenset(
    ("not stated", "unstated", "unknown", "unspecified", "undefined", "none", "null", "nil", "n/a", "na", "tbd",
     "todo", "other", "no license", "no licence")
)  # fmt: skip
_GIVES: Mapping[str, tuple[str, str]] = {
    "concept": ("--concept WORDS", 'concept=Concept(name=..., kind="object")'),
    "method": ("--method NAME", 'method="..."'),
    "licence": ("--license NAME", 'license="..."'),
}


class Missing(NamedTuple):
    """A fact that an artifact does not state.

    Args:
        fact: Name of the fact.
        found: Value in the manifest.
        remedy: Option of the command line and call that give it.
    """

    fact: str
    found: str
    remedy: str


def is_blank(text: str) -> bool:
    """Return true if a text states nothing: no letter and no digit, or words such as ``not stated`` or ``unknown``.

    Args:
        text: Text in the place of a fact.
    """
    return not any(character.isalnum() for character in text) or " ".join(text.split()).casefold() in _NOTHING


def missing_facts(manifest: Manifest) -> list[Missing]:
    """Return the facts that an artifact does not state, in a fixed order.

    Args:
        manifest: Manifest of the artifact.
    """
    stated = {
        "concept": manifest.concept.name,
        "method": str(manifest.method["name"]),
        "licence": manifest.license,
    }
    return [
        Missing(fact, found, f"`robust-encoders annotate FOLDER {option}`, or `encoder.annotate({call})`")
        for fact, found in stated.items()
        for option, call in (_GIVES[fact],)
        if is_blank(found)
    ]


def require_stated(manifest: Manifest) -> None:
    """Refuse to publish an artifact that does not state its concept, method and licence.

    Args:
        manifest: Manifest of the artifact.

    Raises:
        PushError: If facts are missing; the message names all of them, and what gives each.
    """
    if missing := missing_facts(manifest):
        raise PushError(
            "expected the concept, the method and the licence of the encoder before it is published, found:"
            + "".join(f"\n  no {one.fact} ({one.found!r}): {one.remedy}" for one in missing)
            + "\nnothing was sent; state the facts, then push again"
        )


def annotated(manifest: Manifest, *, concept: Concept | None, method: str, license: str, base: Base | None) -> Manifest:
    """Return a manifest that states further facts.

    Args:
        manifest: Manifest of the artifact.
        concept: Concept that was erased; None leaves it.
        method: Name of the method; empty leaves it. The settings of a method with another name are dropped.
        license: Licence of the weights; empty leaves it.
        base: Base of the artifact; None leaves it. Fingerprints that the manifest has already stay.

    Raises:
        ManifestError: If a passed fact states nothing, or the manifest has fingerprints of another base.
    """
    passed = {"concept": concept.name if concept else "", "method": method, "licence": license}
    problems = [f"a {name} that states nothing: {text!r}" for name, text in passed.items() if text and is_blank(text)]
    problems += _other_base(manifest.base, base) if base else []
    if problems:
        raise ManifestError(f"expected facts of this artifact, found {'; '.join(problems)}; nothing was changed")
    changed: dict[str, Any] = {
        **({"concept": concept} if concept else {}),
        **({"method": {"name": method}} if method and method != manifest.method["name"] else {}),
        **({"license": license} if license else {}),
        **({"base": _completed(manifest.base, base)} if base else {}),
    }
    return replace(manifest, **changed)


def _other_base(recorded: Base, base: Base) -> list[str]:
    found = []
    for part in ("text_encoder", "unet"):
        one, other = getattr(recorded, part), getattr(base, part)
        if one is not None and other is not None and compare(other, one).kind == "differs":
            found.append(f"a base with another {part} than the recorded one: make the artifact again from that base")
    if recorded.tokenizer is not None and base.tokenizer is not None and recorded.tokenizer != base.tokenizer:
        found.append("a base with another tokenizer than the recorded one: make the artifact again from that base")
    return found


def _completed(recorded: Base, base: Base) -> Base:
    """Return the recorded base with what another description of the same base adds; recorded fingerprints stay."""
    return Base(
        family=base.family if is_blank(recorded.family) else recorded.family,
        ids=tuple(dict.fromkeys((*base.ids, *recorded.ids))),
        revision=base.revision if base.ids else recorded.revision,
        text_encoder=recorded.text_encoder or base.text_encoder,
        tokenizer=recorded.tokenizer or base.tokenizer,
        unet=recorded.unet or base.unet,
    )
