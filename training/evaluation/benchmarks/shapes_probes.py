"""Structured utility on shapes, which FID and CLIP score do not show, and the model's remaining knowledge of a concept.

Structured utility has three parts. Attribute binding follows GenEval (Ghosh et al., NeurIPS 2023): a picture counts
only if the object and all its stated attributes are right together. Near neighbours of the concept are measured apart
from far concepts, because erasure also affects near neighbours. The third part is the force of negative prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from ...detectors.diffusion_classifier import DiffusionClassifier, DiffusionClassifierDetector, Stage, vae_encoder
from ...detectors.label_judge import JudgeDetector, LabelJudge
from ...diffusion.backbone import Backbone
from ...diffusion.sampling import SamplingConfig, draw
from ...metrics.rates import judged, rate
from ...metrics.retention import JudgeAccuracy
from ...provenance import canonical_sha256, judging_versions
from ...types import Case, Result
from ...worlds.shapes.captions import ScenePrompt
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.judge import load_judge
from ...worlds.shapes.pictures import render_pictures
from ...worlds.shapes.prompts import binding_prompts, neighbours, open_prompts, value_prompts
from ...worlds.shapes.vocabulary import FACTORS, VALUES
from ..plan import PromptSet
from .negative_prompts import negative_force

ATTRIBUTES = (1, 2, 3)
_STAGES = (Stage(10, 3), Stage(50, 1))
_SHOWN_SEED = 987_654_322  # neither the judge nor the base was trained on renders of it


@dataclass(frozen=True)
class StructuredUtility:
    """A probe of attribute binding, of near and far values, and of negative prompts.

    Args:
        concept: Erased concept.
        n: Number of prompts in every set.
        seed: Seed of prompts and pictures.
        sampling: Sampling settings of all pictures.
        near: Number of values that count as neighbours of the concept.
        judge: Judge instead of the packaged one.

    Raises:
        ValueError: If ``n`` is below 1.
    """

    name: ClassVar[str] = "structured_utility"

    concept: ShapesConcept
    n: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    near: int = 2
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
        return _described(self.name, self.concept, self.n, self.seed, sampling=self.sampling, near=self.near)

    def measure(self, pipe: Any) -> list[Result]:
        """Measure the pictures of a pipeline with the encoder that is attached to it.

        Args:
            pipe: The base, or the base with an encoder attached.

        Returns:
            ``binding_1`` to ``binding_3``, ``retain_near`` and ``retain_far``; with guidance also the three results of
            ``negative_force``.
        """
        judge, found = self.judge or load_judge(), []
        for name, prompts in self.sets().items():
            metric = JudgeAccuracy(judge, self.concept.factor if name.startswith("retain") else "", name=name)
            metric.update(self._draw(pipe, prompts), prompts.cases)
            found.append(self._recorded(replace(metric.compute(), metric=name), prompts))
        if self.sampling.guidance <= 1:  # without guidance there is no negative prompt
            return found
        value = self.concept.value
        prompts = self._set(f"{value}/open", open_prompts(self.concept, self.n, seed=self._seed(9)), 9)
        forces = negative_force(pipe, prompts, JudgeDetector(judge, value), negative=value, sampling=self.sampling)
        return [*found, *(self._recorded(result, prompts) for result in forces)]

    def sets(self) -> dict[str, PromptSet]:
        """Return name of a metric to its prompts; none of them states the concept."""
        around = neighbours(self.concept, k=self.near)
        texts = {
            **{
                f"binding_{k}": binding_prompts(self.n, attributes=k, seed=self._seed(k), exclude=self.concept.stated)
                for k in ATTRIBUTES
            },
            "retain_near": value_prompts(around.near, self.n, seed=self._seed(5)),
            "retain_far": value_prompts(around.far, self.n, seed=self._seed(6)),
        }
        return {
            name: self._set(f"{self.concept.value}/{name}", prompts, place)
            for place, (name, prompts) in enumerate(texts.items(), start=1)
        }

    def _set(self, name: str, prompts: Sequence[ScenePrompt], place: int) -> PromptSet:
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


@dataclass(frozen=True)
class Knowledge:
    """A probe of the share of renders of a concept that the Diffusion Classifier recognises among its factor's values.

    The Diffusion Classifier is that of Li et al., ICCV 2023. It measures the model's knowledge, not its pictures. A
    high share means that the renders still fit the concept's caption better than any other caption. Lower is better.

    Args:
        concept: Erased concept.
        n: Number of renders of the concept.
        seed: Seed of renders and noise.
        sampling: Sampling of the evaluation; only recorded.
        near: Number of neighbours in the structured utility; only recorded.
    """

    name: ClassVar[str] = "knowledge"

    concept: ShapesConcept
    n: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    near: int = 2

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> list[Result]:
        """Measure the pipeline with the defence attached."""
        with attached():
            return [self.measure(pipe)]

    def described(self) -> dict[str, Any]:
        """Return name and settings as JSON values."""
        return _described(self.name, self.concept, self.n, self.seed, sampling=self.sampling, near=self.near)

    def measure(self, pipe: Any) -> Result:
        """Return the share of renders that the pipeline recognises with the encoder that is attached to it."""
        factor, value = self.concept.factor, self.concept.value
        prompts = {v: f"a {v}" for v in VALUES[factor]}
        classifier = DiffusionClassifier(
            Backbone.from_pipeline(pipe), vae_encoder(pipe), prompts, stages=_STAGES, seed=self.seed
        )
        with classifier.backbone.frozen():
            labels = classifier(self._pictures(len(prompts))).labels
        result = rate("knowledge", [label == value for label in labels])
        shown = f"renders of {value}, seed {_SHOWN_SEED + self.seed}"
        return replace(
            judged(result, DiffusionClassifierDetector(classifier, value)),
            threshold=None,  # the most probable class decides, not a probability
            seeds=(self.seed,),
            prompt_set=shown,
            prompt_sha256=canonical_sha256([shown, prompts]),
            settings={"classes": prompts, "stages": [asdict(stage) for stage in _STAGES]},
            versions=judging_versions(),
            unet_calls=classifier.backbone.unet_calls,
        )

    def _pictures(self, classes: int) -> Tensor:
        """Return renders (N, 3, H, W) in [0, 1] that show the concept."""
        drawn = render_pictures(self.n * 2 * classes, seed=_SHOWN_SEED + self.seed)
        column = drawn.labels[:, FACTORS.index(self.concept.factor)]
        shows = column == VALUES[self.concept.factor].index(self.concept.value)
        return drawn.images[shows][: self.n].float() / 255


def _described(
    name: str, concept: ShapesConcept, n: int, seed: int, *, sampling: SamplingConfig, near: int
) -> dict[str, Any]:
    settings = {"n": n, "seed": seed, "sampling": asdict(sampling), "near": near}
    return {"name": name, "concept": concept.value, "settings": settings}
