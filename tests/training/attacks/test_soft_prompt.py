from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.protocols import InnerAttack

GENERATOR = torch.Generator()
START = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))


def bowl(adv: Tensor) -> Tensor:
    return (adv - 1).square().flatten(1).sum(1)


def test_it_is_an_attack() -> None:
    assert isinstance(SoftPrompt(), InnerAttack)


@pytest.mark.parametrize("rule", ["adam", "sign"])
def test_the_loss_falls_for_every_example(rule: Literal["adam", "sign"]) -> None:
    attack = SoftPrompt(steps=20, rate=0.05, rule=rule)
    found = attack(bowl, START, generator=GENERATOR)
    assert bool((bowl(found) < 0.5 * bowl(START)).all())
    assert not found.requires_grad


@pytest.mark.parametrize("steps", [1, 3])
def test_the_sign_rule_moves_every_coordinate_by_the_rate(steps: int) -> None:
    found = SoftPrompt(steps=steps, rate=0.25, rule="sign")(lambda x: x.flatten(1).sum(1), START, generator=GENERATOR)
    torch.testing.assert_close(found, START - 0.25 * steps)


def test_fast_is_one_sign_step_that_perturbs() -> None:
    attack = SoftPrompt.fast(0.5)
    assert (attack.steps, attack.rule) == (1, "sign")
    found = attack(bowl, START, generator=GENERATOR)
    torch.testing.assert_close((found - START).abs(), torch.full_like(START, 0.5))


def test_adam_agrees_with_a_naive_loop() -> None:
    x, m, v = START.clone(), torch.zeros_like(START), torch.zeros_like(START)
    for i in range(1, 6):
        gradient = 2 * (x - 1)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.square()
        x = x - 0.01 * (m / (1 - 0.9**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
    found = SoftPrompt(steps=5, rate=0.01)(bowl, START, generator=GENERATOR)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["adam", "sign"])
def test_examples_are_attacked_on_their_own(rule: Literal["adam", "sign"]) -> None:
    attack = SoftPrompt(steps=4, rate=0.1, rule=rule)
    together = attack(bowl, START, generator=GENERATOR)
    alone = torch.cat([attack(bowl, START[i : i + 1], generator=GENERATOR) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_the_start_and_parameters_in_the_loss_are_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    start = START.clone()
    SoftPrompt(steps=2, rate=0.1)(lambda x: (x * weight).flatten(1).sum(1), start, generator=GENERATOR)
    assert weight.grad is None
    assert torch.equal(start, START)


@pytest.mark.parametrize("make", [lambda: SoftPrompt(steps=0), lambda: SoftPrompt(rate=0.0)])
def test_settings_without_effect_are_refused(make: Callable[[], SoftPrompt]) -> None:
    with pytest.raises(ValueError, match="expected steps >= 1, rate > 0"):
        make()
