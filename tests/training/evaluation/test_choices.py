"""Attacks and metrics by name: labels of the suite keep their budgets, others come from the registries."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from plans import ATTACKS as SUITE
from plans import find, make_plan, run
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training import plugins
from robust_encoders.training.attacks import ATTACKS, BlackBox, NoAttack, Synonyms
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS, ShapesBenchmark
from robust_encoders.training.evaluation.choices import chosen, detector_named, refuse_unknown
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Benchmark, FixedPlan
from robust_encoders.training.metrics import METRICS
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackFacts, AttackResult, Candidate, Case, Result

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",))


@dataclass(frozen=True)
class Shout:
    """As little as an attack may be: a name, a tier, and what it does."""

    name: ClassVar[str] = "shout"
    tier: ClassVar[str] = "T0"

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        return [AttackResult((Candidate("text", case.prompt.upper(), 1),), 0, 0) for case in cases]


class Brightness:
    """Mean of all pictures."""

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self) -> None:
        self.means: list[float] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        self.means += images.mean((1, 2, 3)).tolist()

    def compute(self) -> Result:
        return Result("brightness", sum(self.means) / len(self.means), len(self.means))


@pytest.fixture
def outside() -> Iterator[None]:
    """An attack and a metric that were registered by plain assignment."""
    ATTACKS["shout"], METRICS["brightness"] = Shout, Brightness
    yield
    del ATTACKS["shout"], METRICS["brightness"]


def test_a_minimal_attack_has_the_facts_that_most_attacks_have() -> None:
    assert isinstance(Shout(), Attack)
    assert AttackFacts.of(Shout()) == AttackFacts.of(Shout) == AttackFacts()
    assert AttackFacts.of(ATTACKS["continuous_prefix"]).iteration_fields == ("steps", "restarts")
    assert not AttackFacts.of(ATTACKS["continuous_prefix"]).joint
    assert AttackFacts.of(SUITE["shared"]).joint


@pytest.mark.usefixtures("outside")
def test_labels_keep_their_budgets_and_other_names_are_built(tiny_pipe: Any) -> None:
    plan = chosen(make_plan(tiny_pipe), EvaluationConfig(attacks=("none", "discrete", "shout")))
    assert plan.attacks == {"none": NoAttack(), "discrete": SUITE["discrete"], "shout": Shout()}
    assert list(plan.utility) == ["clip_score"]
    plan = chosen(plan, EvaluationConfig(metrics=("brightness",)))
    assert [type(metric) for metric in plan.utility_metrics()] == [Brightness]
    assert plan.measures == {"metrics": ["brightness"]}


@pytest.mark.usefixtures("outside")
def test_what_is_registered_from_outside_is_measured(tiny_pipe: Any, tmp_path: Path) -> None:
    names: dict[str, Any] = {"attacks": ("none", "shout"), "metrics": ("brightness", "clip_score")}
    found = run(tiny_pipe, make_plan(tiny_pipe), tmp_path, **names)
    assert find(found, "asr_any", "shout").n == 4
    assert 0 < find(found, "brightness").value < 1
    assert find(found, "clip_score").n == 3


def test_an_attack_of_an_installed_package_is_found(monkeypatch: pytest.MonkeyPatch, tiny_pipe: Any) -> None:
    monkeypatch.setitem(sys.modules, "loud", sys.modules[__name__])
    monkeypatch.setattr(ATTACKS, "_known", dict(ATTACKS._known))
    point = EntryPoint("loud", "loud:Shout", "robust_encoders.attacks")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    assert chosen(make_plan(tiny_pipe), EvaluationConfig(attacks=("loud",))).attacks == {"loud": Shout()}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"attacks": ("nonee",)}, "expected attacks, found 'nonee'; did you mean 'none'"),
        ({"metrics": ("clip_scor",)}, "expected metrics, found 'clip_scor'; did you mean 'clip_score'"),
        ({"attacks": ("transfer",)}, "found 'transfer': missing a required argument: 'source'; give its class"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_loaded(names: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_unknown(ShapesBenchmark("circle", suite="quick"), EvaluationConfig(**names))


def test_a_benchmark_without_labels_is_asked_once_its_plan_is_there(tiny_pipe: Any) -> None:
    plan, config = make_plan(tiny_pipe), EvaluationConfig(attacks=("discret",))
    refuse_unknown(FixedPlan(plan), config)
    with pytest.raises(ValueError, match="did you mean 'discrete'"):
        chosen(plan, config)


def test_a_class_may_say_how_it_is_built_for_a_concept(tiny_pipe: Any) -> None:
    plan = make_plan(tiny_pipe, concept=CONCEPT)
    assert chosen(plan, EvaluationConfig(attacks=("synonyms",))).attacks == {
        "synonyms": Synonyms(("circle", "disc"), ("circle", "disc"))
    }
    assert not hasattr(BlackBox, "for_concept")
    with pytest.raises(ValueError, match="did you mean 'nudenet'"):
        detector_named("nudnet", CONCEPT)
    with pytest.raises(ValueError, match="expected detectors with defaults"):
        detector_named("image_classifier", CONCEPT)


def test_the_benchmarks_are_registered_by_their_names() -> None:
    assert list(BENCHMARKS) == ["shapes", "emoji", "stable_diffusion"]
    assert [vars(kind)["name"] for kind in BENCHMARKS.values()] == list(BENCHMARKS)
    assert isinstance(ShapesBenchmark("circle"), Benchmark)
