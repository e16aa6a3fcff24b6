"""Adam with moments in bfloat16 does what Adam does, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, nn

from robust_encoders.training.trainer.bf16_adam import BFloat16Adam, stochastically_rounded


def test_rounding_is_to_a_neighbour_and_right_on_average() -> None:
    for value in (1.0 + 1 / 512, -3.0041, 2e-12, 7.7e20):
        rounded = stochastically_rounded(torch.full((200_000,), value), Generator().manual_seed(0)).double()
        below, above = sorted(set(rounded.tolist()))
        assert below < torch.tensor(value).double() < above
        assert above - below <= abs(value) / 128
        assert float(rounded.mean()) == pytest.approx(value, abs=6 * (above - below) / 200_000**0.5)


@pytest.mark.parametrize("value", [0.0, 1.5, -0.25, 2.0**-126])
def test_what_bfloat16_holds_stays_as_it_is(value: float) -> None:
    exact = torch.full((1000,), value)
    assert torch.equal(stochastically_rounded(exact, Generator().manual_seed(0)).float(), exact)


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], n: int) -> None:
    noise = Generator().manual_seed(3)
    for _ in range(n):
        for parameter in parameters:
            parameter.grad = parameter.detach() - 1 + 0.1 * torch.randn(parameter.shape, generator=noise)
        optimizer.step()


def test_parameters_go_where_adam_brings_them() -> None:
    def run(kind: type[torch.optim.AdamW]) -> list[nn.Parameter]:
        chosen = [nn.Parameter(torch.linspace(-2, 2, 64)), nn.Parameter(torch.zeros(8, 8))]
        groups: list[dict[str, Any]] = [{"params": chosen[:1]}, {"params": chosen[1:], "weight_decay": 0.1}]
        steps(kind(groups, lr=0.01), chosen, 100)
        return chosen

    starts = [torch.linspace(-2, 2, 64), torch.zeros(8, 8)]
    for own, usual, start in zip(run(BFloat16Adam), run(torch.optim.AdamW), starts, strict=True):
        distance = (own - usual).norm() / (usual - start).norm()
        assert distance.item() < 0.01


def test_the_second_moment_follows_gradients_that_the_nearest_bfloat16_would_miss() -> None:
    parameter = nn.Parameter(torch.zeros(4096))
    optimizer = BFloat16Adam([parameter], lr=1e-6)
    for _ in range(3000):
        parameter.grad = torch.ones(4096)
        optimizer.step()
    reached = optimizer.state[parameter]["exp_avg_sq"]
    assert reached.dtype == optimizer.state[parameter]["exp_avg"].dtype == torch.bfloat16
    assert float(reached.float().mean()) == pytest.approx(1 - 0.999**3000, rel=0.01)
    nearest = torch.zeros(1)
    for _ in range(3000):
        nearest = torch.lerp(nearest, torch.ones(1), 0.001).bfloat16().float()
    assert float(nearest) < 0.5, "so stochastic rounding is needed"


def test_a_parameter_without_a_gradient_stays_and_the_closure_is_used_once() -> None:
    still, moved = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, calls = BFloat16Adam([still, moved], lr=0.1), []

    def closure() -> float:
        calls.append(1)
        moved.grad = torch.ones(3)
        return 2.0

    assert optimizer.step(closure) == 2.0
    assert (len(calls), still.tolist()) == (1, [1.0, 1.0, 1.0])
    assert float(moved.detach().max()) == pytest.approx(0.9, abs=0.002)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
