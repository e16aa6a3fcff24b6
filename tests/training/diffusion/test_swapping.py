"""A component that is replaced within a scope, and a scheduler made from the pipeline's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.swapping import scheduled

SAMPLING = SamplingConfig(steps=3, guidance=3.0, batch=4)
PROMPTS, SEEDS = ["a red circle", "a star", "a ring"], [1, 2, 3]


def test_another_scheduler_changes_the_pictures_and_is_gone_afterwards(tiny_pipe: Any) -> None:
    own, entry = tiny_pipe.scheduler, tiny_pipe.config["scheduler"]
    before = draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING)
    with scheduled(tiny_pipe, "DPMSolverMultistepScheduler"):
        assert type(tiny_pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
        assert tiny_pipe.scheduler.config.prediction_type == own.config.prediction_type
        assert tiny_pipe.scheduler.config.beta_end == own.config.beta_end
        other = draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING)
    assert tiny_pipe.scheduler is own
    assert tiny_pipe.config["scheduler"] == entry
    assert not torch.equal(before, other)
    assert torch.equal(draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING), before)


def test_no_scheduler_is_no_change(tiny_pipe: Any) -> None:
    own = tiny_pipe.scheduler
    with scheduled(tiny_pipe, ""):
        assert tiny_pipe.scheduler is own


def test_an_error_inside_restores_the_component(tiny_pipe: Any) -> None:
    own = tiny_pipe.scheduler
    with pytest.raises(ValueError, match="one seed for each"), scheduled(tiny_pipe, "DPMSolverMultistepScheduler"):
        draw(tiny_pipe, PROMPTS, [1], SAMPLING)
    assert tiny_pipe.scheduler is own


def test_a_scheduler_that_does_not_fit_is_refused(tiny_pipe: Any) -> None:
    expected = r"expected a scheduler among .*DPMSolverMultistepScheduler.*, found 'Unknown'"
    with pytest.raises(ValueError, match=expected), scheduled(tiny_pipe, "Unknown"):
        draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING)


def test_a_negative_prompt_for_each_picture(tiny_pipe: Any) -> None:
    each = draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING, negative=["a blue ring", "", "red"])
    for row, negative in enumerate(("a blue ring", "", "red")):
        alone = draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING, negative=negative)[row]
        torch.testing.assert_close(each[row], alone, atol=1.5 / 255, rtol=0)  # batches differ by rounding
    assert torch.equal(
        draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING, negative=[""] * 3), draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING)
    )
    with pytest.raises(ValueError, match="expected one negative prompt for each of 3 prompts, found 2"):
        draw(tiny_pipe, PROMPTS, SEEDS, SAMPLING, negative=["", "red"])
