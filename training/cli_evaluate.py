"""``robust-encoders evaluate``: attacks on encoders, and the rates they reach."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_encoders.cli import EXIT_OK, UsageError, choose, open_pipeline, say
from robust_encoders.encoder import RobustEncoder

from . import evaluate as evaluation
from .artifact import with_results
from .baselines import BASELINES, baselines_for
from .cli import leading_names
from .report import results_table
from .report_page import write_report
from .results import RESULTS_NAME, Evaluation
from .shapes.concepts import shapes_concept
from .shapes.vocabulary import VALUES
from .shapes_plan import EvaluationSettings
from .sharding import Shard
from .subject import Defence


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Attack encoders of the shapes world, judge the pictures, print the rates.

    Args:
        out: Folder of results.json, report.html and its figures, of each encoder's folder with these if there are
            several; an evaluation that was stopped goes on where it was.
        concept: What should be gone; by default what the encoder erases.
        base: Folder of the pipeline; by default the embedded base.
        settings: Sizes, seed, sampling and the budget of the attacks.
        beside: Folders of finished evaluations that the report's figures show, too, for example that of the base.
        strength: Folder of a finished evaluation of the base with --captions open: says how strong the attacks are.
        source: Folder of what depends on the base alone, to be shared between evaluations; several encoders given at
            once share it anyway.
        device: Where the models run; by default a GPU if there is one.
        record: Also write the numbers into the encoder's manifest; the encoder must be given as a folder.
    """

    out: Path
    concept: str = ""
    base: Path | None = None
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    beside: tuple[Path, ...] = ()
    strength: Path | None = None
    source: Path | None = None
    device: str = ""
    record: bool = False


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluate encoders and print the table of their rates.

    Args:
        arguments: Catalog names, folders, ``base``, or names of baselines; then the options.

    Returns:
        The exit code.

    Raises:
        UsageError: The arguments parse, but the concept is missing or unknown, or two encoders erase different ones.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    what = f"a catalog name, a folder, `base` for the base without an encoder, or a baseline: {', '.join(BASELINES)}"
    names, rest = leading_names("evaluate", "Attack encoders. `evaluate NAME --help` shows every setting.", what, arguments)
    options = _read(rest)
    if options.record and not all(Path(name).is_dir() for name in names):
        raise UsageError(f"expected folders of encoders with --record, found {', '.join(names)}")
    folders = _folders(names, options.out)
    encoders = [_encoder(name) for name in names]
    concept = _concept(options.concept, encoders)
    choose(concept, [value for values in VALUES.values() for value in values], "concept of the shapes world")
    _require_finished(options)
    shard = Shard.current()
    pipe = open_pipeline(options.base).to(options.device or shard.device)
    known = baselines_for(shapes_concept(concept))
    found = []
    for name, encoder, folder in zip(names, encoders, folders, strict=True):
        found.append(_one(pipe, known.get(name, encoder), concept, options, folder, shard))
        if options.record and encoder is not None and shard.main:
            with_results(encoder, found[-1]).save_pretrained(name)
    if shard.main:
        say(results_table(found))
    return EXIT_OK


def _one(
    pipe: Any, defence: Defence | None, concept: str, options: EvaluationRun, out: Path, shard: Shard
) -> Evaluation:
    """Evaluate one encoder and write its report."""
    shared = options.source or (None if out == options.out else options.out / "source")
    made = evaluation.evaluate(
        pipe,
        defence,
        concept,
        settings=options.settings,
        out=out,
        source=shared,
        strength=options.strength,
        shard=shard,
    )
    if shard.main:
        say(f"{write_report(out, made, beside=options.beside)}\n")
    return made


def _encoder(name: str) -> RobustEncoder | None:
    return None if name in ("base", *BASELINES) else RobustEncoder.from_pretrained(name)


def _folders(names: Sequence[str], out: Path) -> list[Path]:
    """Return where each evaluation goes: into ``out`` itself if it is the only one."""
    if len(names) == 1:
        return [out]
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") for name in names]
    if len({*slugs, "source"}) <= len(slugs) or not all(slugs):
        raise UsageError(f"expected encoders whose folders in --out have names of their own, found {', '.join(slugs)}")
    return [out / slug for slug in slugs]


def _concept(given: str, encoders: Sequence[RobustEncoder | None]) -> str:
    erased = {encoder.manifest.concept.name for encoder in encoders if encoder is not None}
    if not given and not erased:
        raise UsageError("expected a concept to look for in the pictures of the base, found none; add --concept")
    if not given and len(erased) > 1:
        raise UsageError(
            f"expected encoders of one concept, found {', '.join(sorted(erased))}; evaluate them apart, or say which "
            "one to look for with --concept"
        )
    return given or next(iter(erased))


def _require_finished(options: EvaluationRun) -> None:
    for flag, paths in (("--beside", options.beside), ("--strength", filter(None, [options.strength]))):
        missing = [str(path) for path in paths if not (path / RESULTS_NAME).is_file()]
        if missing:
            raise UsageError(
                f"expected folders of finished evaluations with {flag}, found no {RESULTS_NAME} in {missing}"
            )


def _read(arguments: Sequence[str]) -> EvaluationRun:
    import tyro

    short = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(EvaluationRun, args=arguments, prog="robust-encoders evaluate NAME", config=short)
