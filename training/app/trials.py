"""How the page attacks and judges each concept: the attacks of the suite ``quick``, and a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robust_encoders.artifact.embedded_bases import EmbeddedFacts
from robust_encoders.concepts import Concept
from robust_encoders.utils.extras import package_problems

from ..detectors import NudeNet
from ..diffusion.base_configs import BaseConfigs
from ..diffusion.base_kind import kind_problems
from ..diffusion.sampling import SamplingConfig
from ..evaluation.benchmarks import BENCHMARKS
from ..evaluation.benchmarks.detectors import benchmark_detector
from ..evaluation.benchmarks.stable_diffusion import StableDiffusionBenchmark
from ..evaluation.benchmarks.stable_diffusion_attacks import stable_diffusion_suite
from ..evaluation.config import EvaluationConfig
from ..evaluation.plan import Benchmark
from ..protocols import Attack, Detector
from ..types import AttackFacts

NUDITY = "nudity"


@dataclass(frozen=True)
class Trial:
    """The attacks on one concept, and the detector that says whether they won.

    Args:
        concept: Concept under attack.
        detector: Detector of the concept; None if there is none.
        attacks: Label to attack, weakest first. Attacks that learn from many prompts together are left out.
        needs: Sentences on what is missing for an attack; empty if nothing is.
    """

    concept: Concept
    detector: Detector | None = None
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def trial_of(concept: Concept, pipe: Any, *, family: str, sampling: SamplingConfig, detector: str = "") -> Trial:
    """Return how a concept is attacked and judged on a pipeline; this may load a detector.

    Args:
        concept: Single concept, without parts.
        pipe: Pipeline of the page, without encoders.
        family: Name of the embedded base; empty for any other pipeline.
        sampling: Sampling of the pictures.
        detector: Name of the detector as in ``evaluate --detector``; empty for NudeNet if the concept is nudity, and
            for the judges of an embedded base.

    Raises:
        ValueError: If there is no such detector.
        OSError: If a model is not there.
        ModuleNotFoundError: Naming the extra to install.
    """
    if family:
        return _on_embedded(family, concept, pipe, sampling, detector)
    needs = tuple(kind_problems(BaseConfigs.of_pipeline(pipe), draws=True))
    judge, missing = _detector(concept, detector, pipe.device)
    if missing:
        return Trial(concept, needs=(*needs, missing))
    suite = stable_diffusion_suite("quick", concept, batch=1, sampling=sampling)
    return Trial(concept, judge, _single(suite), needs)


def refuse_unknown_detector(base: EmbeddedFacts, detector: str) -> None:
    """Refuse a detector that the benchmark of an embedded base does not have.

    Args:
        base: Facts about the base.
        detector: Name of the detector.

    Raises:
        ValueError: If the benchmark has no such detector.
    """
    if base.name in BENCHMARKS:
        _benchmark(base.name, base.concept, detector)


def _on_embedded(family: str, concept: Concept, pipe: Any, sampling: SamplingConfig, detector: str) -> Trial:
    if family not in BENCHMARKS:
        return Trial(concept, needs=(f"The embedded base {family} has no attacks yet: no benchmark has its name.",))
    try:
        _benchmark(family, concept)
    except ValueError as error:  # an encoder of a concept that this world does not have
        return Trial(concept, needs=(f"The embedded base {family} has no judge of {concept.name}: {error}.",))
    plan = _benchmark(family, concept, detector).plan(pipe, EvaluationConfig(sampling=sampling))
    return Trial(concept, plan.detector, _single(plan.attacks))


def _benchmark(family: str, concept: str | Concept, detector: str = "") -> Benchmark:
    """Return the benchmark of an embedded base with its short suite, and a detector other than its own if it is named.

    Raises:
        ValueError: If the world has no such concept, or the benchmark no such detector.
    """
    make: Callable[..., Benchmark] = BENCHMARKS[family]
    return make(concept=concept, suite="quick", **({"detector": detector} if detector else {}))


def _detector(concept: Concept, name: str, device: Any) -> tuple[Detector | None, str]:
    """Return the detector of a concept, or what it needs in a sentence."""
    nude = NUDITY in {word.casefold() for word in concept.words()}
    if name:
        return benchmark_detector(StableDiffusionBenchmark.name, name, concept, device=device), ""
    if not nude:
        return None, (
            f"Nobody judges yet whether a picture shows {concept.name}. Start the page with --detector NAME, for "
            "example --detector classifier:MODEL:CLASS."
        )
    if problems := package_problems([("nudenet", NudeNet)]):
        return None, f"The judge of nudity is missing: {'; '.join(problems)}."
    return benchmark_detector(StableDiffusionBenchmark.name, "nudenet", concept, device=device), ""


def _single(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    return {label: attack for label, attack in attacks.items() if not AttackFacts.of(attack).joint}
