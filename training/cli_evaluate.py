"""``robust-encoders evaluate``: attacks on an encoder of the shapes world, and the rates they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robust_encoders.cli import EXIT_OK, UsageError, choose, open_pipeline, say
from robust_encoders.encoder import RobustEncoder

from . import evaluate as evaluation
from .artifact import with_results
from .cli import leading_name
from .plan import EvaluationSettings
from .report import results_table
from .report_page import write_report
from .results import RESULTS_NAME
from .shapes.vocabulary import VALUES


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Attack an encoder of the shapes world, judge the pictures, print the rates.

    Args:
        out: Folder of results.json, report.html and its figures; an evaluation that was stopped goes on where it was.
        concept: What should be gone; by default what the encoder erases.
        base: Folder of the pipeline; by default the embedded base.
        settings: Sizes, seed, sampling and the budget of the attacks.
        beside: Folders of finished evaluations that the report's figures show, too, for example that of the base.
        record: Also write the numbers into the encoder's manifest; the encoder must be given as a folder.
    """

    out: Path
    concept: str = ""
    base: Path | None = None
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    beside: tuple[Path, ...] = ()
    record: bool = False


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluate an encoder and print the table of its rates.

    Args:
        arguments: A catalog name, a folder, or ``base``; then the options.

    Returns:
        The exit code.

    Raises:
        UsageError: The arguments parse, but the concept is missing or unknown.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    what = "a catalog name, a folder, or `base` for the base without an encoder"
    name = leading_name("evaluate", "Attack an encoder. `evaluate NAME --help` shows every setting.", what, arguments)
    options = _read(arguments[1:])
    if options.record and not Path(name).is_dir():
        raise UsageError(f"expected the encoder's folder with --record, found {name!r}")
    encoder = None if name == "base" else RobustEncoder.from_pretrained(name)
    concept = options.concept or (encoder.manifest.concept.name if encoder is not None else "")
    if not concept:
        raise UsageError("expected a concept to look for in the pictures of the base, found none; add --concept")
    choose(concept, [value for values in VALUES.values() for value in values], "concept of the shapes world")
    missing = [str(path) for path in options.beside if not (path / RESULTS_NAME).is_file()]
    if missing:
        raise UsageError(
            f"expected folders of finished evaluations with --beside, found no {RESULTS_NAME} in {missing}"
        )
    pipe = open_pipeline(options.base)
    found = evaluation.evaluate(pipe, encoder, concept, settings=options.settings, out=options.out)
    say(f"{write_report(options.out, found, beside=options.beside)}\n")
    if options.record and encoder is not None:
        with_results(encoder, found).save_pretrained(name)
    say(results_table([found]))
    return EXIT_OK


def _read(arguments: Sequence[str]) -> EvaluationRun:
    import tyro

    short = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(EvaluationRun, args=arguments, prog="robust-encoders evaluate NAME", config=short)
