"""The remaining knowledge of a concept of the shapes world, which no picture of an evaluation shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from ...detectors.diffusion_classifier import DiffusionClassifier, DiffusionClassifierDetector, Stage, vae_encoder
from ...diffusion.backbone import Backbone
from ...diffusion.sampling import SamplingConfig
from ...metrics.rates import judged, rate
from ...provenance import canonical_sha256, judging_versions
from ...types import Result
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.pictures import render_pictures
from ...worlds.shapes.vocabulary import FACTORS, VALUES

_STAGES = (Stage(10, 3), Stage(50, 1))
_SHOWN_SEED = 987_654_322  # neither the judge nor the base was trained on renders of it


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
        settings = {"n": self.n, "seed": self.seed, "sampling": asdict(self.sampling), "near": self.near}
        return {"name": self.name, "concept": self.concept.value, "settings": settings}

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
