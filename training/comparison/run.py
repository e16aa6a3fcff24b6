"""The run of a comparison: row by row a training and an evaluation; what is finished is never run again."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.encoder import RobustEncoder
from robust_encoders.redaction import get_logger, redacted
from robust_encoders.utils.home import write_atomically

from ..diffusion.load import OpenedBase
from ..evaluation.choices import chosen
from ..evaluation.config import EvaluationConfig
from ..evaluation.evaluate import evaluate, models_sha256
from ..evaluation.plan import Benchmark, FixedPlan, Plan
from ..evaluation.results import RESULTS_NAME
from ..progress import ProgressBar
from ..provenance import write_json
from ..recipes.recipe import Recipe
from ..recipes.run import run_recipe
from ..reports.html.page import REPORT_NAME, write_report
from ..reports.stored_evaluation import StoredEvaluation
from .choose import ComparedMethod
from .costs import TrainingCosts
from .record import BASE_ROW, ComparisonRecord, RowRecord
from .reuse import Conditions, Given, usable
from .training_key import TrainingKey

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

KEY_NAME, FAILURE_NAME = "training_key.json", "failure.txt"
OTHER_CODE = "trained by an earlier content of this package"
logger = get_logger(__name__)


@dataclass(frozen=True)
class Measured:
    """The numbers of a finished row.

    Args:
        stored: Evaluation of the row.
        folder: Folder of the evaluation.
        costs: Costs of the training; None for the base, and if they are not known.
    """

    stored: StoredEvaluation
    folder: Path
    costs: TrainingCosts | None = None


@dataclass(frozen=True)
class ComparisonSetup:
    """What all rows of a comparison share.

    Args:
        base: Pipeline to train on, with its origin.
        pipe: Pipeline to evaluate on; the same weights, with an autoencoder.
        benchmark: Benchmark of all evaluations.
        config: Settings of all evaluations; the seed is that of the row.
        keep_trained: True to keep finished trainings although the package's content has changed since.
    """

    base: OpenedBase
    pipe: Any
    benchmark: Benchmark
    config: EvaluationConfig
    keep_trained: bool = False

    @cached_property
    def base_sha256(self) -> str:
        """Hash of the base's models."""
        return models_sha256(self.pipe)


@dataclass
class Comparison:
    """A comparison in its folder.

    Args:
        record: State of the rows; it is written after every change.
        setup: Base, benchmark and settings.
        methods: Name of a row to its method; the base has none.
        given: Finished evaluations to reuse.
        report: Function that writes the report of all rows after each of them.
        measured: Name of a row to its numbers; filled by ``read_finished`` and ``run``.
    """

    record: ComparisonRecord
    setup: ComparisonSetup
    methods: Mapping[str, ComparedMethod]
    given: Sequence[Given] = ()
    report: Callable[[Comparison], None] = lambda comparison: None
    measured: dict[str, Measured] = field(default_factory=dict)
    _plans: dict[int, Plan] = field(default_factory=dict)

    def run(self) -> bool:
        """Train and evaluate all rows of this run; a row that fails does not stop the others.

        A row that is finished is read from its files. A row that failed before is tried again.

        Returns:
            True if no row of this run failed.
        """
        self.record.write()
        rows = self._rows()
        done = sum(row.status in ("finished", "reused") for row in rows)
        with ProgressBar(total=len(rows), initial=done, desc="compare", unit="row") as bar:
            for row in rows:
                bar.set_postfix_str(row.slug)
                self._row(row)
                self.report(self)
                bar.update(row.status not in ("finished", "reused"))
        return all(self.record.rows[row.slug].status != "failed" for row in rows)

    def read_finished(self) -> None:
        """Take up the numbers that an earlier run finished.

        A row that was measured under other conditions, or whose files cannot be read, waits with a note.

        Raises:
            ValueError: If the benchmark makes no plan with the seed of a row.
        """
        for slug, row in list(self.record.rows.items()):
            if row.status not in ("finished", "reused"):
                continue
            wanted = self.conditions(row.seed)
            try:
                found = _measured(Given.read(Path(row.source) if row.source else self.folder(row)).path)
                others = wanted.differences(Conditions.of_evaluation(found.stored.evaluation))
                problem = f"it was measured with other {', '.join(others)}" if others else ""
            except (OSError, ValueError) as error:
                problem = f"its files cannot be read ({error})"
            if problem:
                self.record.rows[slug] = replace(row, status="waiting", note=f"{problem}; run it again with --methods")
            else:
                self.measured[slug] = found

    def reuse_problems(self) -> list[str]:
        """Return one problem for each given evaluation that stands for no row of this run."""
        rows = [(row, self._recipe(row)) for row in self._rows()] if self.given else []
        problems = []
        for one in self.given:
            refused = [one.refusal(made, self.conditions(row.seed)) for row, made in rows if one.is_of(made)]
            if refused and not all(refused):
                continue
            why = refused[0] if refused else f"it is about {one.about}"
            problems.append(
                f"expected evaluations that stand for a row ({', '.join(row.slug for row, _ in rows)}) with --reuse, "
                f"found {one.path}, which does not: {why}; leave it out"
            )
        return problems

    def conditions(self, seed: int) -> Conditions:
        """Return the conditions of the evaluations with a seed."""
        setup, config = self.setup, replace(self.setup.config, seed=seed)
        return Conditions.of_plan(
            chosen(self.plan(seed), config),
            config.sampling,
            seed=seed,
            base_sha256=setup.base_sha256,
            benchmark=setup.benchmark.name,
        )

    def plan(self, seed: int) -> Plan:
        """Return the plan of the evaluations with a seed."""
        if seed not in self._plans:
            self._plans[seed] = self.setup.benchmark.plan(self.setup.pipe, replace(self.setup.config, seed=seed))
        return self._plans[seed]

    def folder(self, row: RowRecord) -> Path:
        """Return the folder of a row's files."""
        return self.record.folder / row.slug

    def _rows(self) -> list[RowRecord]:
        """Return the rows of this run."""
        return [row for slug, row in self.record.rows.items() if slug in self.methods or row.name == BASE_ROW]

    def _row(self, row: RowRecord) -> None:
        """Make the numbers of a row, or record why there are none."""
        step = "training"
        try:
            recipe = self._recipe(row)
            if (one := self._reused(row, recipe)) is not None:
                self._finish(replace(row, status="reused", source=str(one.path), note=one.note(recipe)), one.path)
                return
            encoder, note = (None, "") if recipe is None else self._trained(row, recipe)
            step = "evaluation"
            self._evaluate(row, encoder)
            self._finish(replace(row, status="finished", source="", note=note), self.folder(row))
        except Exception as error:  # noqa: BLE001 - one method that fails must not lose the others
            self._fail(row, step, error)

    def _recipe(self, row: RowRecord) -> Recipe | None:
        if row.name == BASE_ROW:
            return None
        return self.methods[row.slug].recipe.with_seed(row.seed)

    def _reused(self, row: RowRecord, recipe: Recipe | None) -> Given | None:
        """Return the given evaluation that stands for a row; one that was reused before is looked at again."""
        before = Path(row.source) if row.source else None
        given = [*self.given, *([Given.read(before)] if before is not None and before.is_file() else [])]
        if not given:
            return None
        found, refused = usable(given, recipe, self.conditions(row.seed))
        for text in refused:
            logger.warning("%s", text)
        return found

    def _trained(self, row: RowRecord, recipe: Recipe) -> tuple[LoadedArtifact, str]:
        """Return the encoder of a recipe, trained now or before, and a note about it."""
        place, key_file = self.folder(row) / "encoder", self.folder(row) / KEY_NAME
        key, before = TrainingKey.of(recipe, self.setup.base_sha256), _read_key(key_file)
        if (place / MANIFEST_NAME).is_file() and before is not None and before.settings == key.settings:
            if before == key:
                return RobustEncoder.from_pretrained(place), ""
            if self.setup.keep_trained:
                return RobustEncoder.from_pretrained(place), OTHER_CODE
        if before not in (None, key):
            logger.warning("%s: trained again, because its settings or this package changed", row.slug)
            for stale in (place, place.with_name(f"{place.name}.work")):
                shutil.rmtree(stale, ignore_errors=True)
        write_json(key_file, vars(key))
        base = self.setup.base
        encoder = run_recipe(
            recipe,
            base.pipe,
            place,
            cache_dir=self.record.folder / "banks",
            base_ids=base.ids,
            base_revision=base.revision,
        )
        return encoder, ""

    def _evaluate(self, row: RowRecord, encoder: LoadedArtifact | None) -> None:
        folder, setup = self.folder(row), self.setup
        source = self.record.folder / f".source-{row.seed}"
        config = replace(setup.config, seed=row.seed, source=source)
        plan = FixedPlan(self.plan(row.seed), setup.benchmark.name)
        results = folder / RESULTS_NAME
        before = results.read_bytes() if results.is_file() else b""
        found = evaluate(setup.pipe, encoder, plan, out=folder, config=config)
        if results.read_bytes() != before or not (folder / REPORT_NAME).is_file():
            write_report(folder, found)  # its figures take seconds

    def _finish(self, row: RowRecord, place: Path) -> None:
        """Record a finished row with its numbers, which lie in a folder or a file."""
        self.measured[row.slug] = _measured(place)
        (self.folder(row) / FAILURE_NAME).unlink(missing_ok=True)
        self._keep(replace(row, problem=""))

    def _fail(self, row: RowRecord, step: str, error: Exception) -> None:
        problem = redacted(f"{step}: {str(error).strip() or type(error).__name__}")
        logger.warning("%s failed in its %s", row.slug, problem)
        write_atomically(self.folder(row) / FAILURE_NAME, redacted(traceback.format_exc()).encode())
        self._keep(replace(row, status="failed", problem=problem, source=""))

    def _keep(self, row: RowRecord) -> None:
        self.record.rows[row.slug] = row
        self.record.write()


def _measured(place: Path) -> Measured:
    """Return the numbers in a folder, or in its ``results.json``."""
    folder = place if place.is_dir() else place.parent
    return Measured(StoredEvaluation.read(place), folder, TrainingCosts.beside(folder))


def _read_key(path: Path) -> TrainingKey | None:
    return TrainingKey(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
