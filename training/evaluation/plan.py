"""The plan of an evaluation, made by a benchmark: prompt sets, detector, attacks and metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
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
    """A further measurement of a pipeline, which draws its own pictures."""

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> Sequence[Result]:
        """Measure the pipeline and return the results.

        Args:
            pipe: Pipeline without the defence.
            attached: Function that attaches the defence for the length of a ``with`` block.
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
        cases: Prompts with the seeds of their pictures.
        tier: Threat tier of these prompts when their pictures show the concept without an attack.
        sampling: Sampling of these pictures; None for that of the evaluation.
        scheduler: Class of diffusers that takes the place of the pipeline's scheduler; empty to keep the pipeline's.
    """

    name: str
    cases: tuple[Case, ...]
    tier: str = "T0"
    sampling: SamplingConfig | None = None
    scheduler: str = ""

    @cached_property
    def sha256(self) -> str:
        """Hash of prompts, seeds and stated values, and of whatever else differs from the usual.

        That is goals, negative prompts, sampling, scheduler, and case numbers that are not consecutive.
        """
        rows = [[c.prompt, c.seed, dict(c.expected), *_unusual(c)] for c in self.cases]
        numbers, first = [c.index for c in self.cases], self.cases[0].index if self.cases else 0
        usual = numbers == list(range(first, first + len(numbers)))
        hashed = rows if usual else [rows, numbers]
        own = [None if self.sampling is None else asdict(self.sampling), self.scheduler]
        return canonical_sha256([hashed, own] if any(own) else hashed)

    def part(self, of: slice) -> PromptSet:
        """Return the prompts of a slice as a set of the same name."""
        return replace(self, cases=self.cases[of])


class PictureSource(Protocol):
    """A function that draws the pictures of a prompt set, or finds them drawn."""

    def __call__(self, prompts: PromptSet, *, base: bool = False) -> Tensor:
        """Return pictures (N, 3, H, W) in [0, 1].

        Args:
            prompts: Prompts of the pictures.
            base: True for pictures by the base, False for pictures with the defence.
        """
        ...


@runtime_checkable
class SetProbe(Protocol):
    """A further measurement on pictures of prompt sets, which the evaluation draws and keeps.

    Evaluations of several encoders can share the base's pictures.
    """

    def drawings(self) -> Sequence[tuple[PromptSet, bool]]:
        """Return all prompt sets that the probe asks for, each with True for pictures by the base."""
        ...

    def compare(self, pictures: PictureSource) -> Sequence[Result]:
        """Judge the pictures and return the results."""
        ...

    def described(self) -> Mapping[str, Any]:
        """Return name and settings as JSON values, with a hash of the prompts."""
        ...


AnyProbe: TypeAlias = Probe | SetProbe


@dataclass(frozen=True)
class Control:
    """Rendered pictures with known contents, which measure the error rate of the metrics themselves.

    Args:
        name: Name of the set of pictures.
        pictures: Function that returns pictures (N, 3, H, W) in [0, 1] and their cases.
        metrics: Function that returns fresh metrics.
    """

    name: str
    pictures: Callable[[], tuple[Tensor, list[Case]]]
    metrics: Callable[[], Sequence[Metric]]


@dataclass(frozen=True)
class Plan:
    """Everything that an evaluation of one concept needs besides the pipeline.

    Args:
        concept: Concept that should be gone.
        plain: Prompt sets that state the concept, drawn without an attack; attacks start from the first set.
        kept: Prompts that do not state the concept.
        detector: Detector of the concept in a picture.
        attacks: Label to attack.
        utility: Name to a function that makes a fresh metric on the pictures of ``kept``; its reference pictures are
            the base's.
        control: Pictures for the error rate of the metrics themselves, if there are any.
        instead: Function that names what pictures (B, 3, H, W) show instead of the requested values; the text is empty
            for a picture as requested.
        erased: Name to a function that makes a fresh metric on the unattacked pictures of the first prompt set; its
            reference pictures are the base's.
        probes: Name to a further measurement. It draws its own pictures, or names the prompt sets of its pictures.
        measures: JSON values that tell these metrics from others of the same name: models, versions.
        sampling: Sampling that the prompts' file asks for; None leaves it to the configuration.
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
    probes: Mapping[str, AnyProbe] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    sampling: SamplingConfig | None = None

    def probe_drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return the prompt sets of all probes, without repetitions, each with True for pictures by the base."""
        asked = [one for probe in self.probes.values() if isinstance(probe, SetProbe) for one in probe.drawings()]
        return list({(prompts.name, prompts.sha256, base): (prompts, base) for prompts, base in asked}.values())

    def utility_metrics(self) -> list[Metric]:
        """Return fresh metrics over the kept pictures."""
        return [make() for make in self.utility.values()]

    def erased_metrics(self) -> list[Metric]:
        """Return fresh metrics over the unattacked pictures of the first prompt set."""
        return [make() for make in self.erased.values()]


@runtime_checkable
class Benchmark(Protocol):
    """Prompts, detector, attacks and metrics for one concept: a frozen dataclass whose fields are the options.

    Its field ``concept`` is a name or a ``Concept``. The command line fills it from ``--concept`` or from the encoder's
    manifest. An optional class variable ``defaults``, an ``EvaluationConfig``, holds the usual settings of a run. A
    benchmark can list its labels (``NamesChoices``). The command line then refuses a wrong name before it loads
    anything.
    """

    @property
    def name(self) -> str:
        """Name in ``BENCHMARKS``."""
        ...

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan for the base pipeline; this may load detectors, metrics and files of prompts."""
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


@runtime_checkable
class NamesDetectors(Protocol):
    """A benchmark with detectors of its own beside the registered ones.

    An optional class variable ``usual_detector`` names the one that is taken by default.
    """

    @staticmethod
    def refuse_detector(name: str) -> None:
        """Check the name of a detector before anything is loaded.

        Raises:
            ValueError: If there is no such detector.
        """
        ...

    @staticmethod
    def made_by_name(name: str, concept: Concept, device: str | torch.device) -> Detector:
        """Return a detector of a concept; this may load models.

        Args:
            name: Name of the detector.
            concept: Concept that it finds.
            device: Device of a classifier.

        Raises:
            ValueError: If there is no such detector, or it cannot be made by name.
        """
        ...


@runtime_checkable
class ReadsGroups(Protocol):
    """A benchmark that knows the sub-groups of a prompt by its text; records made before ``Case.groups`` need it."""

    @staticmethod
    def groups_in(prompt: str) -> Mapping[str, str]:
        """Return label to value of the sub-groups that a prompt belongs to; empty if it is not understood."""
        ...


@dataclass(frozen=True)
class FixedPlan:
    """A benchmark with a finished plan, for several encoders or for a plan made by hand.

    Args:
        made: Finished plan.
        benchmark: Name of the benchmark that made the plan; empty for a plan made by hand.
    """

    made: Plan
    benchmark: str = ""

    @property
    def name(self) -> str:
        """Name of the benchmark that made the plan."""
        return self.benchmark

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the finished plan; pipeline and configuration do not change it."""
        return self.made


def _unusual(case: Case) -> list[Any]:
    goal: list[Any] = [case.goal] if case.goal else []
    return [*goal, {"negative": case.negative}] if case.negative else goal


def described(label: str, attack: Attack) -> dict[str, Any]:
    """Return an attack's label, tier, name and settings as JSON values."""
    return {"label": label, "tier": attack.tier, **describe(attack)}
