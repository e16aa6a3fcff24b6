"""``robust-encoders evaluate``: attacks on encoders, and their rates of success."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.redaction import get_logger
from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded

from ..distributed import Shard
from ..evaluation import evaluate as evaluation
from ..evaluation.baselines import BASELINES, baselines_for
from ..evaluation.choices import refuse_unknown
from ..evaluation.defence import Defence
from ..evaluation.manifest_results import with_results
from ..evaluation.plan import FixedPlan, Plan
from ..evaluation.preflight import SOURCE, benchmark_problems
from ..evaluation.results import Evaluation
from ..reports.html.page import write_report
from ..reports.matrix import tables
from ..worlds.choice import open_named, other_world_problems
from .evaluate_options import EvaluationRun, made_benchmark, read_options
from .evaluate_preflight import require_evaluation
from .parsing import leading_names
from .requirements import require

logger = get_logger(__name__)


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluate encoders and print the table of their rates.

    Args:
        arguments: Catalog names, folders, ``base``, or names of baselines; then the options.

    Returns:
        The exit code.

    Raises:
        UsageError: If the concept is missing or unknown, or two encoders erase different concepts.
        NotReadyError: If something that the run needs is missing, or an encoder was made from another embedded base.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    what = f"a catalog name, a folder, `base` for the base without an encoder, or a baseline: {', '.join(BASELINES)}"
    intro = "Attack encoders. `evaluate NAME --help` shows every setting."
    names, rest = leading_names("evaluate", intro, what, arguments)
    options, kind = read_options(rest, names)
    if options.record and not all(expanded(name).is_dir() for name in names):
        raise UsageError(f"expected folders of encoders with --record, found {', '.join(names)}")
    folders = _folders(names, options.out)
    require_evaluation(options, kind, folders)
    # Records go into the folders, so the folders are read, even if an encoder of the package has the name of one.
    encoders = [_encoder(expanded(name) if options.record else name) for name in names]
    require(other_world_problems(options.base, [one for one in encoders if one is not None]))
    concept = concept_of(options.concept, encoders)
    if options.record and any(e is not None and e.manifest.concept.name != concept.name for e in encoders):
        raise UsageError(f"expected encoders that erase {concept.name!r} with --record, found one of another concept")
    try:
        benchmark = made_benchmark(kind, concept, options)
        refuse_unknown(benchmark, options.config)
        require(benchmark_problems(benchmark, options.config))
        shard = Shard.current()
        pipe = open_named(
            options.base or None, dtype=options.dtype, device=options.device or shard.device, whole=True
        ).pipe
        plan = benchmark.plan(pipe, options.config)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    _Evaluations(options, pipe, plan, shard).run(names, encoders, folders)
    return EXIT_OK


@dataclass(frozen=True)
class _Evaluations:
    """The evaluations of several encoders on one plan, one after the other."""

    options: EvaluationRun
    pipe: Any
    plan: Plan
    shard: Shard

    def run(self, names: Sequence[str], encoders: Sequence[LoadedArtifact | None], folders: Sequence[Path]) -> None:
        """Evaluate all encoders, write a report of each, and print the table of all."""
        baselines = baselines_for(self.plan.concept)
        found = []
        for name, encoder, folder in zip(names, encoders, folders, strict=True):
            found.append(self._one(baselines.get(name, encoder), folder))
            if self.shard.main:
                say(f"{write_report(folder, found[-1], beside=self.options.beside)}\n")
            if self.options.record and encoder is not None and self.shard.main:
                with_results(encoder, found[-1]).save_pretrained(expanded(name))
        if self.shard.main:
            say(tables(found))

    def _one(self, defence: Defence | None, folder: Path) -> Evaluation:
        own = folder == self.options.out
        source = self.options.config.source or (None if own else self.options.out / SOURCE)
        config = replace(self.options.config, source=source)
        plan = FixedPlan(self.plan, self.options.benchmark)
        return evaluation.evaluate(self.pipe, defence, plan, out=folder, config=config, shard=self.shard)


def _encoder(name: str | Path) -> LoadedArtifact | None:
    return None if name in ("base", *BASELINES) else RobustEncoder.from_pretrained(name)


def _folders(names: Sequence[str], out: Path) -> list[Path]:
    """Return the folder of each evaluation: ``out`` itself if there is only one."""
    if len(names) == 1:
        return [out]
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") for name in names]
    if len({*slugs}) < len(slugs) or not all(slugs):
        raise UsageError(f"expected encoders whose folders in --out have names of their own, found {', '.join(slugs)}")
    return [out / slug for slug in slugs]


def concept_of(given: str, encoders: Sequence[LoadedArtifact | None] = ()) -> Concept:
    """Return the concept that a command is about: the named one, or else the one that all encoders erased.

    A known concept is also meant by its name in the catalog and by another spelling: "vangogh" and "van_gogh" are
    "Van Gogh". Any other name is a new concept, with a warning if the encoders erased another one.

    Args:
        given: Name of the concept; empty for that of the encoders.
        encoders: Encoders of the command; None stands for the base or a baseline.

    Raises:
        UsageError: If no concept is known, or several are.
    """
    erased = {e.manifest.concept.name: e.manifest.concept for e in encoders if e is not None}
    if not given and not erased:
        raise UsageError("expected a concept to look for in the pictures of the base, found none; add --concept")
    if not given and len(erased) > 1:
        raise UsageError(
            f"expected encoders of one concept, found {', '.join(sorted(erased))}; evaluate them apart, or name one "
            "concept with --concept"
        )
    if given:
        return _named(given, erased)
    (concept,) = erased.values()
    if concept.parts:
        raise UsageError(
            f"expected one concept to look for, found an encoder of {', '.join(part.name for part in concept.parts)}; "
            "name one with --concept"
        )
    return concept


def _named(given: str, erased: Mapping[str, Concept]) -> Concept:
    """Return the concept of a name: one that encoders ``erased``, a known one, or a new one."""
    known = {entry.concept: entry.erased() for entry in CATALOG.values() if entry.kind != "none"}
    known |= {part.name: part for concept in erased.values() for part in concept.parts}
    known |= erased
    if given in known:
        return known[given]
    spelled = {_spelling(name): concept for name, concept in known.items()}
    if found := spelled.get(_spelling(given)):
        return found
    if erased:
        logger.warning(
            "the encoder erases %s, and what is looked for is the concept %r; leave --concept out to look for what the "
            "encoder erases",
            ", ".join(map(repr, sorted(erased))),
            given,
        )
    return Concept(name=given, kind="object")


def _spelling(name: str) -> str:
    """Return what all spellings of a name share: its letters and digits, in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))
