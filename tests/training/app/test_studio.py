"""The studio: pictures with and without encoders, and every visitor with their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
from studios import PROMPT, Brightness, picture, strong, studio_of
from torch import Tensor

from robust_encoders import Concept, RobustEncoder
from robust_encoders.training.app.request import PictureRequest
from robust_encoders.training.app.screen import Screen
from robust_encoders.training.app.studio import Drawn, Stopped, Studio


@pytest.fixture
def two(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> dict[str, RobustEncoder]:
    """Return two whole encoders with clearly different pictures."""
    return {
        "first": strong(make_encoder(tiny_pipe, seed=1, name="circle")),
        "second": strong(make_encoder(tiny_pipe, seed=2, name="red"), -20.0),
    }


def request(*names: str, prompt: str = PROMPT, seed: int = 0, negative: str = "") -> PictureRequest:
    return PictureRequest(prompt, negative, seed, names)


def test_the_pictures_are_those_of_the_pipeline_without_and_with_the_encoder(
    tiny_pipe: Any, two: dict[str, RobustEncoder]
) -> None:
    studio, original = studio_of(tiny_pipe, two), tiny_pipe.text_encoder
    drawn = studio.draw(request("first", seed=3, negative="blue"))
    assert drawn.after is not None
    torch.testing.assert_close(drawn.before.pixels, picture(tiny_pipe, seed=3, negative="blue"))
    with two["first"].attached(tiny_pipe):
        torch.testing.assert_close(drawn.after.pixels, picture(tiny_pipe, seed=3, negative="blue"))
    assert not torch.equal(drawn.before.pixels, drawn.after.pixels)
    assert [fit.attached for fit in drawn.fits] == [True]
    assert drawn.status.attached
    assert (drawn.status.provenance or {})["concept"] == "circle"
    assert drawn.notes == ()
    assert tiny_pipe.text_encoder is original
    assert not RobustEncoder.status(tiny_pipe).attached


def test_the_judge_of_the_chosen_concepts_looks_at_both_pictures(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    studio = studio_of(tiny_pipe, two)
    drawn = studio.draw(request("first"))
    assert drawn.after is not None
    assert (drawn.before.sees, drawn.after.sees) == ({"circle": True}, {"circle": False})
    assert studio.draw(request()).before.sees == {}


def test_visitors_with_different_encoders_at_once_get_their_own_pictures(
    tiny_pipe: Any, two: dict[str, RobustEncoder]
) -> None:
    studio = studio_of(tiny_pipe, two, workers=2)
    asked = [request(name, seed=seed) for seed in range(4) for name in two]
    alone = [studio.draw(one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(studio.draw, asked))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.before.pixels, other.before.pixels)
        torch.testing.assert_close(after(one), after(other))
        assert one.status.provenance == other.status.provenance
    assert not torch.allclose(after(alone[0]), after(alone[1]), atol=1e-2)


def after(drawn: Drawn) -> Tensor:
    assert drawn.after is not None
    return drawn.after.pixels


def test_the_workers_share_weights_and_nothing_with_a_state(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    studio = studio_of(tiny_pipe, two, workers=2)
    with studio.pipeline() as one, studio.pipeline() as other:
        assert one is not other
        assert one.unet is other.unet is tiny_pipe.unet
        assert len({id(pipe.scheduler) for pipe in (one, other, tiny_pipe)}) == 3
        assert len({id(pipe.tokenizer) for pipe in (one, other, tiny_pipe)}) == 3


def test_the_tokenizers_of_the_workers_decode_as_that_of_the_pipeline(
    tiny_pipe: Any, two: dict[str, RobustEncoder]
) -> None:
    """A deep copy of transformers' CLIP tokenizer decodes ``red</w>``, and attacks by text would find no words."""
    with studio_of(tiny_pipe, two).pipeline() as pipe:
        ids = range(len(tiny_pipe.tokenizer))
        assert [pipe.tokenizer.decode([i]) for i in ids] == [tiny_pipe.tokenizer.decode([i]) for i in ids]
        assert pipe.tokenizer(PROMPT).input_ids == tiny_pipe.tokenizer(PROMPT).input_ids


def test_a_second_whole_encoder_is_refused_in_words(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    drawn = studio_of(tiny_pipe, two).draw(request("first", "second"))
    assert [fit.attached for fit in drawn.fits] == [True, False]
    assert drawn.fits[1].refused.startswith("A pipeline has room for one whole encoder")
    assert drawn.after is None


def test_an_encoder_that_does_not_fit_is_reported_and_not_drawn(
    make_pipe: Callable[..., Any], tiny_pipe: Any, two: dict[str, RobustEncoder], make_encoder: Any
) -> None:
    alien = make_encoder(make_pipe(width=32), name="star")
    drawn = studio_of(tiny_pipe, {**two, "alien": alien}).draw(request("alien"))
    assert not drawn.fits[0].report.ok
    assert not drawn.fits[0].attached
    assert drawn.after is None
    assert not drawn.status.attached


def test_a_request_without_encoders_draws_one_picture(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    drawn = studio_of(tiny_pipe, two).draw(request())
    assert (drawn.after, drawn.fits) == (None, ())


def test_a_prompt_that_is_cut_off_is_told(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    room = tiny_pipe.tokenizer.model_max_length
    long = " ".join(["red"] * room)
    (note,) = studio_of(tiny_pipe, two).draw(request(prompt=long)).notes
    assert note == f"The prompt is cut off after {room - 2} tokens, which is all that the text encoder reads."
    assert studio_of(tiny_pipe, two).draw(request(prompt=" ".join(["red"] * (room - 2)))).notes == ()


def test_the_concepts_are_single_and_each_is_there_once(tiny_pipe: Any, make_encoder: Any) -> None:
    joint = Concept.joint([Concept(name="circle", kind="object"), Concept(name="red", kind="attribute")])
    encoders = {"circle": make_encoder(tiny_pipe), "both": make_encoder(tiny_pipe, concept=joint)}
    studio = Studio(tiny_pipe, encoders, trials={}, screen=Screen(), sampling=studio_of(tiny_pipe, encoders).sampling)
    assert [one.name for one in studio.concepts(["circle", "both", "unknown"])] == ["circle", "red"]


def test_a_picture_that_is_found_is_covered_and_still_judged(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    screen = Screen(detectors=(("nudity", Brightness(0.0)),))
    drawn = studio_of(tiny_pipe, two, screen=screen).draw(request("first"))
    assert drawn.before.covered == "the judge of nudity"
    assert not torch.allclose(drawn.before.pixels, picture(tiny_pipe), atol=1e-3)
    assert drawn.before.sees == {"circle": True}


def test_who_waits_for_a_pipeline_can_be_stopped(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    studio, stop = studio_of(tiny_pipe, two, workers=1), Event()
    with studio.pipeline():
        stop.set()
        with pytest.raises(Stopped), studio.pipeline(stop):
            pass
    with studio.pipeline(Event()) as pipe:
        assert pipe.unet is tiny_pipe.unet


def test_a_failing_drawing_gives_its_pipeline_back(tiny_pipe: Any, two: dict[str, RobustEncoder]) -> None:
    studio = studio_of(tiny_pipe, two, workers=1)
    with pytest.raises(KeyError):
        studio.draw(request("unknown"))
    assert studio.draw(request("first")).after is not None
