"""Lists of texts that were given as one text: in Python a string instead of a tuple, on a command line with commas."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from robust_encoders.errors import RobustEncodersError

# Annotations of a field that holds several texts or paths, but not a single one.
_SEVERAL = re.compile(
    r"(?:^|\|\s*)(?:[\w.]+\.)?(?:tuple|list|set|frozenset|Sequence|Collection|Iterable)"
    r"\[(?:[\w.]+\.)?(?:str|Path)(?:,\s*\.\.\.)?\]"
)
_FILE = re.compile(r".+\.(?:txt|csv|tsv|json)", re.IGNORECASE)
_SHOWN = 60
_Problems = Callable[[str, object], Iterator[str]]


class TextListError(RobustEncodersError, TypeError):
    """One string was passed where several belong."""


def require_texts(name: str, texts: object) -> None:
    """Check that several texts were passed, not one string, whose letters would count as texts.

    Args:
        name: Name of the argument.
        texts: Value of the argument.

    Raises:
        TextListError: If it is one string or holds something else than strings.
    """
    if problems := list(_problems(name, texts)):
        raise TextListError(problems[0])


def single_text_problems(value: object, name: str) -> list[str]:
    """Return the fields of a dataclass, and of the dataclasses in it, that hold one string instead of several.

    Args:
        value: Dataclass of any class; the annotations of its fields tell which ones hold several texts.
        name: Name of the value, which begins the names of the fields.
    """
    return _listed_problems(value, name, _problems)


def file_name_problems(value: object, name: str) -> list[str]:
    """Return the fields of a dataclass, and of the dataclasses in it, that hold the name of a file in place of texts.

    Args:
        value: Dataclass of any class; the annotations of its fields tell which ones hold several texts.
        name: Name of the value, which begins the names of the fields.
    """
    return _listed_problems(value, name, _file_names)


def _listed_problems(value: object, name: str, problems: _Problems) -> list[str]:
    return list(_in_fields(value, name, problems)) if is_dataclass(value) and not isinstance(value, type) else []


def _in_fields(value: Any, name: str, problems: _Problems) -> Iterator[str]:
    for one in fields(value):
        held, place = getattr(value, one.name, None), f"{name}.{one.name}"
        annotation = one.type if isinstance(one.type, str) else str(one.type)
        if _SEVERAL.search(annotation) and not re.search(r"(?:^|\| *)str\b", annotation):
            yield from problems(place, held) if held is not None else ()
        elif is_dataclass(held) and not isinstance(held, type):
            yield from _in_fields(held, place, problems)
        elif isinstance(held, tuple | list):
            for i, item in enumerate(held):
                yield from _listed_problems(item, f"{place}[{i}]", problems)


def _problems(place: str, held: object) -> Iterator[str]:
    if isinstance(held, os.PathLike):
        yield f"{place}: expected several paths, found one, {os.fspath(held)!r}; write a tuple of paths"
    elif isinstance(held, str | bytes):
        text = held if isinstance(held, str) else held.decode(errors="replace")
        parts = [part.strip() for part in text.split(",") if part.strip()] or [text]
        shown = repr(tuple(parts))
        shown = shown if len(shown) <= _SHOWN else "a tuple of strings"
        yield f"{place}: expected several strings, found one, {text[:_SHOWN]!r}; write {shown}"
    elif isinstance(held, Iterable) and not isinstance(held, Iterator | Mapping):
        odd = next((item for item in held if not (isinstance(item, str) or hasattr(item, "__fspath__"))), None)
        if odd is not None:
            yield f"{place}: expected strings, found {odd!r} of type {type(odd).__name__}; write it as a string"


def _file_names(place: str, held: object) -> Iterator[str]:
    texts = [item for item in held if isinstance(item, str)] if isinstance(held, tuple | list) else []
    named = (text for text in texts if _FILE.fullmatch(text))
    found = next((text for text in named if len(texts) == 1 or _is_file(text)), None)
    if found is not None:
        yield (
            f"{place}: expected texts, found the name of a file, {found[:_SHOWN]!r}; write the texts themselves, or "
            "let `robust-encoders train METHOD --retain-prompts FILE` read retain prompts from a file"
        )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a text that reads like a list with commas or semicolons; empty if it has one part.

    Args:
        text: Word or phrase.
    """
    parts = tuple(part.strip() for part in re.split(r"[,;\n]", text) if part.strip())
    return parts if len(parts) > 1 or re.search(r"[,;\n]", text) else ()


def comma_problems(option: str, words: Iterable[str], remedy: str) -> list[str]:
    """Return one problem for each word that reads like a list.

    Args:
        option: Name of the option.
        words: Words and phrases that were given with it.
        remedy: Text to write instead; ``{}`` stands for the parts with spaces between them.
    """
    return [
        f"expected one word or phrase at a time with {option}, found the list {word!r}; "
        + remedy.format(joined(listed(word)))
        for word in words
        if listed(word)
    ]


def joined(words: Sequence[str]) -> str:
    """Return words as a shell reads them, with quotation marks around phrases."""
    return " ".join(f'"{word}"' if " " in word else word for word in words)
