"""Requests of visitors: what is drawn, and every problem of what is not."""

from __future__ import annotations

import pytest

from robust_encoders.training.app.request import LARGEST_SEED, LONGEST, PictureRequest, RequestError

KNOWN = ("shapes/circle", "shapes/red")


def read(prompt: object = "a star", negative: object = "", seed: object = 0, encoders: object = ()) -> PictureRequest:
    return PictureRequest.read(prompt, negative, seed, encoders, known=KNOWN)


def problems(**fields: object) -> tuple[str, ...]:
    with pytest.raises(RequestError) as refused:
        read(**fields)
    return refused.value.problems


def test_a_request_is_read_as_written() -> None:
    found = read("  a  red\nstar ", None, 3.0, ["shapes/red", "shapes/red", "shapes/circle"])
    assert found == PictureRequest("a red star", "", 3, ("shapes/red", "shapes/circle"))
    assert read(encoders=None).encoders == ()
    assert read(seed=LARGEST_SEED).seed == LARGEST_SEED


@pytest.mark.parametrize("prompt", ["", "  \n", "\0"])
def test_a_prompt_without_words_is_refused(prompt: str) -> None:
    assert problems(prompt=prompt) == ("Expected a prompt, found none. Write what the picture shall show.",)


@pytest.mark.parametrize("seed", [None, "", "7", True, -1, 1.5, float("nan"), float("inf"), 1e30, LARGEST_SEED + 1, []])
def test_a_seed_that_is_no_whole_number_in_the_range_is_refused(seed: object) -> None:
    (found,) = problems(seed=seed)
    assert found.startswith(f"Expected a whole number from 0 to {LARGEST_SEED} as the seed, found ")


def test_texts_that_cannot_be_drawn_are_refused() -> None:
    assert "found 7" in problems(prompt=7)[0]
    assert "found half of one" in problems(prompt="a \ud800 star")[0]
    assert f"found {LONGEST + 1}" in problems(negative="x" * (LONGEST + 1))[0]
    assert read("x" * LONGEST).prompt == "x" * LONGEST


def test_names_that_the_page_does_not_offer_are_refused() -> None:
    assert "found '../secret', 'shapes/star'" in problems(encoders=["../secret", "shapes/red", "shapes/star"])[0]
    assert "found 'shapes/star'" in problems(encoders="shapes/star")[0]
    assert "found ['shapes/red']" in problems(encoders=[["shapes/red"]])[0]


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(prompt="", negative=1, seed=-1, encoders=["x"])) == 3 + 1
