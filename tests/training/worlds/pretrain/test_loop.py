"""The learning rate of the base's build: one cosine, or two with a warm restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import Linear

from robust_encoders.training.worlds.pretrain.loop import Schedule, fit


def test_one_cycle_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=1000, rate=2.0)
    assert schedule.rate_at(0) == pytest.approx(0.02)
    assert schedule.rate_at(500) == pytest.approx(1.0)
    assert schedule.rate_at(999) < 1e-4
    rates = [schedule.rate_at(step) for step in range(100, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_a_restart_changes_nothing_before_it_and_begins_a_second_cycle_at_half_the_rate() -> None:
    whole, longer = Schedule(steps=600, rate=2.0), Schedule(steps=1000, rate=2.0, restart=600)
    assert [longer.rate_at(step) for step in range(600)] == [whole.rate_at(step) for step in range(600)]
    assert longer.rate_at(600) == pytest.approx(0.01)
    assert longer.rate_at(800) == pytest.approx(0.5)
    assert longer.rate_at(999) < 1e-4


def test_a_part_of_the_schedule_warms_up_again_and_then_follows_the_whole() -> None:
    schedule = Schedule(steps=1000, rate=2.0)
    assert schedule.rate_at(400, 400) == pytest.approx(schedule.rate_at(400) / 100)
    assert [schedule.rate_at(step, 400) for step in range(499, 1000)] == [
        schedule.rate_at(step) for step in range(499, 1000)
    ]


def test_a_part_runs_its_own_steps_from_the_weights_that_it_is_given(tmp_path: Path) -> None:
    seen: list[int] = []

    def trained(folder: Path, span: tuple[int, int] | None) -> Linear:
        torch.manual_seed(0)
        layer = Linear(2, 1)

        def loss(generator: Generator) -> Tensor:
            seen.append(generator.initial_seed())
            value: Tensor = layer(torch.randn((4, 2), generator=generator)).square().mean()
            return value

        fit(layer, loss, Schedule(steps=6, rate=0.1, every=2), folder, seed=0, label="layer", span=span)
        return layer

    trained(tmp_path / "whole", None)
    assert seen == [0, 1, 2, 3, 4, 5]
    seen.clear()
    part = trained(tmp_path / "part", (2, 5))
    assert seen == [2, 3, 4]
    seen.clear()
    again = trained(tmp_path / "part", (2, 5))
    assert not seen
    assert torch.equal(part.weight, again.weight)
