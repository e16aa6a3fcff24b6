"""What the end of a training needs, asked of the command line before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from robust_encoders.utils.console import UsageError
from robust_encoders.utils.targets import disk_problems
from robust_encoders.utils.text_lists import comma_problems

from ..diffusion.base_configs import configs_of
from ..diffusion.devices import device_problems
from ..prompts.synonyms import SynonymConfig
from ..prompts.text_files import PromptFileError
from ..recipes.preflight import TrainingPlaces, bank_needs, dtypes_of, recipe_problems, slot_problems
from ..recipes.recipe import Recipe
from ..worlds import BASES
from ..worlds.choice import world_of
from .requirements import base_problems, require

T = TypeVar("T")
_SEVERAL = "several concepts are --concept NAME --also OTHER ..., further words of one concept are --synonyms WORD ..."


def require_training(options: Any, make: Callable[[], Recipe]) -> Recipe:
    """Return the recipe of a command line, if everything is there that its run needs until its end.

    Args:
        options: Options of the command ``train``.
        make: Function that makes the recipe from the options; it reads files of prompts.

    Raises:
        NotReadyError: If something is missing or wrong; the message lists everything.
        UsageError: If nothing else than the recipe is wrong.
    """
    places = TrainingPlaces(
        out=options.out,
        cache_dir=options.cache_dir,
        tracker_dir=options.tracker_dir if options.tracker else None,
        trackers=options.tracker,
    )
    problems = [*places.problems(), *_number_problems(options), *word_problems(options)]
    # A concept that is a list is unknown for this reason, and the recipe is not made.
    recipe = None if word_problems(options) else _made(make, problems)
    base = base_of(options.base, recipe)
    embedded = world_of(base) is not None
    dtypes = [] if embedded else [options.dtype]
    problems += device_problems(options.device, *dtypes, *(dtypes_of(recipe) if recipe is not None else ()))
    problems += base_problems(base, two=True)
    if recipe is not None:
        problems += [*recipe_problems(recipe), *_other_world_problems(base, recipe)]
        configs = None if base is None or embedded or problems else configs_of(base)
        if configs is not None:
            problems += slot_problems(recipe.method, configs)
        if configs is not None and configs.latent_shape is not None:
            problems += disk_problems(bank_needs(recipe, configs.latent_shape, places))
    require(problems)
    return recipe if recipe is not None else make()


def base_of(base: str | None, recipe: Recipe | None) -> str | None:
    """Return the base of a training: the stated one, or the embedded one that a recipe is for.

    Args:
        base: Stated folder, Hub id, or name of an embedded base; None if none is stated.
        recipe: Recipe of the run; None if it could not be made.
    """
    return recipe.base if base is None and recipe is not None and recipe.base in BASES else base


def _other_world_problems(base: str | None, recipe: Recipe) -> list[str]:
    """Return the problem of a recipe for another base than the embedded one of the run."""
    world = world_of(base)
    if world is None or recipe.base in ("", world.name):
        return []
    if recipe.base in BASES:
        way = f"leave --base out, or write --base {recipe.base}"
    else:
        way = f"name a base of the family {recipe.base} as --base"
    return [f"expected the base {recipe.base} for {recipe.name}, found {world.name}; {way}"]


def word_problems(options: Any) -> list[str]:
    """Return the words of a concept that are lists with commas, with the options that take several words."""
    own = [one for one in (getattr(options, "concept", ""),) if one]
    return [
        *comma_problems("--concept", own, _SEVERAL),
        *comma_problems("--also", getattr(options, "also", ()), "write --also {}"),
        *comma_problems("--synonyms", getattr(options, "synonyms", ()), "write --synonyms {}"),
        *comma_problems(
            "--anchor",
            [one for one in (getattr(options, "anchor", ""),) if one],
            "a concept has one anchor, so write it without commas",
        ),
    ]


def _made(make: Callable[[], T], problems: list[str]) -> T | None:
    """Return what a function makes, or None with its error added to the problems, if there are any already."""
    try:
        return make()
    except (PromptFileError, UsageError) as error:
        if not problems and isinstance(error, UsageError):
            raise
        problems.append(str(error))
        return None


def _number_problems(options: Any) -> list[str]:
    problems = [
        f"expected {flag} of at least 1, found {value}"
        for flag, value in (("--every", options.every), ("--micro-batch", options.micro_batch))
        if value is not None and value < 1
    ]
    if options.auto_synonyms:
        try:
            SynonymConfig(k=options.auto_synonyms, threshold=options.synonym_threshold, space=options.synonym_space)
        except ValueError as error:
            problems.append(f"these synonyms cannot be found: {error}")
    return problems
