"""No attack: the prompt as it is."""

from __future__ import annotations

from typing import Any

from attack_helpers import make_target

from robust_encoders.training.attacks import ATTACKS, NoAttack
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Candidate, Case

CASES = [Case(0, "a red circle", 7), Case(1, "a blue one", 8, goal="a blue circle")]


def test_every_prompt_is_its_only_candidate_even_where_the_goal_is_another(tiny_pipe: Any) -> None:
    expected = [AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0) for case in CASES]
    assert NoAttack().run(make_target(tiny_pipe), CASES, seed=0) == expected


def test_registered_as_no_access_at_all() -> None:
    assert ATTACKS["none"] is NoAttack
    assert isinstance(NoAttack(), Attack)
    assert NoAttack.tier == "T0"
    assert not NoAttack.joint
