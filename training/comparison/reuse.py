"""Numbers of earlier evaluations that stand in a comparison, because everything about them is the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

from ..diffusion.sampling import SamplingConfig
from ..evaluation.plan import Plan, described
from ..evaluation.results import RESULTS_NAME, Evaluation
from ..evaluation.suite import SUITE_VERSION, versions_of
from ..evaluation.threat_model import attack_of, label_of
from ..provenance import describe
from ..recipes.recipe import Recipe
from ..reports.row_sources import contents_sha256
from .record import BASE_ROW

UNKNOWN_SETTINGS = "reused; the settings of its training are not on record, only the name of the recipe"

_OTHERS = "prompts without the concept"


@dataclass(frozen=True)
class Given:
    """A finished evaluation that a user gives for reuse.

    Args:
        path: Its ``results.json``.
        evaluation: Its numbers.
    """

    path: Path
    evaluation: Evaluation

    @classmethod
    def read(cls, path: Path) -> Given:
        """Read an evaluation from its folder or file.

        Raises:
            ValueError: If there are no results, the file has another name, or the results have another schema.
        """
        file = path / RESULTS_NAME if path.is_dir() else path
        if file.is_file() and file.name != RESULTS_NAME:  # its parts and its encoder could not be told from others
            raise ValueError(
                f"expected a finished evaluation with --reuse, found a file of another name, {file}; name a "
                f"{RESULTS_NAME} or its folder"
            )
        try:
            return cls(file, Evaluation.read(file))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(
                f"expected a finished evaluation with --reuse, found no {file}; name a {RESULTS_NAME} or its folder"
            ) from error

    def is_of(self, recipe: Recipe | None) -> bool:
        """Return True if the evaluation is about the encoder of a recipe with its seed, or about the base.

        Args:
            recipe: Training run with its seed; None for the base.
        """
        if recipe is None:
            return self.evaluation.label == BASE_ROW
        made = dict(self.evaluation.subject.get("recipe") or {})
        return (made.get("name"), made.get("seed")) == (recipe.name, recipe.seed)

    def refusal(self, recipe: Recipe | None, wanted: Conditions) -> str:
        """Return why the numbers do not stand for a row about the same encoder; empty if they do.

        Args:
            recipe: Training run of the row, with its seed; None for the base.
            wanted: Conditions of the comparison for this seed.
        """
        others = wanted.differences(Conditions.of_evaluation(self.evaluation))
        return f"other {', '.join(others)}" if others else self.settings_differ(recipe)

    @property
    def about(self) -> str:
        """The recipe and the seed of the encoder, or the label if no recipe is on record."""
        made = dict(self.evaluation.subject.get("recipe") or {})
        return f"{made['name']}, seed {made.get('seed')}" if made.get("name") else self.evaluation.label

    def settings_differ(self, recipe: Recipe | None) -> str:
        """Return how the encoder on record differs from that of a recipe; empty if not, or if nothing is on record."""
        manifest = self._manifest()
        if recipe is None or manifest is None:
            return ""
        evaluated, beside = self.evaluation.subject.get("content_sha256", ""), contents_sha256(manifest)
        if evaluated and evaluated != beside:
            return f"the encoder beside it has the tensors {beside[:12]}, and {evaluated[:12]} were evaluated"
        if dict(manifest.method) != json.loads(json.dumps(describe(recipe.method))):
            return f"its encoder was trained with other settings than {recipe.name} has now"
        same = manifest.concept.to_dict() == recipe.concept.to_dict()
        return "" if same else f"its encoder erased the concept in other words than {recipe.name} does now"

    def note(self, recipe: Recipe | None) -> str:
        """Return what a reader has to know about the reused numbers."""
        return "" if recipe is None or self._manifest() is not None else UNKNOWN_SETTINGS

    def _manifest(self) -> Manifest | None:
        folder = self.path.parent / "encoder"
        return Manifest.read(folder) if (folder / MANIFEST_NAME).is_file() else None


@dataclass(frozen=True)
class Conditions:
    """Everything that must be equal before numbers stand in one table.

    Args:
        values: Name of a condition to its value, as JSON.
    """

    values: Mapping[str, Any]

    @classmethod
    def of_plan(
        cls, plan: Plan, sampling: SamplingConfig, *, seed: int, base_sha256: str, benchmark: str
    ) -> Conditions:
        """Return the conditions of an evaluation that a plan describes.

        Args:
            plan: Plan of the evaluation, with the chosen attacks.
            sampling: Sampling of the run, unless the plan has its own.
            seed: Seed of the run.
            base_sha256: Hash of the base's models.
            benchmark: Name of the benchmark.
        """
        judge = plan.detector
        found = {
            "suite version": [SUITE_VERSION],
            "concept": plan.concept.name,
            "benchmark": benchmark,
            "base": base_sha256,
            "seed": [seed],
            "prompts": [[one.name, one.sha256] for one in plan.plain],
            _OTHERS: [[plan.kept.name, plan.kept.sha256]],
            "detector": [judge.name, judge.version, judge.threshold],
            "sampling": asdict(plan.sampling or sampling),
            "attacks": {label: described(label, attack) for label, attack in plan.attacks.items()},
        }
        return cls(json.loads(json.dumps(found)))

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation) -> Conditions:
        """Return the conditions that an evaluation records."""
        plain = [result for result in evaluation.results if result.metric == "pre_asr"]
        attacked = [result for result in evaluation.results if result.metric == "asr_any"]
        first = next(iter(plain), None)
        found = {
            "suite version": versions_of(evaluation),
            "concept": evaluation.concept,
            "benchmark": evaluation.benchmark,
            "base": evaluation.subject.get("base", {}).get("models_sha256", ""),
            "seed": [] if first is None else list(first.seeds),
            "prompts": [[one.prompt_set, one.prompt_sha256] for one in plain],
            _OTHERS: [[one.prompt_set, one.prompt_sha256] for one in evaluation.results],
            "detector": [] if first is None else [first.detector, first.detector_version, first.threshold],
            "sampling": {} if first is None else first.settings.get("sampling"),
            "attacks": {label_of(one): dict(attack_of(one)) for one in attacked},
        }
        return cls(json.loads(json.dumps(found)))

    def differences(self, other: Conditions) -> list[str]:
        """Return the names of the conditions that differ.

        Args:
            other: Conditions that an evaluation records.
        """
        return [name for name, value in self.values.items() if _differs(name, value, other.values[name])]


def _differs(name: str, wanted: Any, found: Any) -> bool:
    """Return True if a condition differs; prompts without the concept only count if numbers about them exist."""
    if name == _OTHERS:
        return any(one not in found and one[0] in (name for name, _ in found) for one in wanted)
    return bool(wanted != found)


def usable(given: Iterable[Given], recipe: Recipe | None, wanted: Conditions) -> tuple[Given | None, list[str]]:
    """Return the evaluation whose numbers stand for a row, and why others about the same encoder do not.

    Args:
        given: Evaluations that the user gives.
        recipe: Training run of the row, with its seed; None for the base.
        wanted: Conditions of the comparison for this seed.
    """
    refused: list[str] = []
    for one in given:
        if not one.is_of(recipe):
            continue
        if not (problem := one.refusal(recipe, wanted)):
            return one, refused
        refused.append(f"{one.path} is not reused: {problem}")
    return None, refused


def read_given(paths: Sequence[Path]) -> tuple[list[Given], list[str]]:
    """Return the evaluations at some paths, and one problem for each path without one."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(Given.read(path))
        except ValueError as error:
            problems.append(str(error))
    return found, problems
