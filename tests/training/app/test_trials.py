"""The trial of each concept: its attacks and its judge, or what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from studios import Brightness

from robust_encoders import Concept
from robust_encoders.training.app import trials
from robust_encoders.training.app.trials import Trial, trial_of
from robust_encoders.training.attacks import ContinuousPrefix
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan, PromptSet
from robust_encoders.training.types import AttackFacts

NUDITY = Concept(name="nudity", kind="content", synonyms=("nude",))


def made(concept: Concept, pipe: Any, family: str = "", detector: str = "") -> Trial:
    return trial_of(concept, pipe, family=family, sampling=SamplingConfig(), detector=detector)


@pytest.mark.base
@pytest.mark.parametrize("name", ["circle", "striped", "red"])
def test_the_embedded_base_has_judges_and_the_quick_suite(name: str, tiny_pipe: Any) -> None:
    found = made(Concept(name=name, kind="object"), tiny_pipe, "shapes")
    assert found.detector is not None
    assert name in found.detector.name
    assert list(found.attacks) == ["random", "discrete", "continuous"]
    assert not any(AttackFacts.of(attack).joint for attack in found.attacks.values())
    assert found.needs == ()


def test_the_embedded_base_has_no_judge_of_another_world(tiny_pipe: Any) -> None:
    (need,) = made(NUDITY, tiny_pipe, "shapes").needs
    assert need.startswith("The embedded base shapes has no judge of nudity: expected one of circle")


@dataclass(frozen=True)
class Bright:
    """A benchmark of another embedded base, which knows bright and dark pictures."""

    name: ClassVar[str] = "emoji"
    concept: Concept
    suite: str = "standard"
    detector: str = "bright"

    def __post_init__(self) -> None:
        if self.concept.name not in ("alcohol", "weapon"):
            raise ValueError("expected alcohol or weapon")
        if self.detector not in ("bright", "dark"):
            raise ValueError(f"expected bright or dark, found {self.detector!r}")

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        judge = Brightness(0.5, 1.0 if self.detector == "bright" else -1.0)
        attacks = {self.suite: ContinuousPrefix(steps=config.sampling.steps)}
        return Plan(self.concept, (), PromptSet("kept", ()), judge, attacks)


def test_any_embedded_base_is_attacked_and_judged_as_its_benchmark_says(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "emoji", Bright)
    alcohol = Concept(name="alcohol", kind="content")
    found = made(alcohol, tiny_pipe, "emoji")
    assert list(found.attacks) == ["quick"]
    assert found.attacks["quick"] == ContinuousPrefix(steps=SamplingConfig().steps)
    assert found.detector is not None
    assert (found.detector.threshold, found.needs) == (0.5, ())
    dark = made(alcohol, tiny_pipe, "emoji", "dark").detector
    assert dark is not None
    assert dark.threshold == -0.5
    (need,) = made(NUDITY, tiny_pipe, "emoji").needs
    assert need == "The embedded base emoji has no judge of nudity: expected alcohol or weapon."
    with pytest.raises(ValueError, match="expected bright or dark, found 'drak'"):
        made(alcohol, tiny_pipe, "emoji", "drak")
    monkeypatch.delitem(BENCHMARKS, "emoji")
    (need,) = made(alcohol, tiny_pipe, "emoji").needs
    assert need == "The embedded base emoji has no attacks yet: no benchmark has its name."


def test_another_base_needs_the_name_of_a_judge(tiny_pipe: Any) -> None:
    found = made(Concept(name="church", kind="object"), tiny_pipe)
    assert found.detector is None
    assert found.needs == (
        "Nobody judges yet whether a picture shows church. Start the page with --detector NAME, for example "
        "--detector classifier:MODEL:CLASS.",
    )
    assert made(Concept(name="church", kind="object"), tiny_pipe, detector="nudenet").needs == ()


def test_nudity_is_judged_by_nudenet_or_says_how_to_install_it(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(NUDITY, tiny_pipe)
    assert found.detector is not None
    assert "nudenet" in found.detector.name.casefold()
    assert list(found.attacks) == ["random", "discrete"]
    monkeypatch.setattr(trials, "package_problems", lambda parts: ["expected nudenet, found none; install it"])
    (need,) = made(NUDITY, tiny_pipe).needs
    assert need == "The judge of nudity is missing: expected nudenet, found none; install it."


def test_a_named_judge_is_taken_and_a_wrong_name_is_refused(tiny_pipe: Any) -> None:
    found = made(Concept(name="church", kind="object"), tiny_pipe, detector="nudenet")
    assert (found.needs, found.detector is not None) == ((), True)
    with pytest.raises(ValueError, match="found 'nudnet'"):
        made(NUDITY, tiny_pipe, detector="nudnet")


def test_attacks_need_a_base_of_stable_diffusion_1_or_2(tiny_pipe: Any) -> None:
    tiny_pipe.unet.register_to_config(addition_embed_type="text_time")
    found = made(NUDITY, tiny_pipe)
    assert len(found.needs) == 1
    assert "Stable Diffusion 1 or 2 as the base, found StableDiffusionPipeline, whose UNet also needs" in found.needs[0]
