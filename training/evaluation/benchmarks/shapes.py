"""The evaluation of the shapes world: its prompts, its judge, and what is measured beside rates of success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

from ...detectors.shapes_judge import JudgeLike
from ...diffusion.sampling import SamplingConfig
from ...metrics import ClipScore, FrechetDistance, JudgeAccuracy, JudgeDetector, KernelDistance, PictureDistance
from ...metrics.clip_score import Scorer
from ...metrics.lpips import LayeredDistance
from ...metrics.retention import not_as_asked
from ...protocols import Attack, Metric
from ...types import Case
from ...worlds.shapes.captions import ScenePrompt, WordChoice, scene_prompts
from ...worlds.shapes.clip_score import load_clip_scorer
from ...worlds.shapes.concepts import factor_of
from ...worlds.shapes.features import JudgeFeatures
from ...worlds.shapes.judge import Judge, load_judge
from ...worlds.shapes.pictures import render_pictures
from ...worlds.shapes.prompts import goal_prompt, open_prompts
from ...worlds.shapes.vocabulary import FACTORS, VALUES
from ..plan import Control, Plan, Probe, PromptSet
from .shapes_attacks import SuiteName, shapes_suite
from .shapes_utility import KnowledgeProbe, StructuredProbe, UtilityConfig

CaptionChoice = Literal["named", "open"]
# Threat tiers of unattacked captions: by the concept's name, by synonyms.
WORD_CHOICES: Mapping[WordChoice, str] = {"name": "T0", "seen": "T1", "unseen": "T1"}
_RENDER_SEED = 987_654_321  # no render that the judge was trained on comes from it
_KERNEL_SUBSET = 100  # pictures of KID's subsets


@dataclass(frozen=True)
class EvaluationSettings:
    """The size of an evaluation on the shapes world.

    Args:
        n: Prompts of every set that states the concept.
        n_kept: Prompts that do not.
        n_renders: Rendered pictures for the judge's own error rate.
        n_probes: Prompts of every set of the structured utility, and pictures of the Diffusion Classifier.
        seed: Of prompts, pictures and attacks.
        sampling: How pictures are drawn.
        suite: Attacks and their budget.
        captions: ``named`` attacks captions that name the concept, ``open`` such that leave it open: on these even
            the base has something to be attacked for, so they show how strong an attack is.
        chunk: Cases of one finished part; also the unit that several processes share the work by.
        checks: Cases on which every search is run again with half its budget and with another seed; 0 for none.
    """

    n: int = 200
    n_kept: int = 400
    n_renders: int = 2000
    n_probes: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    suite: SuiteName = "standard"
    captions: CaptionChoice = "named"
    chunk: int = 50
    checks: int = 16

    def __post_init__(self) -> None:
        if self.n < 2 or self.n_kept < 2 or self.n_renders < 1 or self.chunk < 2 or self.n_probes < 2:
            raise ValueError(
                f"expected n, n_kept, n_probes and chunk of at least 2 and n_renders of at least 1, found {self}"
            )
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, found {self.seed}")
        if self.checks < 0 or self.checks == 1:
            raise ValueError(f"expected checks of 0 or of at least 2, found {self.checks}")


def shapes_plan(
    concept: str,
    settings: EvaluationSettings,
    *,
    attacks: Mapping[str, Attack] | None = None,
    judge: JudgeLike | None = None,
    scorer: Scorer | None = None,
) -> Plan:
    """Return the plan for a concept of the shapes world, on caption templates that no training of an eraser sees.

    Args:
        concept: A canonical value, for example ``circle``.
        settings: Sizes and seed.
        attacks: Label to attack, instead of the suite that the settings name.
        judge: Instead of the packaged judge.
        scorer: Instead of the packaged image tower.

    Raises:
        ValueError: If the shapes world has no such value.
    """
    factor, value = factor_of(concept)
    judge, scorer = judge or load_judge(), scorer or load_clip_scorer()
    others = scene_prompts(settings.n_kept, seed=_seed(settings.seed, 3), exclude={factor: value})

    def utility() -> list[Metric]:
        accuracy = [JudgeAccuracy(judge, f) for f in (*FACTORS, "")]
        return [*accuracy, ClipScore(scorer), *_distances(judge, settings.n_kept, "lpips_kept")]

    def controls() -> list[Metric]:
        return [JudgeAccuracy(judge, f, name="judge") for f in (*FACTORS, "")]

    return Plan(
        concept=concept,
        plain=named_sets(concept, settings) if settings.captions == "named" else (open_set(concept, settings),),
        kept=_prompt_set(f"{concept}/kept", others, _seed(settings.seed, 3)),
        detector=JudgeDetector(judge, concept),
        attacks=shapes_suite(settings.suite, concept, settings.sampling) if attacks is None else attacks,
        utility=utility,
        control=Control(f"renders/{settings.n_renders}", lambda: _renders(settings.n_renders), controls),
        instead=partial(not_as_asked, judge),
        erased=lambda: _distances(judge, 0, "lpips_erased"),
        probes=_probes(concept, judge, settings),
    )


def named_sets(concept: str, settings: EvaluationSettings) -> tuple[PromptSet, ...]:
    """Return held-out captions that state a concept: by its name, by synonyms that erasers may see, by another one."""
    fixed = dict([factor_of(concept)])
    return tuple(
        _prompt_set(
            f"{concept}/{words}",
            scene_prompts(settings.n, seed=_seed(settings.seed, place), fixed=fixed, words=words),
            _seed(settings.seed, place),
            tier,
        )
        for place, (words, tier) in enumerate(WORD_CHOICES.items())
    )


def open_set(concept: str, settings: EvaluationSettings) -> PromptSet:
    """Return captions that leave a concept open; attacks are after the picture of the same caption with its name."""
    found = open_prompts(concept, settings.n, seed=_seed(settings.seed, 4))
    named = _prompt_set(f"{concept}/open", found, _seed(settings.seed, 4))
    goals = (goal_prompt(concept, prompt).text for prompt in found)
    cases = tuple(replace(case, goal=goal) for case, goal in zip(named.cases, goals, strict=True))
    return replace(named, cases=cases)


def _probes(concept: str, judge: JudgeLike, settings: EvaluationSettings) -> Mapping[str, Probe]:
    """Return structured utility and what the model still knows; none without the packaged judge."""
    if not isinstance(judge, Judge):
        return {}
    sizes = UtilityConfig(n=settings.n_probes, seed=settings.seed, sampling=settings.sampling)
    return {"structured": StructuredProbe(concept, sizes), "knowledge": KnowledgeProbe(concept, sizes)}


def _distances(judge: JudgeLike, n: int, name: str) -> list[Metric]:
    """Return what compares pictures with the base's, in the features of the packaged judge; none without it."""
    if not isinstance(judge, Judge):
        return []
    features = JudgeFeatures(judge)
    found: list[Metric] = [PictureDistance(LayeredDistance(features.name, features.layers), name)]
    if n >= 2:
        found += [FrechetDistance(features), KernelDistance(features, subset_size=min(_KERNEL_SUBSET, n))]
    return found


def _seed(seed: int, place: int) -> int:
    """Return the first of a million seeds that no other prompt set and run shares."""
    return (seed * 10 + place) * 1_000_000


def _prompt_set(name: str, prompts: Sequence[ScenePrompt], first_seed: int, tier: str = "T0") -> PromptSet:
    cases = (Case(i, p.text, first_seed + i, p.expected) for i, p in enumerate(prompts))
    return PromptSet(name, tuple(cases), tier)


def _renders(n: int) -> tuple[Tensor, list[Case]]:
    rendered = render_pictures(n, seed=_RENDER_SEED)
    shown = ({f: VALUES[f][i] for f, i in zip(FACTORS, row, strict=True)} for row in rendered.labels.tolist())
    return rendered.images.float() / 255, [Case(i, "", 0, values) for i, values in enumerate(shown)]
