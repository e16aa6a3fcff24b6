"""Ring-A-Bell: the direction by hand, a distance that never rises, and no look at the model under attack."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import (
    PROMPTS,
    assert_alone_is_together,
    assert_same,
    assert_seeds_decide,
    counted,
    ids_of,
    make_cases,
    make_target,
    texts,
)
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks import ATTACKS, RingABell
from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS

PAIRS = (("a red circle", "a red square"), ("circle on black", "square on black"))
SMALL = RingABell(PAIRS, tokens=3, population=8, generations=4, every=2)


@pytest.fixture
def target(make_pipe: Any) -> TargetModel:
    pipe = make_pipe().to(torch.float64)
    pipe.text_encoder.get_input_embeddings().weight.data.mul_(50)
    return make_target(pipe)


@torch.no_grad()
def distances(attack: RingABell, target: TargetModel, prompt: str, found: list[str]) -> Tensor:
    """How far (B,) texts lie from a prompt with the concept added, by hand."""
    shift = torch.stack([target.condition([a])[0] - target.condition([b])[0] for a, b in attack.pairs]).mean(0)
    goal = target.condition([prompt])[0] + attack.eta * shift
    squares: Tensor = (target.condition(found) - goal).square().sum((1, 2))
    return squares


def test_the_published_settings_are_the_default() -> None:
    attack = RingABell(PAIRS)
    assert (attack.tokens, attack.eta, attack.population, attack.generations) == (16, 3.0, 200, 3000)
    assert attack.mutation == 0.25


def test_the_direction_is_the_mean_difference(target: TargetModel) -> None:
    with torch.no_grad():
        by_hand = sum(target.condition([a])[0] - target.condition([b])[0] for a, b in PAIRS) / 2
    torch.testing.assert_close(SMALL.direction(target), by_hand)


def test_pairs_come_from_a_concepts_captions_against_its_anchor() -> None:
    attack = RingABell.for_concept(CONCEPTS["circle"], n=10, tokens=5)
    assert (len(attack.pairs), attack.tokens) == (10, 5)
    for with_it, without in attack.pairs:
        assert {"circle", "disc", "ball"} & set(with_it.replace(",", "").split())
        assert "square" in without.replace(",", "").split()
        assert len(with_it.split()) == len(without.split())


def test_longer_searches_come_nearer_and_never_go_back(target: TargetModel) -> None:
    attack = RingABell(PAIRS, tokens=3, population=40, generations=20, every=5, typable=True)
    words = [target.tokenizer.decode([token]) for token in allowed_tokens(target, typable=True)]
    picks = torch.randint(len(words), (400, 3), generator=torch.Generator().manual_seed(9)).tolist()
    for case, result in zip(make_cases(target), attack.run(target, make_cases(target), seed=0), strict=True):
        found = distances(attack, target, case.prompt, texts(result))
        assert (found.diff() <= 0).all()
        random = distances(attack, target, case.prompt, [" ".join(words[i] for i in row) for row in picks])
        assert found[-1] < random.quantile(0.01)


def test_the_best_sequence_survives_even_if_all_others_mutate(target: TargetModel) -> None:
    attack = dataclasses.replace(SMALL, generations=12, every=1, mutation=1.0, typable=True)
    for case, result in zip(make_cases(target), attack.run(target, make_cases(target), seed=0), strict=True):
        assert (distances(attack, target, case.prompt, texts(result)[1:]).diff() <= 0).all()


def test_candidates_are_typed_token_sequences(target: TargetModel) -> None:
    attack = dataclasses.replace(SMALL, typable=True)
    for result in attack.run(target, make_cases(target), seed=0):
        assert [c.step for c in result.candidates] == [0, 2, 4]
        empty, *found = texts(result)
        assert empty == ""
        for text in found:
            ids = ids_of(target, text)
            assert len(ids) == 3
            assert set(ids) <= set(allowed_tokens(target, typable=True).tolist())


def test_it_looks_at_the_base_alone(make_pipe: Any) -> None:
    base, other = make_pipe(), make_pipe(seed=3)
    cases = make_cases(make_target(base))
    targets = [make_target(base), make_target(other, base)]
    with counted(targets[0]) as sizes, counted(targets[1]) as others:
        found = [SMALL.run(target, cases, seed=0) for target in targets]
    assert sizes == others == []
    assert_same(found[0], found[1])
    assert all(result.queries == result.unet_calls == 0 for result in found[0])


def test_a_batch_equals_its_cases_one_by_one(target: TargetModel) -> None:
    assert_alone_is_together(SMALL, target, make_cases(target), one=dataclasses.replace(SMALL, batch=1))


def test_seeds_decide_and_nothing_else_does(target: TargetModel) -> None:
    assert_seeds_decide(SMALL, target, make_cases(target))


def test_no_target_latents_are_needed(target: TargetModel) -> None:
    assert len(SMALL.run(target, [Case(0, PROMPTS[0], seed=0)], seed=0)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": ()}, "pairs of two different prompts"),
        ({"pairs": (("a", "a"),)}, "pairs of two different prompts"),
        ({"tokens": 0}, "at least 1"),
        ({"every": 5}, "every up to generations"),
        ({"population": 7}, "even population"),
        ({"mutation": 1.5}, "mutation in"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_does_not_fit_is_refused(target: TargetModel, tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="at most 22 tokens, found 23"):
        dataclasses.replace(SMALL, tokens=23).run(target, make_cases(target), seed=0)
    with pytest.raises(ValueError, match="model before the erasure"):
        SMALL.run(TargetModel.from_pipeline(tiny_pipe), make_cases(target), seed=0)
    with pytest.raises(ValueError, match="pairs of two different prompts"):
        RingABell.for_concept(Concept(name="circle", kind="object"))


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["ring_a_bell"] is RingABell
    assert isinstance(SMALL, Attack)
