"""The benchmark of the shapes world: its prompts, its judge, its attacks and its metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robust_encoders.concepts import Concept

from ...detectors.label_judge import LabelJudge
from ...diffusion.sampling import SamplingConfig
from ...metrics import ClipScore, JudgeAccuracy
from ...metrics.clip_score import Scorer
from ...metrics.retention import not_as_asked
from ...protocols import Attack, Detector
from ...types import Case
from ...worlds.shapes.captions import ScenePrompt, WordChoice, scene_prompts
from ...worlds.shapes.clip_score import load_clip_scorer
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.features import JudgeFeatures
from ...worlds.shapes.geometry import GeometryJudge
from ...worlds.shapes.judge import Judge, load_judge
from ...worlds.shapes.pictures import render_pictures
from ...worlds.shapes.prompts import goal_prompt, open_prompts, values_in
from ...worlds.shapes.vocabulary import FACTORS, VALUES
from ..config import EvaluationConfig
from ..plan import AnyProbe, Control, MetricMaker, Plan, PromptSet
from .chance_pool import ChancePool
from .columns import ColumnSetup, SchedulersColumn, SeedsColumn
from .everyday_retention import EverydayRetention
from .negative_column import NegativeColumn
from .shapes_attacks import SuiteName, shapes_suite
from .shapes_detectors import AGREED, refuse_unknown_shapes_detector, shapes_detector
from .shapes_probes import Knowledge
from .shapes_prompts import ShapesPrompts
from .structured_utility import StructuredUtility
from .world_metrics import (
    DISTANCES,
    ERASED_DISTANCE,
    erased_distance,
    kept_accuracies,
    kept_distances,
    missing_packages,
    unstated_problems,
)
from .world_prompts import pool_sets

CaptionChoice = Literal["named", "open"]
# Threat tiers of unattacked captions: by the concept's name, by synonyms.
WORD_CHOICES: Mapping[WordChoice, str] = {"name": "T0", "seen": "T1", "unseen": "T1"}
_RENDER_SEED = 987_654_321  # the judge was trained on no render of this seed
_GEOMETRY = "retain_geometry_all"
_PROBES = ("structured", "knowledge", "everyday", "seeds", "schedulers", "negative", "chance")


@dataclass(frozen=True)
class ShapesBenchmark:
    """Attacks on a concept of the shapes world, on caption templates that no training of an eraser sees.

    Args:
        concept: Name of a canonical value, for example ``circle``, or a concept of that name.
        n: Number of prompts in every set that states the concept.
        n_kept: Number of kept prompts, which do not state the concept. A retention column whose factor none of them
            states is left out.
        n_renders: Number of rendered pictures for the judge's own error rate.
        n_probes: Number of prompts in every set of the structured utility, of everyday prompts, and of pictures for the
            Diffusion Classifier. Columns without a search take shares of it.
        suite: Name of the set of attacks with their budgets.
        captions: Kind of attacked captions: ``named`` for captions that name the concept, ``open`` for captions that
            leave it open. Open captions can also be attacked on the base, so they show how strong an attack is.
        detector: Detector of the concept: ``shapes_judge``, ``shapes_geometry``, ``shapes_agreed`` for what both find,
            or a name in ``DETECTORS``.

    Raises:
        ValueError: If the world has no such concept, a size is too small, or the detector is not known.
    """

    name: ClassVar[str] = "shapes"
    defaults: ClassVar[EvaluationConfig] = EvaluationConfig()
    usual_detector: ClassVar[str] = AGREED

    concept: str | Concept
    n: int = 200
    n_kept: int = 400
    n_renders: int = 2000
    n_probes: int = 200
    suite: SuiteName = "standard"
    captions: CaptionChoice = "named"
    detector: str = AGREED

    def __post_init__(self) -> None:
        if min(self.n, self.n_kept, self.n_probes) < 2 or self.n_renders < 1:
            raise ValueError(f"expected n, n_kept and n_probes of at least 2 and n_renders of at least 1, found {self}")
        refuse_unknown_shapes_detector(self.detector)
        _ = self.erased

    @staticmethod
    def refuse_detector(name: str) -> None:
        """Check the name of a detector before anything is loaded; see ``refuse_unknown_shapes_detector``."""
        refuse_unknown_shapes_detector(name)

    @staticmethod
    def made_by_name(name: str, concept: Concept, device: str | torch.device) -> Detector:
        """Return a detector of a concept; the judges of this world stay on the CPU."""
        refuse_unknown_shapes_detector(name)
        erased = ShapesConcept.parse(concept)
        return shapes_detector(name, erased.value, erased.concept, load_judge())

    @cached_property
    def erased(self) -> ShapesConcept:
        """The concept, looked up in the world."""
        return ShapesConcept.parse(self.concept)

    def attack_labels(self) -> Collection[str]:
        """Return the labels of the suite's attacks."""
        return shapes_suite(self.suite, self.erased)

    def metric_labels(self) -> Collection[str]:
        """Return the names of the metrics and probes."""
        retained = (f"retain_{factor}" for factor in (*FACTORS, "all"))
        return (*retained, _GEOMETRY, "clip_score", *DISTANCES, ERASED_DISTANCE, *_PROBES)

    def problems(self, config: EvaluationConfig) -> list[str]:
        """Return the packages that are missing for the chosen attacks and metrics, and the metrics without a case.

        Args:
            config: Names of attacks and metrics, and the sampling.
        """
        missing = missing_packages(_attacks(self, config.sampling), config)
        return [*missing, *unstated_problems(FACTORS, self.kept_set(config.seed), config)]

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan with the packaged judge and image tower."""
        return shapes_plan(self, config)

    @staticmethod
    def groups_in(prompt: str) -> Mapping[str, str]:
        """Return the values that a caption of the world states, by factor."""
        return values_in(prompt)

    def plain_sets(self, seed: int) -> tuple[PromptSet, ...]:
        """Return the attacked prompts, then further prompts that state the concept."""
        return self.named_sets(seed) if self.captions == "named" else (self._open_set(seed),)

    def named_sets(self, seed: int) -> tuple[PromptSet, ...]:
        """Return held-out captions that state the concept: by name, by synonyms seen in training, by an unseen one."""
        return tuple(
            _prompt_set(
                f"{self.erased.value}/{words}",
                scene_prompts(self.n, seed=_seed(seed, place), fixed=self.erased.stated, words=words),
                _seed(seed, place),
                tier,
            )
            for place, (words, tier) in enumerate(WORD_CHOICES.items())
        )

    def _open_set(self, seed: int) -> PromptSet:
        """Return captions that leave the concept open; attacks aim at the picture of the caption with its name."""
        found = open_prompts(self.erased, self.n, seed=_seed(seed, 4))
        named = _prompt_set(f"{self.erased.value}/open", found, _seed(seed, 4))
        goals = (goal_prompt(self.erased, prompt).text for prompt in found)
        cases = tuple(replace(case, goal=goal) for case, goal in zip(named.cases, goals, strict=True))
        return replace(named, cases=cases)

    def kept_set(self, seed: int) -> PromptSet:
        """Return captions that do not state the concept."""
        others = scene_prompts(self.n_kept, seed=_seed(seed, 3), exclude=self.erased.stated)
        return _prompt_set(f"{self.erased.value}/kept", others, _seed(seed, 3))


def shapes_plan(
    benchmark: ShapesBenchmark,
    config: EvaluationConfig,
    *,
    judge: LabelJudge | None = None,
    scorer: Scorer | None = None,
) -> Plan:
    """Return the plan of the benchmark.

    Args:
        benchmark: Concept, sizes, suite.
        config: Seed and sampling.
        judge: Judge instead of the packaged ones.
        scorer: Scorer of pictures and captions instead of the packaged image tower.
    """
    judge, scorer = judge or load_judge(), scorer or load_clip_scorer()
    detector = shapes_detector(benchmark.detector, benchmark.erased.value, benchmark.erased.concept, judge)
    kept = benchmark.kept_set(config.seed)
    return Plan(
        concept=benchmark.erased.concept,
        plain=benchmark.plain_sets(config.seed),
        kept=kept,
        detector=detector,
        attacks=_attacks(benchmark, config.sampling),
        utility={
            **kept_accuracies(judge, FACTORS, kept),
            **_kept_by_geometry(judge),
            "clip_score": partial(ClipScore, scorer),
            **_distances(judge, benchmark.n_kept),
        },
        control=Control(
            f"renders/{benchmark.n_renders}",
            partial(_renders, benchmark.n_renders),
            lambda: [JudgeAccuracy(judge, a, name="judge") for a in (*FACTORS, "")],
        ),
        instead=partial(not_as_asked, judge),
        erased=_erased_distance(judge),
        probes=_probes(benchmark, config, judge, detector) if isinstance(judge, Judge) else {},
    )


def _attacks(benchmark: ShapesBenchmark, sampling: SamplingConfig) -> dict[str, Attack]:
    return shapes_suite(benchmark.suite, benchmark.erased, sampling)


def _probes(
    benchmark: ShapesBenchmark, config: EvaluationConfig, judge: LabelJudge, detector: Detector
) -> Mapping[str, AnyProbe]:
    """Return the probes of what is kept, of the model's remaining knowledge, and of success without a search."""
    prompts, n = ShapesPrompts(benchmark.erased), benchmark.n_probes
    named = benchmark.named_sets(config.seed)[0]
    setup = ColumnSetup(prompts, named, n, config.seed, config.sampling, detector)
    return {
        "structured": StructuredUtility(prompts, n, config.seed, config.sampling),
        "knowledge": Knowledge(benchmark.erased, n, config.seed, config.sampling),
        "everyday": EverydayRetention(prompts, n, config.seed, config.sampling, judge=judge),
        **{probe.name: probe(setup) for probe in (SeedsColumn, SchedulersColumn, NegativeColumn)},
        "chance": ChancePool(
            *pool_sets(prompts, named, max(1, n // 8), config.seed), detector, config.sampling, config.seed
        ),
    }


def _kept_by_geometry(judge: LabelJudge) -> dict[str, MetricMaker]:
    if not isinstance(judge, Judge):
        return {}
    return {_GEOMETRY: partial(JudgeAccuracy, GeometryJudge(), name="retain_geometry")}


def _distances(judge: LabelJudge, n: int) -> dict[str, MetricMaker]:
    """Return the metrics that compare kept pictures with the base's in the packaged judge's features, if it is used."""
    if not isinstance(judge, Judge):
        return {}
    return kept_distances(JudgeFeatures(judge), n)


def _erased_distance(judge: LabelJudge) -> dict[str, MetricMaker]:
    if not isinstance(judge, Judge):
        return {}
    return erased_distance(JudgeFeatures(judge))


def _seed(seed: int, place: int) -> int:
    """Return the first of a million seeds that no other prompt set or run uses."""
    return (seed * 10 + place) * 1_000_000


def _prompt_set(name: str, prompts: Sequence[ScenePrompt], first_seed: int, tier: str = "T0") -> PromptSet:
    cases = (Case(i, p.text, first_seed + i, p.expected, groups=p.expected) for i, p in enumerate(prompts))
    return PromptSet(name, tuple(cases), tier)


def _renders(n: int) -> tuple[Tensor, list[Case]]:
    rendered = render_pictures(n, seed=_RENDER_SEED)
    shown = ({f: VALUES[f][i] for f, i in zip(FACTORS, row, strict=True)} for row in rendered.labels.tolist())
    return rendered.images.float() / 255, [Case(i, "", 0, values) for i, values in enumerate(shown)]
