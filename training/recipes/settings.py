"""Settings from plain values: a file states some fields of a dataclass, and each other field keeps its value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from robust_encoders.utils.home import expanded
from robust_encoders.utils.json_fields import short

from ..attacks import INNER_ATTACKS
from ..protocols import InnerAttack

T = TypeVar("T")
NONE = "none"  # text of a missing value, for TOML has no null
_NAMES: Mapping[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text", Path: "a path"}


@dataclass
class Problems:
    """Everything that is wrong with the settings of one file.

    Args:
        found: One sentence for each problem, with the place of the value.
    """

    found: list[str] = field(default_factory=list)

    def add(self, where: str, expected: str, value: object) -> None:
        """Add the problem that a place has another value than expected."""
        self.found.append(f"{where}: expected {expected}, found {short(value)}")

    def unknown(self, where: str, key: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> None:
        """Add the problem that a key is not known, with the nearest one that is.

        Args:
            where: Prefix of the place, with a dot at its end, or empty.
            key: Key that is not known.
            known: Keys that are known at this place.
            elsewhere: Whole places of keys that are known in other tables.
        """
        plain = key.replace("-", "_")
        same = [place for place in elsewhere if place.rpartition(".")[2] == plain and place != f"{where}{key}"]
        close = [plain] if plain in known else same or get_close_matches(plain, known, 1)
        at = close[0] if close and close[0] in elsewhere else f"{where}{close[0]}" if close else ""
        hint = f"did you mean {at}?" if at else f"known: {', '.join(known)}"
        self.found.append(f"{where}{key}: expected a setting, found an unknown name; {hint}")


def places(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield the places of all settings of a dataclass, such as ``train.iterations``."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from places(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}"


def changed(start: T, given: Mapping[str, Any], where: str, problems: Problems) -> T:
    """Return a dataclass with the stated fields changed.

    Args:
        start: Settings that the others keep.
        given: Values by field, nested as the dataclass is; its ``name``, if stated, must be that of the class.
        where: Place of the dataclass in the file, for the messages.
        problems: Collection of problems; fields with a problem keep their values.
    """
    kind: Any = type(start)
    hints, known = get_type_hints(kind), [one.name for one in fields(kind)]
    values = {key: value for key, value in given.items() if key != "name" or "name" in known}
    if "name" in given and "name" not in known and given["name"] != getattr(kind, "name", None):
        problems.add(f"{where}.name", repr(getattr(kind, "name", "no name")), given["name"])
    named = [f"{where}.{place}" for place in places(start)]
    for key in values.keys() - set(known):
        problems.unknown(f"{where}.", str(key), known, named)
    before = len(problems.found)
    made = {
        key: _changed_field(hints[key], getattr(start, key), value, f"{where}.{key}", problems)
        for key, value in values.items()
        if key in known
    }
    if len(problems.found) > before:
        return start
    try:
        return cast(T, replace(cast(Any, start), **made))
    except ValueError as error:
        problems.found.append(f"{where}: {error}")
        return start


def _changed_field(hint: Any, start: Any, value: Any, where: str, problems: Problems) -> Any:
    if hint is InnerAttack:
        return _inner_attack(start, value, where, problems)
    if is_dataclass(start) and not isinstance(start, type):
        if isinstance(value, Mapping):
            return changed(start, value, where, problems)
        problems.add(where, "a table of settings", value)
        return start
    return converted(hint, value, where, problems)


def _inner_attack(start: Any, value: Any, where: str, problems: Problems) -> Any:
    """Return an inner attack: the one before with other settings, or another one that is named."""
    if not isinstance(value, Mapping):
        problems.add(where, "a table with the name and the settings of an inner attack", value)
        return start
    name = value.get("name", getattr(start, "name", None))
    if name not in INNER_ATTACKS:
        close = get_close_matches(str(name), list(INNER_ATTACKS), 1)
        hint = f"an inner attack ({', '.join(INNER_ATTACKS)})" + (f"; did you mean {close[0]!r}" if close else "")
        problems.add(f"{where}.name", hint, name)
        return start
    kind = INNER_ATTACKS[name]
    return changed(start if type(start) is kind else kind(), value, where, problems)


def converted(hint: Any, value: Any, where: str, problems: Problems) -> Any:
    """Return a plain value as a field of a dataclass holds it: lists as tuples, text as paths, integers as floats.

    Args:
        hint: Type of the field.
        value: Value of TOML or JSON.
        where: Place of the value, for the messages.
        problems: Collection of problems.
    """
    try:
        return _converted(hint, value)
    except _MismatchError:
        problems.add(where, _words(hint), value)
        return value


class _MismatchError(Exception):
    """A value has another type than its field."""


def _converted(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _of_union(arguments, value)
    if origin is tuple:
        return _of_tuple(arguments, value)
    if origin is Literal:
        fits = any(value == one and type(value) is type(one) for one in arguments)
    elif hint is float:
        fits = type(value) in (int, float) and math.isfinite(value)
    else:
        fits = type(value) is {Path: str}.get(hint, hint)
    if not fits:
        raise _MismatchError
    if hint is Path:
        return expanded(value)
    return float(value) if hint is float else value


def _of_union(hints: Sequence[Any], value: Any) -> Any:
    if NoneType in hints and (value is None or (value == NONE and str not in hints)):
        return None
    for hint in hints:
        try:
            return _converted(hint, value)
        except _MismatchError:
            continue
    raise _MismatchError


def _of_tuple(hints: Sequence[Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _MismatchError
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_converted(hints[0], one) for one in value)
    if len(hints) != len(value):
        raise _MismatchError
    return tuple(_converted(hint, one) for hint, one in zip(hints, value, strict=True))


def _words(hint: Any) -> str:
    """Return a type in words, for a message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(repr(NONE) if one is NoneType else _words(one) for one in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each {_words(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(map(_words, arguments))}"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
