"""What an evaluation asks: prompt sets, a detector, attacks and what is to be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from ..protocols import Attack, Detector, Metric
from ..provenance import canonical_sha256
from ..types import Case, Result


class Probe(Protocol):
    """A further measurement of a pipeline; a dataclass, whose fields are its settings."""

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> Sequence[Result]:
        """Return results.

        Args:
            pipe: The pipeline as it was.
            attached: Attaches the defence to it within a scope.
        """
        ...


@dataclass(frozen=True)
class PromptSet:
    """Prompts and the seeds of their pictures, under a name.

    Args:
        name: Of the set.
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
        name: Of the set of pictures.
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
        concept: What should be gone.
        plain: Prompt sets that state it, drawn unattacked; attacks start from the first.
        kept: Prompts that do not state it.
        detector: Says whether a picture shows it.
        attacks: Label to attack.
        utility: Returns fresh metrics over the pictures of ``kept``; their reference is the base's pictures.
        control: Pictures for the error rate of the metrics themselves, if there are such.
        instead: Says in words what pictures (B, 3, H, W) show instead of what was asked; empty if as asked.
        erased: Returns fresh metrics over the unattacked pictures of the first prompt set; their reference is the
            base's pictures.
        probes: Name to further measurements of a pipeline: with the encoder attached, and as it was without.
        measures: What tells these metrics from others of the same name, as JSON values: models, versions.
    """

    concept: str
    plain: tuple[PromptSet, ...]
    kept: PromptSet
    detector: Detector
    attacks: Mapping[str, Attack]
    utility: Callable[[], Sequence[Metric]]
    control: Control | None = None
    instead: Callable[[Tensor, Sequence[Case]], Sequence[str]] | None = None
    erased: Callable[[], Sequence[Metric]] = tuple
    probes: Mapping[str, Probe] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
