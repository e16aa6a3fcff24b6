"""Files with the settings of a training run, TOML or JSON; the manifest of a trained encoder is one, too."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, MOST_MANIFEST, Manifest
from robust_encoders.errors import RobustEncodersError
from robust_encoders.utils.bounded_files import read_small
from robust_encoders.utils.extras import install_command
from robust_encoders.utils.home import expanded, write_atomically
from robust_encoders.utils.json_fields import short

from ..provenance import describe
from ..worlds import BASES
from .recipe import Recipe
from .reproduce import recorded_dtype, recorded_recipe
from .settings import NONE

FORMATS = (".toml", ".json")
# Keys of a whole recipe; all other keys are options of the command line.
RECIPE_KEYS = ("recipe", "concept", "method", "family", "license", "found_synonyms")


class RunFileError(RobustEncodersError):
    """A file of settings is missing, is no TOML or JSON, or states settings that do not exist or do not fit."""


def read_run_file(path: str | Path) -> dict[str, Any]:
    """Read a file of settings, without a check of what it states.

    Args:
        path: TOML or JSON file, a ``robust_encoder.json``, or the folder of a trained encoder.

    Returns:
        The values by key. Those of a manifest are its recipe with all settings, its seed, and where its base is.

    Raises:
        RunFileError: If the file cannot be read or parsed; the message has the line.
        ManifestError: If a manifest is not valid.
        CannotReproduceError: If a manifest lacks a recipe.
    """
    path = expanded(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    text, suffix = _text(path), path.suffix.lower()
    if suffix not in FORMATS:
        raise RunFileError(f"expected a file of settings, .toml or .json, found {path}; give it one of these endings")
    try:
        values = tomllib.loads(text) if suffix == ".toml" else json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise RunFileError(f"expected each key once in {path}, found {error} twice; state it once") from error
    except RecursionError as error:
        raise RunFileError(f"expected a file of settings, found lists nested too deep in {path}") from error
    except ValueError as error:  # of both formats; the text has line and column
        kind = "TOML" if suffix == ".toml" else "JSON"
        raise RunFileError(f"expected {kind} in {path}, found a mistake: {error}") from error
    if isinstance(values, list):
        raise RunFileError(f"expected one run in {path}, found a list of {len(values)}; write a file for each run")
    if not isinstance(values, dict):
        raise RunFileError(f"expected settings by name in {path}, found {short(values)}")
    return _of_manifest(Manifest.from_json(text)) if "manifest_sha256" in values else values


def _text(path: Path) -> str:
    try:
        return read_small(path, MOST_MANIFEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunFileError(f"expected UTF-8 in {path}, found another encoding; save it as UTF-8") from error
    except OSError as error:
        beside = path.parent.glob("*") if path.parent.is_dir() else ()
        known = [one.name for one in beside if one.suffix.lower() in FORMATS]
        close = get_close_matches(path.name, known, 1)
        hint = f"did you mean {path.with_name(close[0])}?" if close else "train NAME --write-config FILE writes one"
        raise RunFileError(
            f"expected a file of settings, cannot read {path}: {error.strerror or error}; {hint}"
        ) from error


class _TwiceError(ValueError):
    """A JSON object states a key twice."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _TwiceError(repr(name))
    return dict(pairs)


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    recipe, base = recorded_recipe(manifest), manifest.base
    values = {**values_of(recipe), "seed": recipe.seed}
    if base.family in BASES:
        return {**values, "base": base.family}
    place = {"base": "@".join(filter(None, (base.ids[0], base.revision)))} if base.ids else {}
    return {**values, **place, "dtype": recorded_dtype(manifest)}


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of a whole recipe, except its seed.

    A name and a family that only the base tells are left out.
    """
    found = {"found_synonyms": dict(recipe.found_synonyms)} if recipe.found_synonyms else {}
    named = {"recipe": recipe.name, "family": recipe.base} if recipe.base else {}
    licensed = {"license": recipe.license} if recipe.license else {}
    return {**named, **licensed, "concept": recipe.concept.to_dict(), "method": describe(recipe.method), **found}


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written later.

    Raises:
        RunFileError: If the ending is another one, or TOML cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise RunFileError(f"expected a file name that ends in .toml or .json, found {path}")
    if path.suffix.lower() == ".toml":
        _toml()


def write_run_file(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a file of settings atomically.

    Args:
        path: File that ends in ``.toml`` or ``.json``.
        values: Values as ``read_run_file`` returns them; a missing value at the top is left out.

    Raises:
        RunFileError: If the ending is another one, or the file cannot be written.
    """
    path = expanded(path)
    require_writable(path)
    stated = {key: value for key, value in values.items() if value is not None}
    if path.suffix.lower() == ".toml":
        text = str(_toml()(_without_null(stated)))
    else:
        text = json.dumps(stated, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise RunFileError(f"expected a place for the settings, cannot write {path}: {error.strerror}") from error


def _toml() -> Any:
    try:
        from tomli_w import dumps
    except ModuleNotFoundError as error:
        raise RunFileError(
            f"expected the package tomli-w, which writes TOML, found none; {install_command('train')}, or name a file "
            "that ends in .json"
        ) from error
    return dumps


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_null(one) for one in value]
    return NONE if value is None else value
