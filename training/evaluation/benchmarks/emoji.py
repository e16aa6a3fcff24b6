"""The benchmark of the emoji world: its prompts, its judges, its attacks and its metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch

from robust_encoders.concepts import Concept

from ...diffusion.sampling import SamplingConfig
from ...metrics import ClipScore, JudgeAccuracy
from ...metrics.clip_score import Scorer
from ...metrics.retention import not_as_asked
from ...protocols import Attack, Detector
from ...types import Case
from ...worlds.emoji.captions import EmojiPrompt
from ...worlds.emoji.clip_score import load_clip_scorer
from ...worlds.emoji.concepts import EmojiConcept, emoji_concept
from ...worlds.emoji.judge import EmojiJudge
from ...worlds.emoji.things import WordChoice
from ...worlds.emoji.vocabulary import LABELS
from ...worlds.judge_features import NetworkFeatures
from ..config import EvaluationConfig
from ..plan import AnyProbe, MetricMaker, Plan, PromptSet
from .chance_pool import ChancePool
from .columns import ColumnSetup, SchedulersColumn, SeedsColumn
from .emoji_attacks import emoji_suite
from .emoji_detectors import EMOJI_AGREED, EmojiJudges, emoji_detector, refuse_unknown_emoji_detector
from .emoji_prompts import EmojiPrompts
from .everyday_retention import EverydayRetention
from .negative_column import NegativeColumn
from .structured_utility import StructuredUtility
from .world_attacks import SuiteName
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
# Threat tiers of unattacked captions: by canonical names, by further names, by held-out names.
WORD_CHOICES: Mapping[WordChoice, str] = {"name": "T0", "seen": "T1", "unseen": "T1"}
_ICONS = "retain_icons_all"
_PROBES = ("structured", "everyday", "seeds", "schedulers", "negative", "chance")
_MEMBER = "member"  # sub-group of a prompt that states a member of a group of things


@dataclass(frozen=True)
class EmojiBenchmark:
    """Attacks on a concept of the emoji world, on wordings that no training of an eraser sees.

    Args:
        concept: Name of a concept, for example ``alcohol``, ``hot dog`` or ``line art``, or of any thing, style or
            background, or a concept of that name.
        n: Number of prompts in every set that states the concept. Captions by further names state only the members that
            have some; a concept without further names has no such set.
        n_kept: Number of kept prompts, which do not state the concept. A retention column whose label none of them
            states is left out.
        n_probes: Number of prompts in every set of the structured utility and of everyday prompts. Columns without a
            search take shares of it.
        suite: Name of the set of attacks with their budgets.
        captions: Kind of attacked captions: ``named`` for captions that name the concept, ``open`` for captions that
            leave it open. Open captions can also be attacked on the base, so they show how strong an attack is.
        detector: Detector of the concept: ``emoji_judge``, ``emoji_icons``, ``emoji_agreed`` for what both find, or a
            name in ``DETECTORS``.

    Raises:
        ValueError: If the world has no such concept, a size is too small, or the detector is not known.
    """

    name: ClassVar[str] = "emoji"
    defaults: ClassVar[EvaluationConfig] = EvaluationConfig()
    usual_detector: ClassVar[str] = EMOJI_AGREED

    concept: str | Concept
    n: int = 200
    n_kept: int = 400
    n_probes: int = 200
    suite: SuiteName = "standard"
    captions: CaptionChoice = "named"
    detector: str = EMOJI_AGREED

    def __post_init__(self) -> None:
        if min(self.n, self.n_kept, self.n_probes) < 2:
            raise ValueError(
                f"expected n, n_kept and n_probes of at least 2, found {self.n}, {self.n_kept} and {self.n_probes}; "
                "ask for more prompts"
            )
        refuse_unknown_emoji_detector(self.detector)
        _ = self.erased

    @cached_property
    def erased(self) -> EmojiConcept:
        """The concept, looked up in the world."""
        return emoji_concept(self.concept if isinstance(self.concept, str) else self.concept.name)

    @cached_property
    def prompts(self) -> EmojiPrompts:
        """The prompts around the concept."""
        return EmojiPrompts(self.erased)

    @staticmethod
    def refuse_detector(name: str) -> None:
        """Check the name of a detector before anything is loaded; see ``refuse_unknown_emoji_detector``."""
        refuse_unknown_emoji_detector(name)

    @staticmethod
    def made_by_name(name: str, concept: Concept, device: str | torch.device) -> Detector:
        """Return a detector of a concept; the judges of this world stay on the CPU."""
        refuse_unknown_emoji_detector(name)
        return emoji_detector(name, emoji_concept(concept.name), concept)

    def attack_labels(self) -> Collection[str]:
        """Return the labels of the suite's attacks."""
        return emoji_suite(self.suite, self.erased)

    def metric_labels(self) -> Collection[str]:
        """Return the names of the metrics and probes."""
        retained = (f"retain_{label}" for label in (*LABELS, "all"))
        return (*retained, _ICONS, "clip_score", *DISTANCES, ERASED_DISTANCE, *_PROBES)

    def problems(self, config: EvaluationConfig) -> list[str]:
        """Return the packages that are missing for the chosen attacks and metrics, and the metrics without a case.

        Args:
            config: Names of attacks and metrics, and the sampling.
        """
        missing = missing_packages(_attacks(self, config.sampling), config)
        return [*missing, *unstated_problems(LABELS, self.kept_set(config.seed), config)]

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan with the packaged judges and image tower.

        Raises:
            AssetsMissingError: If the package was installed without the base.
        """
        return emoji_plan(self, config)

    def plain_sets(self, seed: int) -> tuple[PromptSet, ...]:
        """Return the attacked prompts, then further prompts that state the concept."""
        return self.named_sets(seed) if self.captions == "named" else (self._open_set(seed),)

    def named_sets(self, seed: int) -> tuple[PromptSet, ...]:
        """Return held-out captions that state the concept: by canonical names, by further names, by held-out ones.

        There is no set by further names if no member has one.
        """
        found = [
            self._set(str(words), self.prompts.named(self.n, seed=_seed(seed, place), words=words), seed, place, tier)
            for place, (words, tier) in enumerate(WORD_CHOICES.items())
        ]
        return tuple(prompts for prompts in found if prompts.cases)

    def kept_set(self, seed: int) -> PromptSet:
        """Return captions that do not state the concept."""
        return self._set("kept", self.prompts.kept(self.n_kept, seed=_seed(seed, 3)), seed, 3)

    def _open_set(self, seed: int) -> PromptSet:
        """Return captions that leave the concept open; attacks aim at the picture of the caption with its name."""
        found = self.prompts.open(self.n, seed=_seed(seed, 4))
        named, goals = self._set("open", found, seed, 4), self.prompts.goals(found)
        cases = (replace(case, goal=goal.text) for case, goal in zip(named.cases, goals, strict=True))
        return replace(named, cases=tuple(cases))

    def _set(self, name: str, prompts: Sequence[EmojiPrompt], seed: int, place: int, tier: str = "T0") -> PromptSet:
        first = _seed(seed, place)
        cases = (Case(i, p.text, first + i, p.expected, groups=self._groups(p)) for i, p in enumerate(prompts))
        return PromptSet(f"{self.erased.name}/{name}", tuple(cases), tier)

    def _groups(self, prompt: EmojiPrompt) -> Mapping[str, str]:
        """Return the sub-groups of a prompt: the stated style and background, and the member of a group of things."""
        stated = {label: value for label, value in prompt.expected.items() if label != "thing"}
        member = prompt.expected.get("thing", "")
        return {**stated, _MEMBER: member} if member in self.erased.members else stated


def emoji_plan(
    benchmark: EmojiBenchmark,
    config: EvaluationConfig,
    *,
    judges: EmojiJudges | None = None,
    scorer: Scorer | None = None,
) -> Plan:
    """Return the plan of the benchmark.

    There is no error rate of the judges in it, because fresh renders need the icon packages. The command
    ``emoji measure --sources`` has it.

    Args:
        benchmark: Concept, sizes, suite.
        config: Seed and sampling.
        judges: Judges instead of the packaged ones.
        scorer: Scorer of pictures and captions instead of the packaged image tower.

    Raises:
        AssetsMissingError: If the package was installed without the base.
    """
    judges, scorer = judges or EmojiJudges.load(), scorer or load_clip_scorer()
    concept = benchmark.erased.concept(benchmark.prompts.things)
    detector = emoji_detector(benchmark.detector, benchmark.erased, concept, judges)
    kept = benchmark.kept_set(config.seed)
    return Plan(
        concept=concept,
        plain=benchmark.plain_sets(config.seed),
        kept=kept,
        detector=detector,
        attacks=_attacks(benchmark, config.sampling),
        utility={
            **kept_accuracies(judges.trained, LABELS, kept),
            _ICONS: partial(JudgeAccuracy, judges.icons, name="retain_icons"),
            "clip_score": partial(ClipScore, scorer),
            **_distances(judges, benchmark.n_kept),
        },
        instead=partial(not_as_asked, judges.trained),
        erased=_erased_distance(judges),
        probes=_probes(benchmark, config, judges, detector),
    )


def _attacks(benchmark: EmojiBenchmark, sampling: SamplingConfig) -> dict[str, Attack]:
    return emoji_suite(benchmark.suite, benchmark.erased, sampling)


def _probes(
    benchmark: EmojiBenchmark, config: EvaluationConfig, judges: EmojiJudges, detector: Detector
) -> Mapping[str, AnyProbe]:
    """Return the probes of what is kept, and of success without a search."""
    prompts, n, judge = benchmark.prompts, benchmark.n_probes, judges.trained
    named = benchmark.named_sets(config.seed)[0]
    setup = ColumnSetup(prompts, named, n, config.seed, config.sampling, detector)
    pool = pool_sets(prompts, named, max(1, n // 8), config.seed)
    return {
        "structured": StructuredUtility(prompts, n, config.seed, config.sampling, judge=judge),
        "everyday": EverydayRetention(prompts, n, config.seed, config.sampling, judge=judge),
        **{probe.name: probe(setup) for probe in (SeedsColumn, SchedulersColumn, NegativeColumn)},
        "chance": ChancePool(*pool, detector, config.sampling, config.seed),
    }


def _distances(judges: EmojiJudges, n: int) -> dict[str, MetricMaker]:
    """Return the metrics that compare kept pictures with the base's in the trained judge's features."""
    if not isinstance(judges.trained, EmojiJudge):
        return {}
    return kept_distances(NetworkFeatures(judges.trained), n)


def _erased_distance(judges: EmojiJudges) -> dict[str, MetricMaker]:
    if not isinstance(judges.trained, EmojiJudge):
        return {}
    return erased_distance(NetworkFeatures(judges.trained))


def _seed(seed: int, place: int) -> int:
    """Return the first of a million seeds that no other prompt set or run uses."""
    return (seed * 10 + place) * 1_000_000
