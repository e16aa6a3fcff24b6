"""The learning rate of the base's build: one cosine, or two with a warm restart."""

from __future__ import annotations

import pytest

from robust_encoders.training.worlds.pretrain.loop import Schedule


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
