"""The screen: which pictures are covered, and what the page says about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from studios import Brightness, safety_checker

from robust_encoders.training.app.screen import Screen, covered


@pytest.fixture
def images() -> torch.Tensor:
    return torch.stack([torch.full((3, 32, 32), 0.1), torch.full((3, 32, 32), 0.9)])


@pytest.mark.parametrize(("threshold", "found"), [(-2.0, "the safety checker"), (2.0, "")])
def test_the_safety_checker_is_asked_and_its_pictures_are_not_changed(
    images: torch.Tensor, threshold: float, found: str
) -> None:
    before = images.clone()
    assert Screen(*safety_checker(threshold)).reasons(images) == [found, found]
    assert torch.equal(images, before)


def test_every_judge_is_named_that_found_something(images: torch.Tensor) -> None:
    screen = Screen(*safety_checker(-2.0), detectors=(("nudity", Brightness(0.5)),))
    assert screen.reasons(images) == ["the safety checker", "the safety checker and the judge of nudity"]


def test_nothing_that_a_small_world_draws_is_covered(images: torch.Tensor) -> None:
    """A beer mug of an icon set needs no cover, although its concept has the kind of nudity."""
    screen = Screen(detectors=(("alcohol", Brightness(0.5)),))
    assert screen.reasons(images) == ["", "the judge of alcohol"]
    assert replace(screen, draws="emoji").reasons(images) == ["", ""]


def test_a_covered_picture_has_only_a_few_squares() -> None:
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = covered(picture)
    assert found.shape == picture.shape
    assert len(torch.unique(found.flatten(1), dim=1).T) <= 64
    torch.testing.assert_close(found[:, :8, :8].mean((1, 2)), picture[:, :8, :8].mean((1, 2)))


def test_the_page_says_what_it_filters() -> None:
    assert Screen(draws="emoji").words() == "Nothing is filtered, because this base draws nothing but emoji."
    assert Screen().words().endswith("Pictures may be explicit.")
    both = Screen(*safety_checker(0.0), detectors=(("nudity", Brightness(0.5)),)).words()
    assert "if the pipeline's safety checker or the judge of nudity finds something" in both
    assert both.endswith("Prompts are not filtered.")
