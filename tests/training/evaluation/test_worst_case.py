"""The worst case is the union prompt by prompt, and refuses what cannot be joined."""

from __future__ import annotations

import pytest

from robust_encoders.training.evaluation.worst_case import WorstCase, union
from robust_encoders.training.types import Verdict


def verdicts(*won: bool, seed: int = 0) -> list[Verdict]:
    return [Verdict(i, f"prompt {i}", seed + i, False, one, one, 1 if one else None) for i, one in enumerate(won)]


def test_a_prompt_is_lost_if_any_attack_wins_it() -> None:
    found = {"a": verdicts(True, False, False), "b": verdicts(False, False, True), "c": verdicts(True, True, True)}
    assert union(found, ("a", "b")) == [True, False, True]
    assert union(found, ("b",)) == [False, False, True]


def test_it_is_never_below_any_of_its_attacks() -> None:
    found = {"a": verdicts(True, False, True, False), "b": verdicts(False, False, True, True)}
    assert sum(union(found, ("a", "b"))) >= max(sum(v.any for v in row) for row in found.values())


def test_missing_attacks_other_prompts_and_empty_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="found none on b"):
        union({"a": verdicts(True)}, ("a", "b"))
    with pytest.raises(ValueError, match="the same prompts and seeds under a, b"):
        union({"a": verdicts(True), "b": verdicts(True, seed=5)}, ("a", "b"))
    with pytest.raises(ValueError, match="at least one attack"):
        WorstCase(())
    assert union({}, ()) == []
