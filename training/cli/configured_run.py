"""A training run as a file of settings states it, for ``train --config FILE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

from robust_encoders.concepts import Concept
from robust_encoders.utils.console import UsageError, choose
from robust_encoders.utils.json_fields import short

from ..methods import METHODS
from ..protocols import EmbeddedBase, Method
from ..recipes.method_settings import (
    UNCHANGED,
    retained,
    stated_concept,
    stated_method,
    usual,
    usual_retained,
)
from ..recipes.recipe import Recipe, with_retained
from ..recipes.registry import RECIPES
from ..recipes.reproduce import CannotReproduceError
from ..recipes.run_file import RECIPE_KEYS, RunFileError, read_run_file
from ..recipes.settings import Problems, converted, places
from ..worlds import BASES
from ..worlds.choice import world_of

# Options that are no settings of a run, or that the method's settings state.
NO_KEYS = ("config", "inner_attack", "method", "quick", "write_config")
# Options of a method, which a whole recipe states in its own way.
OF_METHODS = ("concept", "kind", "anchor", "synonyms", "prompts", "retain_prompts", "family", "license")


@dataclass(frozen=True, kw_only=True)
class ConfiguredRun:
    """A run as a file states it.

    Args:
        name: Name of the recipe, or of the method.
        method: Method with the stated settings.
        recipe: The whole recipe; None if the file names a method and leaves the concept to the options.
        options: Stated options of the command line, by field.
        states_retained: True if the file states retain prompts.
    """

    name: str
    method: Method
    recipe: Recipe | None
    options: Mapping[str, Any] = field(default_factory=dict)
    states_retained: bool = False

    @classmethod
    def read(cls, path: Path, name: str, kind: type, *, base: str | None = None) -> ConfiguredRun:
        """Read a file of settings.

        Args:
            path: TOML or JSON file, manifest, or folder of a trained encoder.
            name: Recipe or method that the command line names; empty leaves it to the file.
            kind: Dataclass of all options of the command line.
            base: Base that the command line states, which wins over that of the file; None leaves it to the file.

        Raises:
            UsageError: If the file cannot be read or does not fit; the message lists all problems.
        """
        if name:
            choose(name, [*RECIPES, *METHODS], "recipe or method")
        try:
            values = read_run_file(path) if base is None else {**read_run_file(path), "base": base}
        except (RunFileError, CannotReproduceError) as error:
            raise UsageError(str(error)) from error
        problems = Problems()
        made = _configured(values, name, kind, problems)
        if made is None or problems.found:
            count = len(problems.found)
            raise UsageError(
                "\n  ".join([f"expected settings of a run in {path}, found {count} problem(s):", *problems.found])
            )
        return made


def _configured(values: Mapping[str, Any], name: str, kind: type, problems: Problems) -> ConfiguredRun | None:
    """Return the run that values state, or None with a problem."""
    method: Any = values.get("method", {})
    table = {"name": method} if isinstance(method, str) else method
    if not isinstance(table, Mapping):
        problems.add("method", "one table of settings", method)
        return None
    recipe_name, method_name = _names(values, table, name, problems)
    if problems.found:
        return None
    known = RECIPES[recipe_name]() if recipe_name in RECIPES else None
    ours = known is not None and method_name in ("", known.method.name)
    start = known.method if known is not None and ours else usual(METHODS[method_name], captioned=_captioned(values))
    options = _options(values, kind, _allowed(values, known), start, problems)
    placed = stated_method(with_retained(start, UNCHANGED), table, problems)
    states_retained = retained(placed) != UNCHANGED
    kept = placed if states_retained else with_retained(placed, retained(start))
    recipe = _recipe(values, recipe_name, known, kept, options=options, problems=problems)
    title = recipe_name or method_name if recipe is None else recipe.name
    return ConfiguredRun(name=title, method=kept, recipe=recipe, options=options, states_retained=states_retained)


def _captioned(values: Mapping[str, Any]) -> bool:
    """Return True if the concept has captions: stated ones, or those of an embedded base."""
    concept = values.get("concept")
    stated = values.get("prompts") or (isinstance(concept, Mapping) and concept.get("prompts"))
    base = values.get("base")
    return bool(stated) or (isinstance(base, str | None) and world_of(base) is not None)


def _names(values: Mapping[str, Any], table: Mapping[str, Any], name: str, problems: Problems) -> tuple[str, str]:
    """Return the names of recipe and method, from the file and the command line; an empty one is not stated."""
    recipe, method = values.get("recipe", ""), table.get("name", "")
    for key, value in (("recipe", recipe), ("method.name", method)):
        if not isinstance(value, str):
            problems.add(key, "one name; write a file for each run", value)
            return "", ""
    whole = isinstance(values.get("concept"), Mapping)
    if name and (other := recipe or (name in RECIPES and whole and "a concept") or (name in METHODS and method)):
        if other != name:
            problems.found.append(f"expected one run, found {name!r} on the command line and {other!r} in the file")
    elif name in RECIPES:
        recipe = name
    elif name:
        method = name
    _require_known(recipe, method, whole, problems)
    return recipe, method


def _require_known(recipe: str, method: str, whole: bool, problems: Problems) -> None:
    """Add a problem unless recipe and method exist and fit each other."""
    if method and method not in METHODS:
        problems.found.append(f"method.name: {_unknown(method, list(METHODS), 'a method')}")
    elif not recipe and not method:
        problems.found.append(
            'expected a recipe or a method, found neither; add recipe = "NAME" or a table [method] with a name'
        )
    elif recipe and recipe not in RECIPES and not (whole and method):
        found = _unknown(
            recipe, list(RECIPES), "a recipe of this package, or one that states its [concept] and [method]"
        )
        problems.found.append(f"recipe: {found}")
    elif recipe in RECIPES and method and not whole and (ours := RECIPES[recipe]().method.name) != method:
        problems.found.append(f"method.name: expected {ours!r}, the method of {recipe}, found {method!r}")


def _unknown(name: str, known: Sequence[str], what: str) -> str:
    close = get_close_matches(name, known, 1)
    return f"expected {what}, found {name!r}; " + (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    )


def _allowed(values: Mapping[str, Any], known: Recipe | None) -> tuple[str, tuple[str, ...]]:
    """Return the kind of the file in words, and the keys that it may have beside the options of every run."""
    if isinstance(values.get("concept"), Mapping):
        return "a table [concept]", RECIPE_KEYS
    if known is not None:
        return "a recipe of this package", ("recipe", "method")
    return "a method", ("method", *OF_METHODS)


def _options(
    values: Mapping[str, Any], kind: type, allowed: tuple[str, tuple[str, ...]], method: Method, problems: Problems
) -> dict[str, Any]:
    """Return the options that the values state, and add a problem for each key that does not belong there."""
    hints, (beside, own) = get_type_hints(kind), allowed
    options = [one.name for one in fields(kind) if one.name not in (*NO_KEYS, *OF_METHODS)]
    elsewhere = [f"method.{place}" for place in places(method)]
    found = {}
    for key, value in values.items():
        if key in options or (key in own and key in hints and own != RECIPE_KEYS and key != "method"):
            found[key] = converted(hints[key], value, key, problems)
        elif key in (*RECIPE_KEYS, *OF_METHODS) and key not in own:
            problems.found.append(
                f"{key}: expected no such setting beside {beside}, found {short(value)}; leave it out"
            )
        elif key not in own:
            problems.unknown("", key, [*options, *own], elsewhere)
    return found


def _recipe(
    values: Mapping[str, Any],
    name: str,
    known: Recipe | None,
    method: Method,
    *,
    options: Mapping[str, Any],
    problems: Problems,
) -> Recipe | None:
    """Return the whole recipe, or None for a method whose concept the options name."""
    table = values.get("concept")
    if not isinstance(table, Mapping):
        return None if known is None else replace(known, method=method)
    concept = stated_concept(table, "concept", problems)
    cosines = values.get("found_synonyms", {})
    if not isinstance(cosines, Mapping):
        problems.add("found_synonyms", "a table of cosines by word", cosines)
        cosines = {}
    cosines = {word: converted(float, value, f"found_synonyms.{word}", problems) for word, value in cosines.items()}
    texts = {key: converted(str, values.get(key, ""), key, problems) for key in ("family", "license")}
    base = options.get("base")
    stated = texts["family"] or (known.base if known is not None else "")
    world = world_of(base or (stated if stated in BASES else None))
    if base and world is not None and texts["family"] not in ("", world.name):
        problems.found.append(
            f"family: expected {world.name!r}, the base of the run, found {texts['family']!r}; leave it out, or name "
            "another base"
        )
    if concept is None or problems.found:
        return None
    family = stated or (world.name if world is not None else "")
    license = texts["license"] or (known.license if known is not None else world.license if world is not None else "")
    if retained(method) == UNCHANGED:
        method = with_retained(method, _usual_prompts(concept, method, world if family in BASES else None, problems))
    title = name or f"{family}/{concept.name}-{method.name}"
    made = Recipe(name=title, concept=concept, method=method, base=family, license=license)
    return replace(made, found_synonyms=cosines)


def _usual_prompts(concept: Concept, method: Method, world: EmbeddedBase | None, problems: Problems) -> tuple[str, ...]:
    """Return the retain prompts of a concept of the user's own, as for ``train METHOD --concept``."""
    try:
        return usual_retained(concept, method, world)
    except ValueError as error:
        problems.found.append(
            f"concept.name: expected a concept of the base, or retain prompts as method.{_retained_place(method)}, "
            f"found neither: {error}"
        )
        return ()


def _retained_place(method: Method) -> str:
    """Return the setting that holds a method's retain prompts, such as ``retain.prompts``."""
    marked: Any = with_retained(method, UNCHANGED)
    return next(place for place in places(marked) if attrgetter(place)(marked) == UNCHANGED)
