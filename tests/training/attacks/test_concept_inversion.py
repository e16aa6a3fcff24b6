"""Concept inversion: the token takes the place of the concept's words, is learned on the other half, and helps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import (
    PROMPTS,
    assert_same,
    assert_seeds_decide,
    counted,
    ids_of,
    make_cases,
    make_target,
    planted,
    tensors,
)
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, ConceptInversion
from robust_encoders.training.attacks.common.norm_bound import largest_norm
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Case

SMALL = ConceptInversion(("circle",), tokens=2, steps=3, batch=2)


@pytest.fixture
def target(tiny_pipe: Any) -> TargetModel:
    return make_target(tiny_pipe)


def token_rows(target: TargetModel, result: AttackResult, before: int) -> Tensor:
    """The K embeddings (K, D) that stand after ``before`` tokens of the prompt."""
    return tensors(result)[0, 1 + before : 1 + before + SMALL.tokens]


def test_the_token_stands_for_the_word_and_all_else_stays(target: TargetModel) -> None:
    cases = make_cases(target, ["a red circle on black", "Circle, circle", "a blue square"])
    found = SMALL.run(target, cases, seed=0)
    for case, result, pieces in zip(
        cases, found, [("a red", "on black"), ("", ",", ""), ("", "a blue square")], strict=True
    ):
        plain = target.tokenize([case.prompt])[0]
        embeds, place = tensors(result)[0], 1
        assert torch.equal(embeds[0], target.embed(plain)[0])
        for number, piece in enumerate(pieces):
            words = torch.tensor(ids_of(target, piece), dtype=torch.long)
            torch.testing.assert_close(embeds[place : place + len(words)], target.embed(words))
            place += len(words)
            if number < len(pieces) - 1:
                assert torch.equal(
                    embeds[place : place + 2], token_rows(target, result, len(ids_of(target, pieces[0])))
                )
                place += 2
        assert torch.equal(embeds[place:], target.embed(target.tokenize([""])[0])[1:][: len(embeds) - place])


def test_one_token_per_half_that_never_saw_its_cases(target: TargetModel) -> None:
    cases = make_cases(target, ["circle"] * 5)
    rows = [token_rows(target, result, 0) for result in SMALL.run(target, cases, seed=0)]
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0], rows[4])
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[0], rows[1])
    assert cases[0].reference_latent is not None
    other = dataclasses.replace(cases[0], reference_latent=-cases[0].reference_latent)
    attack = dataclasses.replace(SMALL, batch=3)
    first, changed = (
        [token_rows(target, result, 0) for result in attack.run(target, part, seed=0)]
        for part in (cases, [other, *cases[1:]])
    )
    assert torch.equal(changed[0], first[0])
    assert not torch.equal(changed[1], first[1])


def test_it_learns_what_the_model_denoises_well_for(make_pipe: Any) -> None:
    target, _ = planted(make_pipe, "a striped ball")
    goal = target.unet.goal
    cases = make_cases(target, ["a striped circle", "a circle", "striped circle", "circle"])

    @torch.no_grad()
    def distance(steps: int) -> float:
        attack = ConceptInversion(("circle",), steps=steps, rate=0.05, bound=None)
        with torch.enable_grad():
            results = attack.run(target, cases, seed=1)
        embeds = torch.cat([tensors(result) for result in results])
        ids = target.tokenize(["circle"]).expand(len(cases), -1)
        return float((target.encode(embeds, ids) - goal).square().mean())

    assert distance(40) < 0.8 * distance(1)


def test_the_reported_cost_is_what_the_unet_did(target: TargetModel) -> None:
    with counted(target) as sizes:
        results = SMALL.run(target, make_cases(target, [*PROMPTS, "a star"]), seed=0)
    assert sum(result.unet_calls for result in results) == 2 * sum(sizes)
    assert max(r.unet_calls for r in results) - min(r.unet_calls for r in results) <= 1


def test_seeds_decide_and_nothing_else_does(target: TargetModel) -> None:
    assert_seeds_decide(SMALL, target, make_cases(target))


def test_the_size_of_a_step_is_that_of_the_half_where_it_is_smaller(target: TargetModel) -> None:
    cases = make_cases(target)
    assert_same(
        dataclasses.replace(SMALL, batch=9).run(target, cases, seed=0),
        dataclasses.replace(SMALL, batch=2).run(target, cases, seed=0),
    )


def test_each_group_has_a_token_of_its_own_within_the_bound(target: TargetModel) -> None:
    attack = dataclasses.replace(SMALL, groups=3, rate=0.5, bound=0.7)
    cases = make_cases(target, ["circle"] * 5)
    found = attack.run(target, cases, seed=0)
    assert attack.clusters(5) == (0, 1, 2, 0, 1)
    rows = torch.stack([token_rows(target, result, 0) for result in found])
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 3
    sizes = rows.norm(dim=-1).amax(1) / largest_norm(target)
    torch.testing.assert_close(sizes, torch.tensor([result.candidates[0].norm for result in found]))
    assert float(sizes.max()) == pytest.approx(0.7)
    assert (attack.tier, dataclasses.replace(attack, bound=None).tier) == ("T4", "T7")


def test_the_model_is_left_as_it_was(target: TargetModel) -> None:
    before = {name: tensor.clone() for name, tensor in target.text_encoder.state_dict().items()}
    SMALL.run(target, make_cases(target), seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.text_encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in target.text_encoder.parameters())


@pytest.mark.parametrize(
    "change",
    [{"words": ()}, {"words": ("",)}, {"steps": 0}, {"tokens": 0}, {"rate": 0.0}, {"groups": 1}, {"bound": 0.0}],
)
def test_bad_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(SMALL, **change)


def test_what_does_not_fit_is_refused(target: TargetModel) -> None:
    with pytest.raises(ValueError, match="at least 2 cases"):
        SMALL.run(target, make_cases(target)[:1], seed=0)
    with pytest.raises(ValueError, match="learn fewer tokens"):
        dataclasses.replace(SMALL, tokens=20).run(target, make_cases(target), seed=0)
    with pytest.raises(ValueError, match="expected a reference latent in every case"):
        SMALL.run(target, [Case(i, "circle", seed=i) for i in (0, 1)], seed=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["concept_inversion"] is ConceptInversion
    assert isinstance(SMALL, Attack)
    assert SMALL.joint
    assert ConceptInversion.standard(["circle", "disc"]).words == ("circle", "disc")
