"""Command lines made from dataclasses: leading names, settings, and a help with one line for each option."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, cast

from docstring_parser import parse as parse_docstring

from robust_encoders.utils.home import expanded

T = TypeVar("T")
HELP, HELP_ALL = ("-h", "--help"), "--help-all"
_NAMES = {int: "INT", float: "FLOAT", str: "STR", bool: ""}
_COLUMN = 38  # column of the descriptions


def parser_of(command: str, description: str) -> argparse.ArgumentParser:
    """Return an empty parser for one command."""
    return argparse.ArgumentParser(
        prog=f"robust-encoders {command}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def leading_name(command: str, description: str, what: str, arguments: Sequence[str], *, after: str = "") -> str:
    """Return the name that comes first; the options after it are made from dataclasses.

    Args:
        command: Name of the command, for the help.
        description: Purpose of the command, for the help.
        what: Meaning of the name, for the help.
        arguments: Everything after the command.
        after: Text after the help, whose lines stay as they are.

    Raises:
        SystemExit: With 0 after help, with 2 if no name comes first.
    """
    parser = parser_of(command, description)
    if after:
        parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, after
    parser.add_argument("name", metavar="NAME", help=what)
    name: str = parser.parse_args(arguments[:1]).name
    return name


def leading_names(
    command: str, description: str, what: str, arguments: Sequence[str]
) -> tuple[list[str], Sequence[str]]:
    """Return the names that come first, at least one, and the options after them; see ``leading_name``."""
    options = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    names = arguments[:options] or arguments[:1]
    first = leading_name(command, description, what, names)
    return [first, *names[1:]], arguments[options:]


def hyphened(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with hyphens in the names of options: ``--inner_attack x`` means ``--inner-attack x``.

    The parser takes both spellings. Who looks for an option before the parser does sees only one.
    """
    named = (one.partition("=") if one.startswith("--") else ("", "", one) for one in arguments)
    return [name.replace("_", "-") + sign + value for name, sign, value in named]


def parse_settings(kind: Any, default: T, arguments: Sequence[str], *, prog: str) -> T:
    """Return settings from a command line: every field of a dataclass is an option, nested fields with a dot.

    ``--help`` prints one line for each setting of the paper, ``--help-all`` prints all settings; see ``EXTRA`` of
    ``provenance``.

    Args:
        kind: Dataclass, with its type arguments if it is generic.
        default: Defaults; ``tyro.MISSING`` marks a required value.
        arguments: Options of the command line.
        prog: Program and command, for the help.

    Raises:
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    import tyro

    asked = [*arguments]
    if any(argument in HELP for argument in asked):
        _print_help(default, prog)
    asked = ["--help" if argument == HELP_ALL else argument for argument in asked]
    return expanded_paths(cast(T, tyro.cli(kind, default=default, args=asked, prog=prog)))


def expanded_paths(settings: T) -> T:
    """Return settings with ``~`` expanded in every path, at any depth; bash leaves it as it is in ``--out=~/runs``.

    Args:
        settings: Dataclass, or a value of one of its fields.

    Raises:
        HomeError: If a path begins with ``~``, and the home directory is not known.
    """
    value: Any = settings
    if isinstance(value, Path):
        value = expanded(value)
    elif type(value) in (tuple, list):
        value = type(value)(expanded_paths(one) for one in value)
    elif is_dataclass(value) and not isinstance(value, type):
        held = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        made = {name: expanded_paths(one) for name, one in held.items()}
        value = replace(value, **{name: one for name, one in made.items() if one != held[name]})
    return cast(T, value)


def with_concrete_types(settings: Any) -> Any:
    """Return the same settings in a class whose fields have concrete classes instead of Protocols.

    A command line can be made from the fields of a class, not from a Protocol. ``as_original`` undoes the change.
    """
    kind, hints = type(settings), typing.get_type_hints(type(settings))
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    abstract = [name for name in values if getattr(hints[name], "_is_protocol", False)]
    parts = [(name, type(values[name]), field(default=values[name])) for name in abstract]
    concrete = make_dataclass(kind.__name__, parts, bases=(kind,), frozen=True, kw_only=True)
    concrete.__doc__ = kind.__doc__
    return concrete(**values)


def as_original(settings: Any) -> Any:
    """Return settings in their own class; they come from ``with_concrete_types`` or were parsed from its result."""
    kind = type(settings).__mro__[1]
    return kind(**{one.name: getattr(settings, one.name) for one in fields(kind)})


@dataclass(frozen=True)
class Option:
    """One option of the help.

    Args:
        name: Name of the option, with the dots of nested settings.
        value: Placeholder of the value.
        text: Description of the option.
        default: Default value as text; empty if a value is required.
        extra: True if only the long help shows the option.
    """

    name: str
    value: str
    text: str
    default: str
    extra: bool

    def line(self, width: int) -> str:
        """Return the option in one line of at most ``width`` characters."""
        head = f"  --{self.name.replace('_', '-')} {self.value}".rstrip()
        note = f"[{self.default}]" if self.default else "[required]"
        # A long list of choices shortens the description, not the name.
        room = width - max(len(head) + 2, _COLUMN) - len(note) - 1
        text = textwrap.shorten(self.text, room, placeholder=" ...") if room > 12 else ""
        return f"{head:<{_COLUMN - 2}}  {text} {note}".rstrip()


def options_of(settings: Any, prefix: str = "", *, extra: bool = False) -> Iterator[Option]:
    """Yield the options of a dataclass and of the dataclasses in it.

    A field whose metadata has ``flat`` adds its own options without a prefix.

    Args:
        settings: Settings with their defaults.
        prefix: Prefix of the names.
        extra: True if all options are beyond the paper.
    """
    texts, hints = _descriptions(type(settings)), typing.get_type_hints(type(settings))
    for one in fields(settings):
        value, beyond = getattr(settings, one.name), extra or bool(one.metadata.get("extra"))
        if is_dataclass(value) and not isinstance(value, type):
            inner = prefix if one.metadata.get("flat") else f"{prefix}{one.name}."
            yield from options_of(value, inner, extra=beyond)
        else:
            yield Option(
                prefix + one.name, _placeholder(hints[one.name]), texts.get(one.name, ""), _shown(value), beyond
            )


def _descriptions(kind: type) -> dict[str, str]:
    """Return name of a field to the first sentence of its description, for a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for param in parse_docstring(base.__doc__ or "").params if is_dataclass(base) else ():
            sentence = " ".join((param.description or "").split()).replace("``", "")
            found[param.arg_name] = re.split(r"(?<!et al)\.(?: (?=[A-Z])|$)", sentence)[0]
    return found


def _placeholder(hint: Any) -> str:
    """Return the placeholder for the value of an option."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"{{{','.join(map(str, arguments))}}}"
    if origin in (Union, UnionType):
        return _placeholder(next(one for one in arguments if one is not NoneType))
    if origin is tuple:
        return f"{_placeholder(arguments[0])} ..."
    return _NAMES.get(hint, getattr(hint, "__name__", "VALUE").upper())


def _shown(value: Any) -> str:
    import tyro

    if value is MISSING or value is tyro.MISSING:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in ("", None) else str(value).lower() if isinstance(value, bool) else f"{value}"


def _print_help(settings: Any, prog: str) -> NoReturn:
    """Print one line for each option that is not extra, by group, and exit."""
    width = max(shutil.get_terminal_size((110, 24)).columns, 80)
    listed = list(options_of(settings))
    shown = [option for option in listed if not option.extra]
    required = " ".join(f"--{o.name.replace('_', '-')} {o.value}" for o in shown if not o.default)
    summary = _summary(settings)
    lines = [f"usage: {prog} {required} [OPTIONS]", "", textwrap.shorten(summary, 2 * width, placeholder=" ..."), ""]
    group = ""
    for option in sorted(shown, key=lambda option: "." in option.name):
        name = option.name.rpartition(".")[0]
        if name != group:
            lines.append(f"{name}:")
            group = name
        lines.append(option.line(width))
    hidden = len(listed) - len(shown)
    lines += ["", f"{HELP_ALL} shows {f'{hidden} more options and ' if hidden else ''}every description in full."]
    sys.stdout.write("\n".join(lines) + "\n")
    raise SystemExit(0)


def _summary(settings: Any) -> str:
    """Return the first paragraph of the docstring of the flat part, or of the settings themselves."""
    flat = [getattr(settings, one.name) for one in fields(settings) if one.metadata.get("flat")]
    text = type(flat[0] if flat else settings).__doc__ or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def required(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given``, with ``tyro.MISSING`` for each field of a dataclass that has neither a value nor a default."""
    import tyro

    return {one.name: tyro.MISSING for one in fields(kind) if _needs(one) and one.name not in given} | dict(given)


def _needs(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING
