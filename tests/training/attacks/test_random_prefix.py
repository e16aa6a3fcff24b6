"""Random prefixes: typable, independent, the same for the same seeds, and blind to the model."""

from __future__ import annotations

from typing import Any

import pytest

from robust_encoders.training.attacks import RandomPrefix
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.types import Case

CASES = [Case(i, "a red circle", seed=10 + i) for i in range(3)]


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def texts(attack: RandomPrefix, backbone: Backbone, cases: list[Case], seed: int = 0) -> list[list[str]]:
    return [[str(c.value) for c in result.candidates] for result in attack.run(backbone, cases, seed=seed)]


def test_each_case_gets_its_own_prefixes_of_the_right_length_before_its_prompt(backbone: Backbone) -> None:
    found = texts(RandomPrefix(tokens=2, candidates=20), backbone, CASES)
    assert [len(row) for row in found] == [20, 20, 20]
    assert all(text.endswith(" a red circle") for row in found for text in row)
    assert len({tuple(row) for row in found}) == 3
    assert len(set(found[0])) > 10
    plain = len(backbone.tokenizer("a red circle", add_special_tokens=False).input_ids)
    lengths = {len(backbone.tokenizer(t, add_special_tokens=False).input_ids) for row in found for t in row}
    assert lengths == {plain + 2}, "what was drawn is what a user would type"


def test_a_case_depends_on_its_seed_and_the_runs_alone(backbone: Backbone) -> None:
    attack = RandomPrefix(candidates=3)
    alone, together = texts(attack, backbone, CASES[1:2]), texts(attack, backbone, CASES)
    assert alone == together[1:2]
    assert texts(attack, backbone, CASES, seed=1) != together


def test_it_costs_no_look_at_the_model(backbone: Backbone) -> None:
    assert all(r.unet_calls == r.queries == 0 for r in RandomPrefix().run(backbone, CASES, seed=0))


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"candidates": 0}])
def test_nothing_to_try_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RandomPrefix(**wrong)
