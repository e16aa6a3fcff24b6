"""``robust-encoders evaluate``: attacks on encoders, and the rates they reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from robust_encoders.cli.pipelines import open_pipeline
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.console import EXIT_OK, UsageError, choose, say

from ..distributed import Shard
from ..evaluation import evaluate as evaluation
from ..evaluation.baselines import BASELINES, baselines_for
from ..evaluation.benchmarks.shapes import EvaluationSettings
from ..evaluation.benchmarks.stable_diffusion import OpenEvaluation, open_plan
from ..evaluation.defence import Defence
from ..evaluation.manifest_results import with_results
from ..evaluation.results import RESULTS_NAME, Evaluation
from ..reports.html.page import write_report
from ..reports.matrix import tables
from ..worlds.shapes.concepts import shapes_concept
from ..worlds.shapes.vocabulary import VALUES
from .parsing import leading_names


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Attack encoders of the shapes world, judge the pictures, print the rates.

    With --prompts, a file of prompts, it is an evaluation on any Stable Diffusion base, which has other settings:
    `evaluate NAME --prompts FILE --help` shows them.

    Args:
        out: Folder of results.json, report.html and its figures, of each encoder's folder with these if there are
            several; an evaluation that was stopped goes on where it was.
        concept: What should be gone; by default what the encoder erases.
        base: Folder of the pipeline; by default the embedded base.
        beside: Folders of finished evaluations that the report's figures show, too, for example that of the base.
        strength: Folder of a finished evaluation of the base with --captions open: says how strong the attacks are.
        source: Folder of what depends on the base alone, to be shared between evaluations; several encoders given at
            once share it anyway.
        device: Where the models run; by default a GPU if there is one.
        record: Also write the numbers into the encoder's manifest; the encoder must be given as a folder.
        settings: Sizes, seed, sampling and the budget of the attacks.
    """

    out: Path
    concept: str = ""
    base: Path | None = None
    beside: tuple[Path, ...] = ()
    strength: Path | None = None
    source: Path | None = None
    device: str = ""
    record: bool = False
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """Attack encoders on any Stable Diffusion 1.x or 2.x base, judge the pictures by a published detector.

    Args:
        out: As without --prompts.
        concept: What should be gone; by default what the encoder erases.
        base: Folder or Hub id of the pipeline, for example CompVis/stable-diffusion-v1-4.
        dtype: Precision that the base is loaded in.
        beside: As without --prompts.
        strength: As without --prompts, an evaluation of the base.
        source: As without --prompts.
        device: Where the models run; by default a GPU if there is one.
        record: Also write the numbers into the encoder's manifest; the encoder must be given as a folder.
        chunk: Cases of one finished part; also the unit that several processes share the work by.
        checks: Cases on which every search is run again with half its budget and with another seed; 0 for none.
        settings: Prompts, detector, scores, sizes, sampling and the budget of the attacks.
    """

    out: Path
    base: str
    settings: OpenEvaluation
    concept: str = ""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    beside: tuple[Path, ...] = ()
    strength: Path | None = None
    source: Path | None = None
    device: str = ""
    record: bool = False
    chunk: int = 16
    checks: int = 8


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
    intro = "Attack encoders. `evaluate NAME --help` shows every setting."
    names, rest = leading_names("evaluate", intro, what, arguments)
    options = _read(rest)
    if options.record and not all(Path(name).is_dir() for name in names):
        raise UsageError(f"expected folders of encoders with --record, found {', '.join(names)}")
    folders = _folders(names, options.out)
    encoders = [_encoder(name) for name in names]
    concept = _concept(options.concept, encoders)
    if isinstance(options, EvaluationRun):
        choose(concept.name, [value for values in VALUES.values() for value in values], "concept of the shapes world")
        concept = shapes_concept(concept.name)
    _require_finished(options)
    if options.record and any(e is not None and e.manifest.concept.name != concept.name for e in encoders):
        raise UsageError(f"expected encoders that erase {concept.name!r} with --record, found one of another concept")
    shard = Shard.current()
    try:
        one = _prepared(options, concept, shard)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    words = options.settings.words if isinstance(options, OpenRun) else ()
    known, found = baselines_for(replace(concept, synonyms=tuple(dict.fromkeys((*concept.synonyms, *words))))), []
    for name, encoder, folder in zip(names, encoders, folders, strict=True):
        found.append(one(known.get(name, encoder), folder))
        if shard.main:
            say(f"{write_report(folder, found[-1], beside=options.beside)}\n")
        if options.record and encoder is not None and shard.main:
            with_results(encoder, found[-1]).save_pretrained(name)
    if shard.main:
        say(tables(found))
    return EXIT_OK


def _prepared(
    options: EvaluationRun | OpenRun, concept: Concept, shard: Shard
) -> Callable[[Defence | None, Path], Evaluation]:
    """Load the base and what judges, and return what evaluates one encoder into a folder."""
    device = options.device or shard.device

    def shared(out: Path) -> Path | None:
        return options.source or (None if out == options.out else options.out / ".source")

    if isinstance(options, EvaluationRun):
        pipe = _placed(open_pipeline(options.base), device)
        settings, strength = options.settings, options.strength
        return lambda defence, out: evaluation.evaluate(
            pipe, defence, concept.name, settings=settings, out=out, source=shared(out), strength=strength, shard=shard
        )
    opened = _placed(_load(options.base, options.dtype), device)
    plan, sampling = open_plan(options.settings, concept, tokenizer=opened.tokenizer, device=device)
    how = evaluation.Execution(
        sampling, options.settings.seed, options.chunk, options.checks, strength=options.strength, shard=shard
    )
    return lambda defence, out: evaluation.run_plan(opened, defence, plan, replace(how, source=shared(out)), out=out)


def _placed(pipe: Any, device: str) -> Any:
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for devices that are not there
        raise UsageError(
            f"expected a device of this machine, such as cpu or cuda, found {device!r}: {error}"
        ) from error


def _load(base: str, dtype: str) -> Any:
    """Load a pipeline from a folder or from the Hub, without a checker that would blacken what is to be judged."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(base, torch_dtype=getattr(torch, dtype), safety_checker=None)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"expected a diffusers pipeline in {base!r}, a folder or a Hub id, cannot load it: {error}"
        ) from error


def _encoder(name: str) -> LoadedArtifact | None:
    return None if name in ("base", *BASELINES) else RobustEncoder.from_pretrained(name)


def _folders(names: Sequence[str], out: Path) -> list[Path]:
    """Return where each evaluation goes: into ``out`` itself if it is the only one."""
    if len(names) == 1:
        return [out]
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") for name in names]
    if len({*slugs}) < len(slugs) or not all(slugs):
        raise UsageError(f"expected encoders whose folders in --out have names of their own, found {', '.join(slugs)}")
    return [out / slug for slug in slugs]


def _concept(given: str, encoders: Sequence[LoadedArtifact | None]) -> Concept:
    erased = {e.manifest.concept.name: e.manifest.concept for e in encoders if e is not None}
    if not given and not erased:
        raise UsageError("expected a concept to look for in the pictures of the base, found none; add --concept")
    if not given and len(erased) > 1:
        raise UsageError(
            f"expected encoders of one concept, found {', '.join(sorted(erased))}; evaluate them apart, or say which "
            "one to look for with --concept"
        )
    if given:
        known = {entry.concept: entry.erased() for entry in CATALOG.values() if entry.kind != "none"}
        known |= {part.name: part for concept in erased.values() for part in concept.parts}
        return erased.get(given) or known.get(given) or Concept(name=given, kind="object")
    (concept,) = erased.values()
    if concept.parts:
        raise UsageError(
            f"expected one concept to look for, found an encoder of {', '.join(part.name for part in concept.parts)}; "
            "say which one with --concept"
        )
    return concept


def _require_finished(options: EvaluationRun | OpenRun) -> None:
    for flag, paths in (("--beside", options.beside), ("--strength", filter(None, [options.strength]))):
        missing = [str(path) for path in paths if not (path / RESULTS_NAME).is_file()]
        if missing:
            raise UsageError(
                f"expected folders of finished evaluations with {flag}, found no {RESULTS_NAME} in {missing}"
            )


def _read(arguments: Sequence[str]) -> EvaluationRun | OpenRun:
    import tyro

    opened = any(argument.partition("=")[0] == "--prompts" for argument in arguments)
    kind: type[EvaluationRun | OpenRun] = OpenRun if opened else EvaluationRun
    short = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, args=arguments, prog="robust-encoders evaluate NAME", config=short)
