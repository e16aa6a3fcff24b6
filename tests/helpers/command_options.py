"""The real options of every command, taken from its help and from the settings that its command line is made of."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

from messages import OPTION

from robust_encoders.cli.main import TRAINING_COMMANDS, main
from robust_encoders.training import METHODS, RECIPES
from robust_encoders.training.cli.parsing import options_of


class _Asked(BaseException):
    """The settings that a command line was about to be parsed into."""


@cache
def options() -> dict[str, frozenset[str]]:
    """Return the options of each command; a command ``train NAME`` stands for each method and recipe."""
    found = {command: _in_help(command) for command in (*_loader_commands(), *TRAINING_COMMANDS) if command != "train"}
    found["shapes"] = _in_help("shapes", "build")
    found["emoji"] = frozenset.union(*(_in_help("emoji", verb) for verb in ("build", "fetch", "measure")))
    found["evaluate"] = _in_help("evaluate", "base") | _in_help("evaluate", "base", "--prompts", "x", "--base", "y")
    found["compare"] |= found["evaluate"]  # it passes them on
    found |= {f"train {name}": _settings(name) for name in (*METHODS, *_recipes())}
    return found


def _recipes() -> list[str]:
    """Return one recipe of each kind of method; all recipes of a kind have the same options."""
    return list({type(make().method).__name__: name for name, make in RECIPES.items()}.values())


def of_help(name: str) -> frozenset[str]:
    """Return the options in the long help of ``train NAME``, which tyro writes."""
    return _in_help("train", name, "--help-all", bare=True)


def _loader_commands() -> list[str]:
    names: list[str] = re.findall(r"^ {4}([a-z]+)\b", _help(), re.MULTILINE)
    return [name for name in names if name not in TRAINING_COMMANDS]


def _help(*arguments: str, bare: bool = False) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*arguments, *(() if bare else ("--help",))])
    return said.getvalue()


def _in_help(*arguments: str, bare: bool = False) -> frozenset[str]:
    return frozenset(OPTION.findall(_help(*arguments, bare=bare)))


def _settings(name: str) -> frozenset[str]:
    def capture(kind: Any, default: Any, **others: Any) -> Any:
        raise _Asked(default)

    with mock.patch("tyro.cli", capture):
        try:
            main(["train", name, *(("--base", "x") if name in RECIPES else ())])
        except _Asked as asked:
            return frozenset(_flags(asked.args[0]))
    raise AssertionError(f"train {name} parsed no settings")


def _flags(settings: Any) -> Iterator[str]:
    for option in options_of(settings):
        head, _, last = f"--{option.name.replace('_', '-')}".rpartition(".")
        dot = "." if head else ""
        yield f"{head}{dot}{last}"
        if option.default in ("true", "false"):
            yield f"{head}{dot}no-{last}" if head else f"--no-{last.removeprefix('--')}"
