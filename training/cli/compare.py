"""``robust-encoders compare``: many methods trained and evaluated alike on one concept, in one report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from robust_encoders.conversion.text_config import family_of
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, UsageError, say
from robust_encoders.utils.extras import OptionalPackage, install_command
from robust_encoders.utils.home import expanded
from robust_encoders.utils.targets import place_problems
from robust_encoders.utils.text_lists import comma_problems

from ..comparison.choose import ALL, MODULES, ComparedMethod, MethodChoice
from ..comparison.record import BASE_ROW, ComparisonRecord, RowRecord
from ..comparison.report import HTML_NAME, ComparisonReport
from ..comparison.reuse import Given, read_given
from ..comparison.run import Comparison, ComparisonSetup
from ..diffusion.base_configs import BaseConfigs, configs_of
from ..diffusion.devices import device_problems
from ..distributed import Shard
from ..evaluation.benchmarks import BENCHMARKS
from ..evaluation.choices import chosen, refuse_unknown
from ..evaluation.config import EvaluationConfig
from ..evaluation.plan import Benchmark
from ..evaluation.preflight import benchmark_problems
from ..recipes.preflight import TrainingPlaces, dtypes_of, recipe_problems, slot_problems
from ..worlds import BASES, DEFAULT_BASE
from ..worlds.choice import open_named, world_of
from .evaluate_options import EvaluationRun, made_benchmark, read_options
from .evaluate_preflight import require_evaluation
from .parsing import parser_of
from .requirements import require

_NEEDED = OptionalPackage(("accelerate", "matplotlib"), install_command("train,eval"))
# Options of `evaluate` that a comparison sets itself, with the option that stands for each.
_OWN = {"--seed": "--seeds", "--source": "nothing; rows share the base's parts", "--record": "robust-encoders evaluate"}
# Settings of a run that do not change its numbers.
_NO_CONDITIONS = ("source", "reuse", "strength", "seed")
_MORE = (
    "A second run with the same --out goes on where the first one stopped, and may add methods and seeds. Every other "
    "option is one of evaluate, such as --suite, --n or --prompts; `robust-encoders evaluate base --help` lists them. "
    "--quick is a first look: a tenth of each training, and few prompts."
)


@dataclass(frozen=True)
class _Request:
    """A command line that was read and checked."""

    options: EvaluationRun
    kind: type[Benchmark]
    benchmark: Benchmark
    methods: list[ComparedMethod]
    left_out: list[str]
    seeds: list[int]
    given: list[Given]
    record: ComparisonRecord
    keep_trained: bool


def compare(arguments: Sequence[str]) -> int:
    """Train and evaluate methods, write the report, and print its summary.

    Args:
        arguments: Options of the comparison, and options of ``evaluate``.

    Returns:
        The exit code: 1 if a row failed.

    Raises:
        UsageError: If a name is unknown, or arguments contradict each other.
        NotReadyError: If something that the run needs until its end is missing; the message lists everything.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    request = _read(arguments)
    try:
        setup = _setup(request)
        comparison = _comparison(request, setup)
        # This loads judges and reads prompts, so that errors in them come first.
        chosen(comparison.plan(request.seeds[0]), request.options.config)
        require(comparison.reuse_problems())
        comparison.read_finished()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    whole = comparison.run()
    report = ComparisonReport(comparison.record, comparison.measured, request.left_out)
    report.write(page=True)
    say(report.summary())
    say(str(request.options.out / HTML_NAME))
    return EXIT_OK if whole else EXIT_NO


def _parser() -> ArgumentParser:
    parser = parser_of("compare", "Train methods on one concept by their recipes, evaluate them alike, and report.")
    parser.allow_abbrev = False
    parser.epilog = _MORE
    parser.add_argument("--out", type=expanded, required=True, help="folder of the comparison and its report")
    parser.add_argument("--concept", required=True, help="concept that every method erases")
    parser.add_argument(
        "--base", default=DEFAULT_BASE, help="name of an embedded base, or folder or Hub id of a pipeline"
    )
    parser.add_argument(
        "--methods", default=ALL, metavar="NAME,...", help="variants METHOD of the recipes BASE/CONCEPT-METHOD, or all"
    )
    parser.add_argument("--modules", default="", metavar="NAME,...", help="components to train: text_encoder, unet")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="INT", help="seeds of training and evaluation"
    )
    parser.add_argument(
        "--reuse",
        type=expanded,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="finished evaluations of the same suite",
    )
    parser.add_argument(
        "--keep-trained", action="store_true", help="keep trainings that an earlier content of this package made"
    )
    return parser


def _read(arguments: Sequence[str]) -> _Request:
    """Read and check a command line; nothing is loaded, and nothing is written."""
    own, rest = _parser().parse_known_args(arguments)
    _refuse_own(rest)
    world = world_of(own.base)
    problems = _simple_problems(own)
    family = own.base if world is not None else _family(own.base, problems)
    choice = MethodChoice(family, own.concept, world)
    problems += choice.concept_problems() if family else []
    methods, left_out = ([], []) if problems else _methods(choice, own, problems, shorter="--quick" in rest)
    given, unread = read_given(own.reuse)
    require([*problems, *unread])
    options, kind = read_options(_options(own, rest))
    record = _record(own, options, methods, problems)
    require([*problems, *_training_problems(options, methods, own.seeds)])
    require_evaluation(options, kind, [own.out / slug for slug in record.rows])
    try:
        benchmark = made_benchmark(kind, methods[0].recipe.concept, options)
        refuse_unknown(benchmark, options.config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    require(benchmark_problems(benchmark, options.config))
    return _Request(options, kind, benchmark, methods, left_out, own.seeds, given, record, own.keep_trained)


def _refuse_own(rest: Sequence[str]) -> None:
    for flag in (argument.partition("=")[0] for argument in rest):
        if flag in _OWN:
            raise UsageError(f"expected options that a comparison leaves to you, found {flag}; use {_OWN[flag]}")


def _simple_problems(own: Namespace) -> list[str]:
    """Return what is wrong with single options, and with the machine."""
    problems = [*place_problems(own.out), *filter(None, [_NEEDED.problem("compare")])]
    problems += comma_problems("--concept", [own.concept], "compare on one concept at a time")
    if unknown := [name for name in _names(own.modules) if name not in MODULES]:
        problems.append(f"expected --modules of {', '.join(MODULES)}, found {', '.join(unknown)}")
    if min(own.seeds) < 0 or len({*own.seeds}) < len(own.seeds):
        problems.append(f"expected different seeds of at least 0, found {' '.join(map(str, own.seeds))}")
    if (count := Shard.current().count) > 1:
        problems.append(f"expected one process for a comparison, found {count}; start it without accelerate launch")
    return problems


def _family(base: str, problems: list[str]) -> str:
    """Return the family of a base outside of this package; empty with a problem."""
    configs = configs_of(base, draws=True)
    family = "" if configs is None else family_of(dict(configs.config("text_encoder")))
    if not family.isalnum():
        problems.append(
            f"expected a base among {', '.join(BASES)}, or a folder or Hub id of Stable Diffusion 1 or 2, found "
            f"{base!r}; take one of the list, or check the place"
        )
        return ""
    return family


def _methods(
    choice: MethodChoice, own: Namespace, problems: list[str], *, shorter: bool
) -> tuple[list[ComparedMethod], list[str]]:
    names = _names(own.methods)
    if not names:
        problems.append(f"expected --methods of {', '.join(choice.known)} or {ALL}, found none")
        return [], []
    modules = [name for name in _names(own.modules) if name in MODULES]
    try:
        return choice.chosen(names, modules, shorter=shorter)
    except ValueError as error:
        problems += str(error).splitlines()
        return [], []


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _options(own: Namespace, rest: Sequence[str]) -> list[str]:
    """Return the arguments of ``evaluate`` that stand for a comparison's."""
    asked = [argument.partition("=")[0] for argument in rest]
    named = [] if own.base not in BENCHMARKS or {"--benchmark", "--prompts"}.intersection(asked) else [own.base]
    embedded = world_of(own.base) is not None
    if embedded and not named and "--benchmark" not in asked:
        raise UsageError(
            f"expected a benchmark for the base {own.base}, found none of that name; name one with --benchmark: "
            f"{', '.join(BENCHMARKS)}"
        )
    if not embedded and "--prompts" not in asked and "--benchmark" not in asked:
        raise UsageError("expected --prompts with a base of your own, the file of prompts, found none; add it")
    benchmark = [text for name in named for text in ("--benchmark", name)]
    return [*benchmark, "--out", str(own.out), "--base", own.base, "--concept", own.concept, *rest]


def _record(
    own: Namespace, options: EvaluationRun, methods: Sequence[ComparedMethod], problems: list[str]
) -> ComparisonRecord:
    """Return the state of the comparison in its folder with the rows of this run, or a new one."""
    about = {"base": own.base, "concept": own.concept, "benchmark": options.benchmark, "settings": _conditions(options)}
    rows = [RowRecord(one.name, seed, one.component, one.registered) for one in methods for seed in own.seeds]
    known = None
    try:
        known = ComparisonRecord.read(own.out)
    except ValueError as error:
        problems.append(str(error))
    if known is not None:
        problems += known.problems(about)
    before = {} if known is None else known.rows
    if not any(row.name == BASE_ROW for row in before.values()):
        rows = [RowRecord(BASE_ROW, own.seeds[0]), *rows]
    return ComparisonRecord(own.out, about, {**before, **{r.slug: before.get(r.slug, r) for r in rows}})


def _conditions(options: EvaluationRun) -> dict[str, Any]:
    """Return the settings that all rows share, as JSON values."""
    of_run = {one.name: getattr(options.config, one.name) for one in fields(EvaluationConfig)}
    of_benchmark = {one.name: getattr(options.settings, one.name) for one in fields(options.settings)}
    found = {"quick": options.quick, "dtype": options.dtype, **of_benchmark, **of_run}
    return {name: _plain(value) for name, value in found.items() if name not in _NO_CONDITIONS}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _training_problems(options: EvaluationRun, methods: Sequence[ComparedMethod], seeds: Sequence[int]) -> list[str]:
    """Return what the trainings lack: places, packages, precisions, settings."""
    problems = []
    for one in methods:
        for seed in seeds:
            row = RowRecord(one.name, seed)
            places = TrainingPlaces(out=options.out / row.slug / "encoder", cache_dir=options.out / "banks")
            problems += [*places.problems(), *recipe_problems(one.recipe.with_seed(seed))]
        problems += device_problems(options.device, *dtypes_of(one.recipe))
    return problems


def _setup(request: _Request) -> ComparisonSetup:
    """Open the base, once if training and evaluation can share it."""
    options = request.options
    trained = open_named(options.base, dtype=options.dtype, device=options.device, whole=options.dtype == "float32")
    pipe = trained.pipe
    if world_of(options.base) is None and options.dtype != "float32":
        pipe = open_named(options.base, dtype=options.dtype, device=options.device, whole=True).pipe
    configs = BaseConfigs.of_pipeline(trained.pipe)
    require(text for one in request.methods for text in slot_problems(one.recipe.method, configs))
    return ComparisonSetup(trained, pipe, request.benchmark, options.config, request.keep_trained)


def _comparison(request: _Request, setup: ComparisonSetup) -> Comparison:
    rows = {RowRecord(one.name, seed).slug: one for one in request.methods for seed in request.seeds}
    return Comparison(
        request.record,
        setup,
        rows,
        given=request.given,
        report=lambda made: ComparisonReport(made.record, made.measured, request.left_out).write(),
    )
