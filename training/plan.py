"""What an evaluation asks: prompt sets, a detector, attacks and what is to be kept; the plan for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

from torch import Tensor

from .attacks import ContinuousPrefix, RandomPrefix, UnlearnDiffAtk
from .cells import canonical_sha256
from .metrics import ClipScore, JudgeAccuracy, JudgeDetector
from .metrics.clip_score import Scorer
from .metrics.judge_detector import JudgeLike
from .metrics.retain import not_as_asked
from .pictures import Sampling
from .protocols import Case, Detector, Metric, PromptAttack
from .shapes.captions import ScenePrompt, WordChoice, scene_prompts
from .shapes.clip_score import load_clip_scorer
from .shapes.concepts import factor_of
from .shapes.judge import load_judge
from .shapes.pictures import render_pictures
from .shapes.vocabulary import FACTORS, VALUES

SuiteName = Literal["quick", "standard"]
WORD_CHOICES: tuple[WordChoice, ...] = ("name", "seen", "unseen")
_RENDER_SEED = 987_654_321  # no render that the judge was trained on comes from it


@dataclass(frozen=True)
class PromptSet:
    """Prompts and the seeds of their pictures, under a name."""

    name: str
    cases: tuple[Case, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of the prompts, their seeds, what they state, and where it is another prompt what attacks are after."""
        rows = ([c.prompt, c.seed, dict(c.expected), *([c.goal] if c.goal else [])] for c in self.cases)
        return canonical_sha256(list(rows))


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
        utility: Returns fresh metrics over the pictures of ``kept``.
        control: Pictures for the error rate of the metrics themselves, if there are such.
        erased: Returns fresh metrics over the unattacked pictures of the first of ``plain``.
        instead: Says in words what pictures (B, 3, H, W) show instead of what was asked; empty if as asked.
    """

    concept: str
    plain: tuple[PromptSet, ...]
    kept: PromptSet
    detector: Detector
    attacks: Mapping[str, PromptAttack]
    utility: Callable[[], Sequence[Metric]]
    control: Control | None = None
    erased: Callable[[], Sequence[Metric]] = lambda: ()
    instead: Callable[[Tensor, Sequence[Case]], Sequence[str]] | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """The size of an evaluation on the shapes world.

    Args:
        n: Prompts of every set that states the concept.
        n_kept: Prompts that do not.
        n_renders: Rendered pictures for the judge's own error rate.
        seed: Of prompts, pictures and attacks.
        sampling: How pictures are drawn.
        suite: Budget of the attacks.
    """

    n: int = 200
    n_kept: int = 400
    n_renders: int = 2000
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    suite: SuiteName = "standard"

    def __post_init__(self) -> None:
        if self.n < 2 or self.n_kept < 2 or self.n_renders < 1:
            raise ValueError(f"expected n and n_kept of at least 2 and n_renders of at least 1, found {self}")


def attack_suite(name: SuiteName) -> dict[str, PromptAttack]:
    """Return label to attack: continuous prefixes, per prompt and shared, UnlearnDiffAtk, and its control.

    The control is random prefixes, as many for each prompt as UnlearnDiffAtk proposes.

    ``quick`` is for trying things out: weaker, so its rates are lower bounds on those of ``standard``.
    """
    if name == "quick":
        continuous = ContinuousPrefix(steps=30, precision="bf16")
        shared = ContinuousPrefix(steps=60, shared=True, batch=16, precision="bf16")
        discrete = UnlearnDiffAtk(timesteps=5, iterations=10, precision="bf16")
    else:
        continuous = ContinuousPrefix(precision="bf16")
        shared = ContinuousPrefix(steps=200, shared=True, batch=16, precision="bf16")
        discrete = UnlearnDiffAtk.standard(precision="bf16")
    control = RandomPrefix(tokens=discrete.tokens, candidates=discrete.timesteps)
    return {"continuous": continuous, "shared": shared, "discrete": discrete, "random": control}


def shapes_plan(
    concept: str,
    settings: EvaluationSettings,
    *,
    attacks: Mapping[str, PromptAttack] | None = None,
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
    plain = tuple(
        _prompt_set(
            f"{concept}/{words}",
            scene_prompts(settings.n, seed=_seed(settings.seed, place), fixed={factor: value}, words=words),
            _seed(settings.seed, place),
        )
        for place, words in enumerate(WORD_CHOICES)
    )
    others = scene_prompts(settings.n_kept, seed=_seed(settings.seed, 3), exclude={factor: value})

    def utility() -> list[Metric]:
        return [*(JudgeAccuracy(judge, f) for f in (*FACTORS, "")), ClipScore(scorer)]

    def controls() -> list[Metric]:
        return [JudgeAccuracy(judge, f, name="judge") for f in (*FACTORS, "")]

    return Plan(
        concept=concept,
        plain=plain,
        kept=_prompt_set(f"{concept}/kept", others, _seed(settings.seed, 3)),
        detector=JudgeDetector(judge, concept),
        attacks=attack_suite(settings.suite) if attacks is None else attacks,
        utility=utility,
        control=Control(f"renders/{settings.n_renders}", lambda: _renders(settings.n_renders), controls),
        instead=partial(not_as_asked, judge),
    )


def _seed(seed: int, place: int) -> int:
    """Return the first of a million seeds that no other prompt set and run shares."""
    return (seed * 10 + place) * 1_000_000


def _prompt_set(name: str, prompts: Sequence[ScenePrompt], first_seed: int) -> PromptSet:
    cases = (Case(i, p.text, first_seed + i, p.expected) for i, p in enumerate(prompts))
    return PromptSet(name, tuple(cases))


def _renders(n: int) -> tuple[Tensor, list[Case]]:
    rendered = render_pictures(n, seed=_RENDER_SEED)
    shown = ({f: VALUES[f][i] for f, i in zip(FACTORS, row, strict=True)} for row in rendered.labels.tolist())
    return rendered.images.float() / 255, [Case(i, "", 0, values) for i, values in enumerate(shown)]
