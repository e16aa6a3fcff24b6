"""Structured utility on shapes: what FID and CLIP score do not show.

Attribute binding after GenEval (Ghosh et al., NeurIPS 2023): a picture counts only if the object and all its stated
attributes are right together. Neighbours of the concept apart from far concepts, because erasure spills over to what is
near. And the force of negative prompts, which pass through the erased encoder, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from ...detectors.diffusion_classifier import DiffusionClassifier, DiffusionClassifierDetector, Stage, vae_encoder
from ...detectors.shapes_judge import JudgeDetector, JudgeLike
from ...diffusion.backbone import Backbone
from ...diffusion.sampling import SamplingConfig, draw
from ...metrics.paired_tests import paired_test
from ...metrics.rates import detect, judged, rate
from ...metrics.retention import JudgeAccuracy
from ...protocols import Detector
from ...provenance import canonical_sha256, judging_versions
from ...types import Case, Result
from ...worlds.shapes.captions import ScenePrompt
from ...worlds.shapes.concepts import factor_of
from ...worlds.shapes.judge import load_judge
from ...worlds.shapes.pictures import render_pictures
from ...worlds.shapes.prompts import binding_prompts, neighbours, open_prompts, value_prompts
from ...worlds.shapes.vocabulary import FACTORS, VALUES
from ..plan import PromptSet

ATTRIBUTES = (1, 2, 3)
_STAGES = (Stage(10, 3), Stage(50, 1))
_SHOWN_SEED = 987_654_322  # neither the judge nor the base was trained on renders of it


@dataclass(frozen=True)
class UtilityConfig:
    """The size of the probes.

    Args:
        n: Prompts of every set.
        seed: Of prompts and pictures.
        sampling: How pictures are drawn.
        near: How many values count as neighbours of the concept.
    """

    n: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    near: int = 2

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"expected n of at least 1, found {self.n}")


def structured_utility(
    pipe: Any, concept: str, settings: UtilityConfig | None = None, *, judge: JudgeLike | None = None
) -> list[Result]:
    """Measure what a pipeline draws, with whatever encoder is attached to it.

    Args:
        pipe: The base, or the base with an encoder attached.
        concept: A canonical value of the shapes world that is erased.
        settings: Sizes, seed, sampling.
        judge: Instead of the packaged judge.

    Returns:
        ``binding_1`` to ``binding_3``, ``retain_near``, ``retain_far``, and with guidance the three results of
        ``negative_force``.

    Raises:
        ValueError: If the shapes world has no such value.
    """
    settings, judge = settings or UtilityConfig(), judge or load_judge()
    found = []
    for name, prompts in structured_sets(concept, settings).items():
        metric = JudgeAccuracy(judge, factor_of(concept)[0] if name.startswith("retain") else "", name=name)
        metric.update(_draw(pipe, prompts, settings.sampling), prompts.cases)
        found.append(_recorded(replace(metric.compute(), metric=name), prompts, settings))
    if settings.sampling.guidance <= 1:  # without guidance there is no negative prompt
        return found
    detector = JudgeDetector(judge, concept)
    prompts = scene_set(f"{concept}/open", open_prompts(concept, settings.n, seed=_seed(settings, 9)), settings, 9)
    forces = negative_force(pipe, prompts, detector, negative=concept, sampling=settings.sampling)
    return [*found, *(_recorded(result, prompts, settings) for result in forces)]


def structured_sets(concept: str, settings: UtilityConfig) -> dict[str, PromptSet]:
    """Return metric name to the prompts it is measured on; none of them states the concept."""
    factor, value = factor_of(concept)
    around = neighbours(concept, k=settings.near)
    exclude = {factor: value}
    texts = {
        **{
            f"binding_{k}": binding_prompts(settings.n, attributes=k, seed=_seed(settings, k), exclude=exclude)
            for k in ATTRIBUTES
        },
        "retain_near": value_prompts(around.near, settings.n, seed=_seed(settings, 5)),
        "retain_far": value_prompts(around.far, settings.n, seed=_seed(settings, 6)),
    }
    return {
        name: scene_set(f"{concept}/{name}", prompts, settings, place)
        for place, (name, prompts) in enumerate(texts.items(), start=1)
    }


def scene_set(name: str, prompts: Sequence[ScenePrompt], settings: UtilityConfig, place: int) -> PromptSet:
    """Return prompts as a named set whose pictures have seeds of their own."""
    first = _seed(settings, place)
    return PromptSet(name, tuple(Case(i, p.text, first + i, p.expected) for i, p in enumerate(prompts)))


def negative_force(
    pipe: Any,
    prompts: PromptSet,
    detector: Detector,
    *,
    negative: str,
    sampling: SamplingConfig,
    conditioning: Tensor | None = None,
) -> list[Result]:
    """Measure how often naming the concept in the negative prompt removes it from a picture that shows it.

    Every prompt is drawn twice from the same seed, without and with the negative prompt. An eraser that maps the word
    to nothing has also taken the user's means to push the concept away.

    Args:
        pipe: The pipeline under test; the negative prompt passes through its encoder.
        prompts: Captions that leave the concept open.
        detector: Says whether a picture shows it.
        negative: The negative prompt.
        sampling: How pictures are drawn; without guidance there is no negative prompt.
        conditioning: Conditioning (N, L, D) of the prompts by the frozen base, so that the positive side is the same
            for every encoder; by default the pipeline's own.

    Returns:
        ``negative_without`` and ``negative_with``, the rates at which the concept is shown, and, if it is shown at all
        without, ``negative_removed``: in how many of those pictures the negative prompt removed it. Alone, the last
        flatters a negative prompt that only changes pictures: ``negative_with`` counts the newly shown, too, and
        ``settings["paired"]`` tests the two rates on the same pictures.

    Raises:
        ValueError: If the sampling has no guidance, or the negative prompt is empty.
    """
    if sampling.guidance <= 1 or not negative:
        raise ValueError(
            f"expected guidance above 1 and a negative prompt, found {sampling.guidance} and {negative!r}; "
            "without them nothing is pushed away"
        )
    texts: Sequence[str] | Tensor = [c.prompt for c in prompts.cases] if conditioning is None else conditioning
    seeds = [case.seed for case in prompts.cases]
    plain, pushed = (detect(detector, draw(pipe, texts, seeds, sampling, negative=words)) for words in ("", negative))
    results = [rate("negative_without", plain), rate("negative_with", pushed)]
    shown = [not after for before, after in zip(plain, pushed, strict=True) if before]
    results += [rate("negative_removed", shown)] if shown else []
    about = {"negative": negative, "positive": "own" if conditioning is None else "given"}
    paired = asdict(paired_test(plain, pushed))
    return [judged(replace(result, settings={**about, "paired": paired}), detector) for result in results]


def knowledge(pipe: Any, concept: str, settings: UtilityConfig) -> Result:
    """Return in how many renders of a concept the Diffusion Classifier recognises it, among the values of its factor.

    Li et al., ICCV 2023. It looks at what the model still knows, not at what it draws: high means that the pictures
    still fit the concept's caption better than any other's.

    Args:
        pipe: The pipeline under test, with whatever encoder is attached.
        concept: A canonical value of the shapes world.
        settings: Size and seed.
    """
    factor, value = factor_of(concept)
    prompts = {v: f"a {v}" for v in VALUES[factor]}
    classifier = DiffusionClassifier(
        Backbone.from_pipeline(pipe), vae_encoder(pipe), prompts, stages=_STAGES, seed=settings.seed
    )
    detector = DiffusionClassifierDetector(classifier, concept)
    drawn = render_pictures(settings.n * 2 * len(prompts), seed=_SHOWN_SEED + settings.seed)
    shows = drawn.labels[:, FACTORS.index(factor)] == VALUES[factor].index(value)
    pictures = drawn.images[shows][: settings.n].float() / 255
    with classifier.backbone.frozen():
        labels = classifier(pictures).labels
    result = judged(rate("knowledge", [label == value for label in labels]), detector)
    shown = f"renders of {value}, seed {_SHOWN_SEED + settings.seed}"
    return replace(
        result,
        threshold=None,  # the best class, not a probability, decides
        seeds=(settings.seed,),
        prompt_set=shown,
        prompt_sha256=canonical_sha256([shown, prompts]),
        settings={"classes": prompts, "stages": [asdict(stage) for stage in _STAGES]},
        versions=judging_versions(),
        unet_calls=classifier.backbone.unet_calls,
    )


@dataclass(frozen=True)
class StructuredProbe:
    """``structured_utility`` as a part of an evaluation.

    Args:
        concept: A canonical value of the shapes world.
        settings: Sizes, seed, sampling.
    """

    name: ClassVar[str] = "structured_utility"

    concept: str
    settings: UtilityConfig

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> list[Result]:
        """Measure the pipeline with the defence attached."""
        with attached():
            return structured_utility(pipe, self.concept, self.settings)


@dataclass(frozen=True)
class KnowledgeProbe:
    """``knowledge`` as a part of an evaluation.

    Args:
        concept: A canonical value of the shapes world.
        settings: Size and seed.
    """

    name: ClassVar[str] = "knowledge"

    concept: str
    settings: UtilityConfig

    def __call__(self, pipe: Any, attached: Callable[[], AbstractContextManager[Any]]) -> list[Result]:
        """Measure the pipeline with the defence attached."""
        with attached():
            return [knowledge(pipe, self.concept, self.settings)]


def _seed(settings: UtilityConfig, place: int) -> int:
    # Apart from every set of an evaluation, which are numbered from seed * 10 millions.
    return 500_000_000 + (settings.seed * 10 + place) * 1_000_000


def _draw(pipe: Any, prompts: PromptSet, sampling: SamplingConfig) -> Tensor:
    return draw(pipe, [c.prompt for c in prompts.cases], [c.seed for c in prompts.cases], sampling)


def _recorded(result: Result, prompts: PromptSet, settings: UtilityConfig) -> Result:
    calls = len(prompts.cases) * settings.sampling.calls_per_picture * (2 if "negative" in result.settings else 1)
    return replace(
        result,
        seeds=(settings.seed,),
        prompt_set=prompts.name,
        prompt_sha256=prompts.sha256,
        settings={**result.settings, "sampling": asdict(settings.sampling)},
        versions=judging_versions(),
        unet_calls=calls,
    )
