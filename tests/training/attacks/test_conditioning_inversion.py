"""Conditioning inversion: the base's answer from the attacked encoder, inside a ball, without the UNet."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import assert_alone_is_together, assert_seeds_decide, counted, make_cases, make_target, tensors
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, ConditioningInversion
from robust_encoders.training.attacks.common.norm_bound import largest_norm
from robust_encoders.training.attacks.common.seen_distance import cosine_distance, seen_distance
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Case
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS

SMALL = ConditioningInversion(("circle",), tokens=4, steps=30, restarts=1, rate=0.01)


@pytest.fixture
def target(make_pipe: Any) -> TargetModel:
    """An encoder of other weights than the base's, with the base's UNet."""
    pipe, base = make_pipe(seed=1), make_pipe()
    pipe.unet = base.unet
    for one in (pipe, base):
        one.text_encoder.get_input_embeddings().weight.data.mul_(10)
    return make_target(pipe, base)


@torch.no_grad()
def seen(target: TargetModel, cases: list[Case], found: list[AttackResult], place: int = 0) -> Tensor:
    """How far (B,) the attacked encoder's answers are from what the base says of the prompts, for the UNet."""
    embeds = torch.stack([tensors(result)[place] for result in found])
    answers = target.encode(embeds, target.tokenize([""] * len(cases)))
    goal = target.base.condition([case.wanted for case in cases])
    return torch.stack(
        [
            sum((row @ gram @ row for row in a - b), torch.zeros(()))
            / sum((row @ gram @ row for row in b), torch.zeros(()))
            for a, b in zip(answers, goal, strict=True)
            for gram in [target.text_gram().float()]
        ]
    )


@pytest.mark.parametrize("place", ["prompt", "words", "all"])
@pytest.mark.parametrize("space", ["unet", "cosine"])
def test_it_comes_nearer_to_the_bases_answer(target: TargetModel, place: Any, space: Any) -> None:
    cases = make_cases(target)
    attack = dataclasses.replace(SMALL, place=place, spaces=(space,))
    few = dataclasses.replace(attack, steps=1)
    found, start = (one.run(target, cases, seed=0) for one in (attack, few))
    assert seen(target, cases, found).mean() < 0.9 * seen(target, cases, start).mean()


def test_the_unet_is_not_called_and_nothing_is_changed(target: TargetModel) -> None:
    before = {name: tensor.clone() for name, tensor in target.text_encoder.state_dict().items()}
    with counted(target) as sizes, counted(target.base) as others:
        found = SMALL.run(target, make_cases(target), seed=0)
    assert sizes == others == []
    assert all((result.queries, result.unet_calls) == (0, 0) for result in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.text_encoder.state_dict().items())


def test_restarts_of_both_distances_come_nearest_first(target: TargetModel) -> None:
    cases = make_cases(target)
    found = dataclasses.replace(SMALL, restarts=2, steps=3).run(target, cases, seed=0)
    assert all(len(result.candidates) == 4 for result in found)
    assert {c.step for c in found[0].candidates} == {12}
    distances = torch.stack([seen(target, cases, found, place) for place in range(4)])
    assert (distances.diff(dim=0) >= 0).all()
    assert (distances.diff(dim=0) > 0).any()


@pytest.mark.parametrize("bound", [0.3, 1.0, 3.0])
def test_the_ball_holds_at_every_bound(target: TargetModel, bound: float) -> None:
    attack = dataclasses.replace(SMALL, bound=bound, rate=5.0)
    assert attack.tier == "T4"
    for result in attack.run(target, make_cases(target), seed=0):
        for candidate, embeds in zip(result.candidates, tensors(result), strict=True):
            largest = float(embeds[1:5].norm(dim=-1).max()) / largest_norm(target)
            assert candidate.norm == pytest.approx(largest, rel=1e-5)
            assert largest <= bound * (1 + 1e-5)


def test_without_a_bound_it_goes_further_and_is_of_another_tier(target: TargetModel) -> None:
    attack = dataclasses.replace(SMALL, bound=None, rate=5.0)
    assert attack.tier == dataclasses.replace(SMALL, bound=11.0).tier == "T7"
    assert dataclasses.replace(SMALL, bound=10.0).tier == "T4"
    assert max(c.norm or 0 for r in attack.run(target, make_cases(target), seed=0) for c in r.candidates) > 3


def test_only_the_slots_are_free(target: TargetModel) -> None:
    case = Case(0, "a red circle on black", seed=1)
    plain = target.embed(target.tokenize(["a red", "on black", ""]))
    rows = {
        place: dataclasses.replace(SMALL, place=place).run(target, [case], seed=0)[0] for place in ("prompt", "words")
    }
    whole, words = tensors(rows["prompt"])[0], tensors(rows["words"])[0]
    torch.testing.assert_close(whole[5:], plain[2][1:-4])
    torch.testing.assert_close(words[1:3], plain[0][1:3])
    torch.testing.assert_close(words[7:9], plain[1][1:3])
    everywhere = tensors(dataclasses.replace(SMALL, place="all").run(target, [case], seed=0)[0])[0]
    assert torch.equal(everywhere[[0, -1]], plain[2][[0, -1]])


def test_a_goal_is_what_is_looked_for(target: TargetModel) -> None:
    named, hidden = Case(0, "a circle", seed=1), Case(0, "a picture", seed=1, goal="a circle")
    one, other = (SMALL.run(target, [case], seed=0)[0] for case in (named, hidden))
    assert torch.equal(tensors(one), tensors(other))


def test_distances_are_what_their_formulas_say() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, 4, generator=rng)
    half = torch.randn(4, 4, generator=rng)
    gram = half.T @ half
    by_hand = [
        sum((half @ d).square().sum() for d in x - y) / sum((half @ w).square().sum() for w in y)
        for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(seen_distance(a, b, gram), torch.tensor([float(v) for v in by_hand]))
    cosines = [
        [float(x @ y / (x.norm() * y.norm())) for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(cosine_distance(a, b, gram), torch.tensor([1 - sum(row) / 3 for row in cosines]))
    assert float(seen_distance(b, b, gram).max()) == 0
    torch.testing.assert_close(seen_distance(0 * b, b, gram), torch.ones(2))


def test_a_batch_equals_its_cases_one_by_one_and_seeds_decide(make_pipe: Any) -> None:
    target = make_target(make_pipe().to(torch.float64))
    attack = dataclasses.replace(SMALL, steps=3)
    assert_alone_is_together(attack, target, make_cases(target), one=dataclasses.replace(attack, batch=1))
    assert_seeds_decide(attack, target, make_cases(target))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"rate": 0.0}, "rate above 0"),
        ({"bound": -1.0}, "expected a bound above 0"),
        ({"place": "nowhere"}, "expected a place among"),
        ({"spaces": ()}, "spaces among"),
        ({"spaces": ("l2",)}, "spaces among"),
        ({"place": "words", "words": ()}, "name the words to replace"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_does_not_fit_is_refused(target: TargetModel, tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="model before the erasure"):
        SMALL.run(TargetModel.from_pipeline(tiny_pipe), make_cases(target), seed=0)
    with pytest.raises(ValueError, match="learn fewer tokens"):
        dataclasses.replace(SMALL, tokens=30).run(target, make_cases(target), seed=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["conditioning_inversion"] is ConditioningInversion
    assert isinstance(SMALL, Attack)
    assert ConditioningInversion.for_concept(CONCEPTS["circle"]).words == CONCEPTS["circle"].words()
