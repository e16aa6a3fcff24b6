"""The study of strength: every text search of the suite beside itself with twice the budget."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
from tree import ROOT

from robust_encoders.training.attacks import Paraphrase, WordSwap
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.sanity.checks import halved
from robust_encoders.training.types import AttackFacts
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept


@pytest.fixture
def strength(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("studies_strength", ROOT / "studies" / "strength" / "strength.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_twin_has_twice_the_budget_and_controls_have_none(strength: ModuleType) -> None:
    suite = shapes_suite("standard", ShapesConcept.parse("circle"))
    twins = {label: strength.doubled(attack) for label, attack in suite.items()}
    for label, twin in twins.items():
        # Paraphrase is not halved, as nothing in it is random, and a word swap is doubled in three fields.
        if twin is not None and not isinstance(twin, Paraphrase | WordSwap):
            assert halved(twin) == suite[label]
    swap: Any = twins["word_swap"]
    assert (swap.drawn, swap.kept, swap.whole) == (800, 48, 8)
    wordings: Any = twins["paraphrase"]
    assert wordings.whole == 16
    assert {label for label in ("none", "synonyms", "random", "transfer") if twins[label] is None} == {
        *("none", "synonyms", "random", "transfer")
    }


def test_the_plan_holds_pairs_of_text_attacks_and_nothing_else(strength: ModuleType) -> None:
    shapes = ShapesBenchmark("circle", n=2, n_kept=2, n_renders=1, n_probes=2)
    plan = strength.StrengthBenchmark(shapes).plan(None, EvaluationConfig())
    labels = [label for label in plan.attacks if not label.endswith(strength.TWICE)]
    assert list(plan.attacks) == [name for label in labels for name in (label, label + strength.TWICE)]
    assert {plan.attacks[label].tier for label in labels} <= {"T1", "T2", "T3"}
    assert all(AttackFacts.of(plan.attacks[label]).searches for label in labels)
    assert not {**plan.utility, **plan.probes, **plan.erased}
    assert plan.control is None
    assert len(plan.plain) == 1
    with pytest.raises(ValueError, match=r"expected text attacks with a budget, one of paraphrase, .*'none'"):
        strength.StrengthBenchmark(shapes, ("none",)).plan(None, EvaluationConfig())
