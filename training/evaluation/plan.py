"""What an evaluation asks: prompt sets, a detector, attacks and what is to be kept; a benchmark makes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from ..diffusion.sampling import SamplingConfig
from ..protocols import Attack, Detector, Metric
from ..provenance import canonical_sha256, describe
from ..types import Case, Result
from .config import EvaluationConfig

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

MetricMaker = Callable[[], Metric]


class Probe(Protocol):
    """A further measurement of a pipeline, with drawings of its own."""

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> Sequence[Result]:
        """Return results.

        Args:
            pipe: The pipeline as it was.
            attached: Attaches the defence to it within a scope.
        """
        ...

    def described(self) -> Mapping[str, Any]:
        """Return name and settings as JSON values."""
        ...


@dataclass(frozen=True)
class PromptSet:
    """Prompts and the seeds of their pictures, under a name.

    Args:
        name: Name of the set.
        cases: Its prompts.
        tier: Threat tier of a prompt that shows the concept although nobody attacked.
    """

    name: str
    cases: tuple[Case, ...]
    tier: str = "T0"

    @cached_property
    def sha256(self) -> str:
        """Hash of the prompts, their seeds and what they state; of goals and numbers where they are unusual."""
        rows = [[c.prompt, c.seed, dict(c.expected), *([c.goal] if c.goal else [])] for c in self.cases]
        numbers, first = [c.index for c in self.cases], self.cases[0].index if self.cases else 0
        usual = numbers == list(range(first, first + len(numbers)))
        return canonical_sha256(rows if usual else [rows, numbers])

    def part(self, of: slice) -> PromptSet:
        """Return some of the prompts, under the same name."""
        return PromptSet(self.name, self.cases[of], self.tier)


@dataclass(frozen=True)
class Control:
    """Pictures that are right by construction, and what they show: the metrics' own error rate.

    Args:
        name: Name of the set of pictures.
        pictures: Returns pictures (N, 3, H, W) in [0, 1] and their cases.
        metrics: Returns fresh metrics.
    """

    name: str
    pictures: Callable[[], tuple[Tensor, list[Case]]]
    metrics: Callable[[], Sequence[Metric]]


@dataclass(frozen=True)
class Plan:
    """All that an evaluation of one concept needs beside the pipeline.

    Args:
        concept: Concept that should be gone.
        plain: Prompt sets that state it, drawn unattacked; attacks start from the first.
        kept: Prompts that do not state it.
        detector: Says whether a picture shows it.
        attacks: Label to attack.
        utility: Name to maker of a fresh metric over the pictures of ``kept``; its reference is the base's pictures.
        control: Pictures for the error rate of the metrics themselves, if there are such.
        instead: Says in words what pictures (B, 3, H, W) show instead of what was asked; empty if as asked.
        erased: Name to maker of a fresh metric over the unattacked pictures of the first prompt set; its reference is
            the base's pictures.
        probes: Name to further measurements of a pipeline: with the encoder attached, and as it was without.
        measures: Whatever tells these metrics from others of the same name, as JSON values: models, versions.
        sampling: How pictures are drawn, where the prompts' file says it; None leaves it to the configuration.
    """

    concept: Concept
    plain: tuple[PromptSet, ...]
    kept: PromptSet
    detector: Detector
    attacks: Mapping[str, Attack]
    utility: Mapping[str, MetricMaker] = field(default_factory=dict)
    control: Control | None = None
    instead: Callable[[Tensor, Sequence[Case]], Sequence[str]] | None = None
    erased: Mapping[str, MetricMaker] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    sampling: SamplingConfig | None = None

    def utility_metrics(self) -> list[Metric]:
        """Return fresh metrics over the kept pictures."""
        return [make() for make in self.utility.values()]

    def erased_metrics(self) -> list[Metric]:
        """Return fresh metrics over the unattacked pictures of the first prompt set."""
        return [make() for make in self.erased.values()]


@runtime_checkable
class Benchmark(Protocol):
    """What to ask about one concept; a frozen dataclass whose fields are its options.

    Its field ``concept`` is a name or a ``Concept``; the command line fills it from ``--concept`` or from the encoder's
    manifest. A class variable ``defaults``, an ``EvaluationConfig``, may say how it is run as a rule. One that lists
    its labels (``NamesChoices``) lets the command line refuse a wrong name before anything is loaded.
    """

    @property
    def name(self) -> str:
        """Name in ``BENCHMARKS``."""
        ...

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan for a pipeline, the base; it may load detectors, metrics and files of prompts."""
        ...


@runtime_checkable
class NamesChoices(Protocol):
    """A benchmark that knows the labels of its attacks and metrics without loading anything."""

    def attack_labels(self) -> Collection[str]:
        """Return the labels of its suite."""
        ...

    def metric_labels(self) -> Collection[str]:
        """Return the names of its metrics and probes."""
        ...


@dataclass(frozen=True)
class FixedPlan:
    """A benchmark whose plan is there already: for several encoders, or one made by hand.

    Args:
        made: The plan.
    """

    made: Plan

    @property
    def name(self) -> str:
        """Name of the concept; no registry has this benchmark."""
        return self.made.concept.name

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan, whatever the pipeline."""
        return self.made


def described(label: str, attack: Attack) -> dict[str, Any]:
    """Return an attack's label, tier, name and settings as JSON values."""
    return {"label": label, "tier": attack.tier, **describe(attack)}
