"""Method and concept of a file of settings: what it states, over a recipe or over the method's standard settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast, get_args, get_type_hints

from robust_encoders.concepts import Concept

from ..prompts.retain import object_prompts
from ..protocols import CaptionMethod, ComponentMethod, EmbeddedBase, Method, RetainingMethod, StandardMethod
from ..types import Component
from .recipe import with_retained
from .settings import Problems, changed, converted

# A placeholder for a recipe's own retain prompts in the help, because there are hundreds of them.
UNCHANGED = ("unchanged",)


def standard(kind: type[Method]) -> Method:
    """Return a method's standard settings, with the placeholder ``UNCHANGED`` for its retain prompts."""
    if issubclass(kind, StandardMethod):
        return cast(Method, kind.standard(UNCHANGED))
    return with_retained(kind(), UNCHANGED)


def usual(kind: type[Method], *, captioned: bool) -> Method:
    """Return a method's standard settings; where the concept has captions, methods that edit bare words edit these.

    These methods are the closed forms and HiRM, see ``CaptionMethod``; others have one setting for both.

    Bare words, the choice of the papers, may leave the concept in captions.

    Args:
        kind: Class of the method.
        captioned: True if the concept has captions: those of an embedded base, or the user's own.
    """
    method = standard(kind)
    return cast(Method, method.by_captions()) if captioned and isinstance(method, CaptionMethod) else method


def retained(method: Method) -> tuple[str, ...]:
    """Return the retain prompts of a method; empty for a method without."""
    return tuple(method.retained) if isinstance(method, RetainingMethod) else ()


def usual_retained(concept: Concept, method: Method, world: EmbeddedBase | None) -> tuple[str, ...]:
    """Return the usual retain prompts of a concept: captions of an embedded base, everyday objects, or none.

    Args:
        concept: Concept to erase.
        method: Method with its settings; one that trains a UNet without a retain term takes none.
        world: Embedded base; None for any other base.

    Raises:
        ValueError: If the embedded base has no such concept.
    """
    wants = isinstance(method, RetainingMethod) and method.wants_retained
    if isinstance(method, ComponentMethod) and method.component == "unet" and not wants:
        return ()
    if world is not None:
        return world.retain_prompts([one.name for one in concept.parts or (concept,)])
    return object_prompts(concept) if wants else ()


def stated_method(start: Method, table: Mapping[str, Any], problems: Problems) -> Method:
    """Return a method with the settings that a file states.

    A component that the file states also changes the defaults of the retain terms, as on the command line.

    Args:
        start: Settings that the others keep.
        table: The file's table ``method``.
        problems: Collection of problems.
    """
    begin = table.get("start")
    component = table.get("component", begin.get("component") if isinstance(begin, Mapping) else None)
    if isinstance(start, ComponentMethod) and component in get_args(Component):
        start = cast(Method, start.for_component(component))
    return changed(start, table, "method", problems)


def stated_concept(table: Mapping[str, Any], where: str, problems: Problems) -> Concept | None:
    """Return the concept that a file states in full; None with a problem.

    Args:
        table: The file's table ``concept``, or one of its ``parts``.
        where: Place of the table, for the messages.
        problems: Collection of problems.
    """
    hints, known = get_type_hints(Concept), [one.name for one in fields(Concept)]
    before = len(problems.found)
    for key in table.keys() - set(known):
        problems.unknown(f"{where}.", str(key), known)
    for key in ("name", "kind"):
        if key not in table:
            problems.found.append(f"{where}.{key}: expected this setting, found none")
    parts = table.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        problems.add(f"{where}.parts", "a list of tables", parts)
        return None
    single = tuple(stated_concept(part, f"{where}.parts[{i}]", problems) for i, part in enumerate(parts))
    values = {
        key: converted(hints[key], value, f"{where}.{key}", problems)
        for key, value in table.items()
        if key in known and key != "parts"
    }
    if len(problems.found) > before:
        return None
    try:
        return Concept(**values, parts=cast(tuple[Concept, ...], single))
    except ValueError as error:
        problems.found.append(f"{where}: {error}")
        return None
