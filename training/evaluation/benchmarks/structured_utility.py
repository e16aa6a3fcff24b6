"""Structured utility on an embedded world, which FID and CLIP score do not show.

It has three parts. Attribute binding follows GenEval (Ghosh et al., NeurIPS 2023): a picture counts only if the object
and all its stated attributes are right together. Near neighbours of the concept are measured apart from far concepts,
because erasure also affects near neighbours. The third part is the force of negative prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from ...detectors.label_judge import LabelJudge
from ...diffusion.sampling import SamplingConfig, draw
from ...metrics.retention import JudgeAccuracy
from ...provenance import judging_versions
from ...types import Case, Result
from ..plan import PromptSet
from .negative_prompts import negative_force
from .world_prompts import StatedPrompt, WorldPrompts


@dataclass(frozen=True)
class StructuredUtility:
    """A probe of attribute binding, of near and far values, and of negative prompts.

    Args:
        prompts: Prompts of the world around the erased concept.
        n: Number of prompts in every set.
        seed: Seed of prompts and pictures.
        sampling: Sampling settings of all pictures.
        judge: Judge instead of the packaged one.

    Raises:
        ValueError: If ``n`` is below 1.
    """

    name: ClassVar[str] = "structured_utility"

    prompts: WorldPrompts
    n: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: LabelJudge | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"expected n of at least 1, found {self.n}: ask for more prompts")

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> list[Result]:
        """Measure the pipeline with the defence attached."""
        with attached():
            return self.measure(pipe)

    def described(self) -> dict[str, Any]:
        """Return name and settings as JSON values."""
        near = self.prompts.near_count
        settings = {"n": self.n, "seed": self.seed, "sampling": asdict(self.sampling), "near": near}
        return {"name": self.name, "concept": self.prompts.name, "settings": settings}

    def measure(self, pipe: Any) -> list[Result]:
        """Measure the pictures of a pipeline with the encoder that is attached to it.

        Args:
            pipe: The base, or the base with an encoder attached.

        Returns:
            ``binding_1`` and further ones by the number of attributes, ``retain_near`` and ``retain_far``. With
            guidance also the three results of ``negative_force``. A set without values to state is left out.
        """
        judge, found = self.judge or self.prompts.judge(), []
        for name, prompts in self.sets().items():
            metric = JudgeAccuracy(judge, self.prompts.label if name.startswith("retain") else "", name=name)
            metric.update(self._draw(pipe, prompts), prompts.cases)
            found.append(self._recorded(replace(metric.compute(), metric=name), prompts))
        if self.sampling.guidance <= 1:  # without guidance there is no negative prompt
            return found
        name = self.prompts.name
        opened = self._set(f"{name}/open", self.prompts.open(self.n, seed=self._seed(9)), 9)
        forces = negative_force(pipe, opened, self.prompts.found_by(judge), negative=name, sampling=self.sampling)
        return [*found, *(self._recorded(result, opened) for result in forces)]

    def sets(self) -> dict[str, PromptSet]:
        """Return name of a metric to its prompts; none of them states the concept."""
        of = self.prompts
        texts = {
            **{f"binding_{k}": of.binding(self.n, attributes=k, seed=self._seed(k)) for k in of.attributes},
            "retain_near": of.near(self.n, seed=self._seed(5)),
            "retain_far": of.far(self.n, seed=self._seed(6)),
        }
        return {
            name: self._set(f"{of.name}/{name}", prompts, place)
            for place, (name, prompts) in enumerate(texts.items(), start=1)
            if prompts
        }

    def _set(self, name: str, prompts: Sequence[StatedPrompt], place: int) -> PromptSet:
        """Return prompts as a named set whose pictures have seeds of their own."""
        first = self._seed(place)
        return PromptSet(name, tuple(Case(i, p.text, first + i, p.expected) for i, p in enumerate(prompts)))

    def _seed(self, place: int) -> int:
        # These seeds are apart from those of every set of an evaluation, which start at seed * 10 millions.
        return 500_000_000 + (self.seed * 10 + place) * 1_000_000

    def _draw(self, pipe: Any, prompts: PromptSet) -> Tensor:
        return draw(pipe, [c.prompt for c in prompts.cases], [c.seed for c in prompts.cases], self.sampling)

    def _recorded(self, result: Result, prompts: PromptSet) -> Result:
        calls = len(prompts.cases) * self.sampling.calls_per_picture * (2 if "negative" in result.settings else 1)
        return replace(
            result,
            seeds=(self.seed,),
            prompt_set=prompts.name,
            prompt_sha256=prompts.sha256,
            settings={**result.settings, "sampling": asdict(self.sampling)},
            versions=judging_versions(),
            unet_calls=calls,
        )
