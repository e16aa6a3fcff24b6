from __future__ import annotations

import pytest
import torch

from robust_encoders.training.losses import (
    ConditioningMetric,
    gram_distance,
    negative_guidance_target,
    squared_error,
    weighted_sum,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_target_lies_on_the_other_side_of_the_empty_prompt(eta: float) -> None:
    null, cond = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    target = negative_guidance_target(null.half(), cond.half(), eta)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, (1 + eta) * null - eta * cond, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(negative_guidance_target(null, cond, 0.0), null)


def test_squared_error_is_per_example() -> None:
    a, b = random(3, 2, 5), random(3, 2, 5, seed=1)
    naive = [sum((x - y) ** 2 for x, y in zip(r.tolist(), s.tolist(), strict=True)) / 10
             for r, s in zip(a.flatten(1), b.flatten(1), strict=True)]  # fmt: skip
    torch.testing.assert_close(squared_error(a, b), torch.tensor(naive))


def test_squared_error_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match=r"expected a target of shape \(3, 2\), found \(1, 2\)"):
        squared_error(random(3, 2), random(1, 2))


def test_gram_distance_agrees_with_a_naive_loop() -> None:
    a, b, w = random(2, 3, 4), random(2, 3, 4, seed=1), random(5, 4, seed=2)
    naive = [sum(float((w @ (a[i, p] - b[i, p])).square().sum()) for p in range(3)) / 3 for i in range(2)]
    torch.testing.assert_close(gram_distance(a, b, w.T @ w), torch.tensor(naive))


def test_metric_puts_prompts_one_unit_from_the_empty_prompt() -> None:
    conditionings, null, w = random(6, 3, 4), random(1, 3, 4, seed=1), random(5, 4, seed=2)
    metric = ConditioningMetric.fit((w.T @ w).double(), conditionings, null, unit=0.02)
    distances = metric(conditionings, null.expand_as(conditionings))
    assert distances.shape == (6,)
    assert float(distances.mean()) == pytest.approx(0.02, rel=1e-5)
    assert float(metric(conditionings, conditionings).abs().max()) == 0


def test_metric_needs_prompts_that_differ() -> None:
    null = random(1, 3, 4)
    with pytest.raises(ValueError, match="found none"):
        ConditioningMetric.fit(torch.eye(4), null.repeat(2, 1, 1), null)


def test_weighted_sum_logs_unweighted_means() -> None:
    terms = {"a": (2.0, torch.tensor([1.0, 3.0])), "b": (0.5, torch.tensor([4.0]))}
    total, parts = weighted_sum(terms)
    assert float(total) == 2 * 2 + 0.5 * 4
    assert parts == {"a": 2.0, "b": 4.0}
