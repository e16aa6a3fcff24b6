"""P4D: it makes the target say what the base says, with real tokens, and no case sees its neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import (
    PROMPTS,
    assert_alone_is_together,
    assert_seeds_decide,
    counted,
    ids_of,
    make_cases,
    make_target,
    planted,
    texts,
)

from robust_encoders.training.attacks import ATTACKS, P4D
from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case


@pytest.fixture
def target(tiny_pipe: Any) -> TargetModel:
    return make_target(tiny_pipe)


def test_the_published_settings_are_the_default() -> None:
    attack = P4D()
    assert (attack.tokens, attack.placement, attack.steps, attack.every) == (16, "replace", 3000, 50)
    assert (attack.rate, attack.weight_decay) == (0.1, 0.1)
    assert len(range(0, P4D.standard().steps, P4D.standard().every)) == 10


def test_candidates_are_texts_of_the_placement(target: TargetModel) -> None:
    cases = make_cases(target)
    for placement in ("replace", "prefix", "insert"):
        attack = P4D(tokens=3, placement=placement, steps=5, every=2, typable=True)
        for case, result in zip(cases, attack.run(target, cases, seed=0), strict=True):
            first = [0] if placement == "replace" else []
            assert [c.step for c in result.candidates] == [*first, 2, 4]
            assert ("" in texts(result)) == (placement == "replace"), "the empty prompt is one more candidate"
            for text in texts(result)[len(first) :]:
                plain, found = ids_of(target, case.prompt), ids_of(target, text)
                assert len(found) == 3 + (0 if placement == "replace" else len(plain))
                if placement == "prefix":
                    assert found[3:] == plain
                if placement == "insert":
                    rest = iter(found)
                    assert all(token in rest for token in plain), "the prompt's tokens stay, in their order"


def test_only_typable_or_only_ordinary_tokens(target: TargetModel) -> None:
    for typable in (True, False):
        allowed = set(allowed_tokens(target, typable=typable).tolist())
        result = P4D(tokens=2, steps=4, every=1, typable=typable).run(target, make_cases(target)[:1], seed=0)[0]
        if typable:
            assert all(set(ids_of(target, text)) <= allowed for text in texts(result))
        assert not any("<|" in text for text in texts(result))


def test_the_reported_cost_is_what_the_unet_did(target: TargetModel) -> None:
    attack = P4D(tokens=2, steps=3, every=3)
    with counted(target) as sizes:
        results = attack.run(target, make_cases(target), seed=0)
    backwards = 3 * len(PROMPTS)
    assert sum(result.unet_calls for result in results) == sum(sizes) + backwards


def test_a_batch_equals_its_cases_one_by_one(make_pipe: Any) -> None:
    target = make_target(make_pipe().to(torch.float64))
    attack = P4D(tokens=2, steps=4, every=2)
    assert_alone_is_together(attack, target, make_cases(target), one=dataclasses.replace(attack, batch=1))


def test_seeds_decide_and_nothing_else_does(target: TargetModel) -> None:
    assert_seeds_decide(P4D(tokens=2, steps=3, every=3), target, make_cases(target))


def test_the_search_finds_a_prompt_of_which_the_target_says_the_same(make_pipe: Any) -> None:
    prompt = "striped ball round circle"
    target, distances = planted(make_pipe, prompt)
    attack = P4D(tokens=4, steps=60, every=20, typable=True)
    results = attack.run(target, make_cases(target, [prompt] * 3), seed=0)
    words = [target.tokenizer.decode([token]) for token in allowed_tokens(target, typable=True)]
    picks = torch.randint(len(words), (400, 4), generator=torch.Generator().manual_seed(9)).tolist()
    random = distances([" ".join(words[i] for i in row) for row in picks])
    found = torch.stack([distances(texts(result)).min() for result in results])
    assert found.max() < random.quantile(0.02)


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_it_compares_with_the_base_not_with_the_target(make_pipe: Any, part: str) -> None:
    """With another encoder or UNet of the base the same seeds lead elsewhere; the target's own would not notice."""
    pipe, base, other = make_pipe(), make_pipe(), make_pipe(seed=5)
    for one in (pipe, base, other):
        one.text_encoder.get_input_embeddings().weight.data.mul_(50)
    setattr(base, part, getattr(other, part))
    attack = P4D(tokens=3, steps=6, every=6)
    cases = make_cases(make_target(pipe))
    own, foreign = ([texts(r) for r in attack.run(make_target(pipe, one), cases, seed=0)] for one in (pipe, base))
    assert own != foreign


def test_both_models_are_left_as_they_were(target: TargetModel) -> None:
    before = {name: tensor.clone() for name, tensor in target.text_encoder.state_dict().items()}
    P4D(tokens=2, steps=2, every=1).run(target, make_cases(target), seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.text_encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in target.text_encoder.parameters())


def test_what_it_cannot_do_is_refused(target: TargetModel, tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        P4D(tokens=0)
    with pytest.raises(ValueError, match="every up to steps"):
        P4D(steps=10, every=20)
    with pytest.raises(ValueError, match="sums of embeddings are no prompt"):
        P4D(placement="add")
    with pytest.raises(ValueError, match="none in cases"):
        P4D(tokens=2).run(target, [Case(0, "a", seed=0)], seed=0)
    with pytest.raises(ValueError, match="fewer adversarial tokens"):
        P4D(tokens=23).run(target, make_cases(target), seed=0)
    with pytest.raises(ValueError, match="model before the erasure"):
        P4D(tokens=2).run(TargetModel.from_pipeline(tiny_pipe), make_cases(target), seed=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["p4d"] is P4D
    assert isinstance(P4D(), Attack)
