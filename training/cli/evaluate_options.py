"""The options of ``robust-encoders evaluate``: general options, and the options of the chosen benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from robust_encoders.concepts import Concept
from robust_encoders.utils.console import UsageError, choose

from ..diffusion.load import UNetDtype
from ..evaluation.baselines import BASELINES
from ..evaluation.benchmarks import BENCHMARKS
from ..evaluation.config import EvaluationConfig
from ..evaluation.evaluate import defaults_of
from ..evaluation.plan import Benchmark
from ..worlds import BASES, DEFAULT_BASE
from ..worlds.choice import embedded_base_of, world_of
from .parsing import expanded_paths, hyphened

_DEFAULT, _BY_PROMPTS = "shapes", "stable_diffusion"
# What --quick gives in place of a benchmark's own defaults.
_QUICK: Mapping[str, Any] = {"suite": "quick", "n": 8, "n_kept": 16, "n_probes": 4, "n_renders": 16}


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Attack encoders, judge the pictures, and print the rates of success.

    The default benchmark is shapes, on the embedded base. An encoder of the emoji base, or --base emoji, chooses the
    benchmark of that embedded base. The option --prompts, with a file of prompts, chooses the benchmark of any Stable
    Diffusion base. The option --benchmark chooses any registered benchmark. Each benchmark has its own settings.
    `evaluate NAME --prompts FILE --help` or `evaluate NAME --benchmark NAME --help` shows them.

    Args:
        out: Folder for results.json, report.html and its figures. Several encoders get one folder each inside it. An
            evaluation that was stopped continues from its finished parts.
        concept: Concept that should be gone; by default the concept that the encoder erases.
        base: Name of an embedded base, or folder or Hub id of the pipeline, for example CompVis/stable-diffusion-v1-4;
            by default the embedded base of the benchmark, or the one that the encoders were made from.
        dtype: Precision of the loaded base.
        benchmark: Name of the benchmark; by default that of the embedded base, or stable_diffusion if --prompts is
            given.
        beside: Folders of further finished evaluations for the report's figures, for example that of the base.
        device: Device of the models; by default a GPU if there is one.
        quick: Switch for a first look: the suite `quick` on few prompts, without checks. Options that you give yourself
            win. The numbers are too few to mean anything.
        record: Switch that also writes the numbers into the encoder's manifest; the encoder must be given as a folder.
        config: Sampling, seed, checks, attacks and metrics of the run.
        settings: Options of the benchmark: prompts, sizes, detector, suite.
    """

    out: Path
    concept: str = ""
    base: str = ""
    dtype: UNetDtype = "float32"
    benchmark: str = ""
    beside: tuple[Path, ...] = ()
    device: str = ""
    quick: bool = False
    record: bool = False
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    settings: Any = None


def read_options(arguments: Sequence[str], names: Sequence[str] = ()) -> tuple[EvaluationRun, type[Benchmark]]:
    """Return the options and the class of the benchmark that they ask for.

    Args:
        arguments: Options of the command line.
        names: Names of the encoders; if all were made from one embedded base, they choose it.

    Raises:
        UsageError: If the benchmark is not known or belongs to another embedded base, or --prompts is given without
            --base for encoders that tell no embedded base.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    import tyro

    arguments = hyphened(arguments)
    told = embedded_base_of(one for one in names if one not in ("base", *BASELINES))
    name = _named(arguments, told)
    choose(name, BENCHMARKS, "benchmark")
    kind = BENCHMARKS[name]
    quick = "--quick" in arguments
    settings, config = _settings_of(kind, _QUICK if quick else {}), defaults_of(kind)
    config = replace(config, checks=0) if quick else config
    run = make_dataclass(
        "EvaluationRun",
        [("config", EvaluationConfig, field(default=config)), ("settings", settings, _default(settings))],
        bases=(EvaluationRun,),
        frozen=True,
        kw_only=True,
    )
    run.__doc__ = EvaluationRun.__doc__
    found: EvaluationRun = expanded_paths(
        tyro.cli(run, args=arguments, prog="robust-encoders evaluate NAME", config=(tyro.conf.OmitArgPrefixes,))
    )
    if name == _BY_PROMPTS and not found.base and not told:
        raise UsageError("expected --base with --prompts, the folder or Hub id of a pipeline, found none; add it")
    found = replace(found, base=_base_of(name, found.base, told))
    config = replace(found.config, attacks=_parted(found.config.attacks), metrics=_parted(found.config.metrics))
    return replace(found, benchmark=name, config=config), kind


def made_benchmark(kind: type[Benchmark], concept: Concept, options: EvaluationRun) -> Benchmark:
    """Return the benchmark for a concept.

    Raises:
        ValueError: If the benchmark refuses the concept or an option.
    """
    given = {one.name: getattr(options.settings, one.name) for one in fields(options.settings)}
    make: Callable[..., Benchmark] = kind
    return make(concept=concept, **given)


def _named(arguments: Sequence[str], told: str) -> str:
    """Return the name of the benchmark that the arguments give, or that prompts, base or encoders imply.

    The encoders have ``told`` an embedded base, or none.
    """
    if given := _value("--benchmark", arguments):
        return given[0]
    if _value("--prompts", arguments):
        return _BY_PROMPTS
    world = world_of(next(iter(_value("--base", arguments)), "") or told or None)
    return world.name if world is not None and world.name in BENCHMARKS else _DEFAULT


def _value(option: str, arguments: Sequence[str]) -> list[str]:
    """Return the values of an option, an empty text for one without a value."""
    flags = [argument.partition("=") for argument in arguments]
    return [
        value if sign else next(iter(arguments[i + 1 : i + 2]), "")
        for i, (flag, sign, value) in enumerate(flags)
        if flag == option
    ]


def _base_of(benchmark: str, base: str, told: str) -> str:
    """Return the base of a run: the stated one, that of an embedded benchmark, or the one that encoders have told.

    Raises:
        UsageError: If the benchmark belongs to another embedded base than the stated one.
    """
    world = world_of(base) if base else None
    if benchmark in BASES and world is not None and base != benchmark:
        raise UsageError(
            f"expected the benchmark of the base {base}, found {benchmark}; leave --benchmark out, or "
            f"write --base {benchmark}"
        )
    implied = benchmark if benchmark in BASES else told
    return base or (implied if implied != DEFAULT_BASE else "")


def _settings_of(kind: type[Any], instead: Mapping[str, Any]) -> type[Any]:
    """Return a dataclass of a benchmark's options without the concept, which the command line sets itself.

    Args:
        kind: Class of the benchmark.
        instead: Defaults in place of the benchmark's own, by name of the option.
    """
    if not is_dataclass(kind):
        raise UsageError(f"expected a dataclass as the benchmark, found {kind.__name__}: its fields are the options")
    # Some modules import the class Concept only for type checkers.
    hints = get_type_hints(kind, localns={"Concept": Concept})
    made = [
        (one.name, hints[one.name], field(default=instead[one.name]) if one.name in instead else _copied(one))
        for one in fields(kind)
        if one.name != "concept" and one.init
    ]
    settings = make_dataclass(f"{kind.__name__}Options", made, frozen=True, kw_only=True)
    settings.__doc__ = kind.__doc__
    return settings


def _copied(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return field(default_factory=one.default_factory)
    return field() if one.default is MISSING else field(default=one.default)


def _default(settings: type[Any]) -> Any:
    """Return the field of a benchmark's options, with a default if every option has one."""
    missing = [one for one in fields(settings) if one.default is MISSING and one.default_factory is MISSING]
    return field() if missing else field(default_factory=settings)


def _parted(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name once; names may be separate or joined by commas."""
    return tuple(dict.fromkeys(part for name in names for part in name.split(",") if part))
