"""``train --config FILE`` and ``train --write-config FILE``: the options, and the file that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

from robust_encoders.utils.console import UsageError, say
from robust_encoders.utils.home import expanded

from ..recipes.recipe import Recipe
from ..recipes.run_file import RunFileError, values_of, write_run_file
from ..worlds import BASES
from .configured_run import NO_KEYS, OF_METHODS

NO_FOLDER = Path()  # stands for a folder that is not stated, where nothing is trained


def config_path(arguments: Sequence[str]) -> Path | None:
    """Return the file after ``--config``; None without one.

    Raises:
        UsageError: If the option has no file, or there are several.
    """
    found = _values("--config", arguments)
    if not found:
        return None
    if len(found) > 1:
        raise UsageError(f"expected one --config, found {', '.join(found)}; write all settings into one file")
    if not found[0] or found[0].startswith("--"):
        raise UsageError("expected a file after --config, found none")
    return expanded(found[0])


def joined(option: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all values of a repeated option behind one, so that none replaces the others."""
    kept, values, rest = list[str](), list[str](), list(arguments)
    while rest:
        one = rest.pop(0)
        if one == option:
            while rest and not rest[0].startswith("-"):
                values.append(rest.pop(0))
        elif one.startswith(f"{option}="):
            values.append(one.partition("=")[2])
        else:
            kept.append(one)
    return [*kept, option, *values] if values else list(arguments)


def _values(option: str, arguments: Sequence[str]) -> list[str]:
    pairs = zip_longest(arguments, arguments[1:], fillvalue="")
    return [
        one.partition("=")[2] or ("" if "=" in one else after)
        for one, after in pairs
        if one.partition("=")[0] == option
    ]


def write_config(options: Any, recipe: Recipe) -> None:
    """Write all settings of a run into the file that the options name, and print its name.

    Args:
        options: Options of the command line; ``write_config`` names the file.
        recipe: Recipe with all options applied.

    Raises:
        UsageError: If the file cannot be written, or is the one that was read.
    """
    path: Path = options.write_config
    if options.config is not None and path.resolve() == options.config.resolve():
        raise UsageError(f"expected another file than that of --config, found {path} twice; name a new one")
    left_out = (*NO_KEYS, *OF_METHODS, "also")  # the recipe has several concepts as one
    stated = {one.name: getattr(options, one.name) for one in fields(options) if one.name not in left_out}
    base = options.base or (recipe.base if recipe.base in BASES else None)
    out = None if options.out == NO_FOLDER else options.out
    plain = {key: _plain(value) for key, value in {**stated, "base": base, "out": out}.items()}
    try:
        write_run_file(path, {**plain, **values_of(recipe)})
    except RunFileError as error:
        raise UsageError(str(error)) from error
    say(str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
