"""The attack of a visitor: progress, stop, what won, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
from studios import PROMPT, Brightness, judge_between, picture, strong, studio_of
from torch import nn

from robust_encoders import RobustEncoder
from robust_encoders.training.app.attack_run import watched
from robust_encoders.training.app.attack_state import AttackState, Attempt, result_of
from robust_encoders.training.app.attacks import Attacks
from robust_encoders.training.app.request import PictureRequest
from robust_encoders.training.app.studio import Shown, Stopped, Studio
from robust_encoders.training.attacks import PromptEmbeds, RandomPrefix, UnlearnDiffAtk
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Case

SEARCH = UnlearnDiffAtk(tokens=1, timesteps=2, iterations=3)
ENDLESS = UnlearnDiffAtk(tokens=1, timesteps=1, iterations=100_000)


@dataclass(frozen=True)
class Broken:
    name: ClassVar[str] = "broken"
    tier: ClassVar[str] = "T3"

    def run(self, target: Any, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        raise ValueError("no room for the tokens")


@pytest.fixture
def encoder(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> RobustEncoder:
    return strong(make_encoder(tiny_pipe))


def request(prompt: str = PROMPT, *names: str) -> PictureRequest:
    return PictureRequest(prompt, encoders=names or ("mine",))


def states(studio: Studio, asked: PictureRequest | None = None, concept: str = "circle") -> list[AttackState]:
    return list(Attacks(studio).run("visitor", asked or request(), concept))


def ended(studio: Studio, asked: PictureRequest | None = None, concept: str = "circle") -> AttackState:
    return states(studio, asked, concept)[-1]


def test_an_attack_by_the_bases_own_conditioning_wins_and_is_no_text(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    attacks: dict[str, Attack] = {"discrete": SEARCH, "prompt_embeds": PromptEmbeds()}
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks=attacks)
    found = ended(studio)
    assert (found.ending, found.share) == ("finished", 1.0)
    search, embeds = found.attempts
    assert (search.label, search.tier, search.tries) == ("discrete", "T3", 2)
    assert search.text.endswith(PROMPT)
    assert (embeds.won, embeds.tier, embeds.text) == (True, "T7", "")
    torch.testing.assert_close(embeds.best.pixels, picture(tiny_pipe), atol=0.01, rtol=0)
    assert "prompt_embeds" in found.message
    assert found.before is not None
    assert found.after is not None
    assert (found.before.sees, found.after.sees) == ({"circle": True}, {"circle": False})


def test_progress_grows_to_about_the_announced_number_of_passes(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"random": RandomPrefix(1, 2), "discrete": SEARCH})
    told = states(studio)
    shares = [state.share for state in told]
    assert shares == sorted(shares)
    assert told[-1].total == 2 * 2 + 2 + (2 * 3 + 2)  # two pictures; the control's; iterations and pictures of a search
    assert told[-1].done == told[-1].total
    assert {state.ending for state in told[:-1]} == {""}


def test_a_stopped_attack_ends_at_once_and_gives_its_pipeline_back(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"random": RandomPrefix(1, 2), "d": ENDLESS}, workers=1)
    attacks, last = Attacks(studio), AttackState()
    for last in attacks.run("visitor", request(), "circle"):
        if last.attempts and not last.ending:
            assert attacks.stop("visitor")
    assert last.ending == "stopped"
    assert last.message.startswith("Stopped. The encoder held: circle is in none of 2 pictures.")
    assert not attacks.stop("visitor")
    assert studio.draw(request()).after is not None
    with studio.pipeline() as pipe:
        assert not RobustEncoder.status(pipe).attached
        assert not pipe.unet._forward_pre_hooks


def test_a_visitor_who_leaves_stops_the_attack(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"d": ENDLESS}, workers=1)
    running = Attacks(studio).run("visitor", request(), "circle")
    next(running)
    running.close()  # type: ignore[attr-defined]  # a generator
    assert studio.draw(request()).after is not None  # the only pipeline is free again


def test_a_second_attack_of_a_session_stops_the_first_and_no_others(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"d": ENDLESS}, workers=3)
    attacks = Attacks(studio)
    first, other = (attacks.run(name, request(), "circle") for name in ("one", "two"))
    next(first), next(other)
    second = attacks.run("one", request(), "circle")
    next(second)
    assert [state.ending for state in first][-1] == "stopped"
    assert next(other).ending == ""
    attacks.stop_all()
    assert [state.ending for state in other][-1] == "stopped"
    assert [state.ending for state in second][-1] == "stopped"


def test_a_stop_ends_the_waiting_for_a_pipeline(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"discrete": SEARCH}, workers=1)
    attacks = Attacks(studio)
    with studio.pipeline():
        running = attacks.run("visitor", request(), "circle")
        assert next(running).doing == "waiting for a free pipeline"
        attacks.stop("visitor")
        assert [state.ending for state in running][-1] == "stopped"


def test_what_an_attack_needs_is_said(
    tiny_pipe: Any, encoder: RobustEncoder, make_pipe: Any, make_encoder: Any
) -> None:
    encoders = {"mine": encoder, "alien": make_encoder(make_pipe(width=32)), "red": make_encoder(tiny_pipe, name="red")}
    studio = studio_of(tiny_pipe, encoders, attacks={"discrete": SEARCH})
    told = [
        ("Expected an encoder to attack, found none. Choose one above.", ended(studio, PictureRequest(PROMPT))),
        (
            "Expected a concept of the chosen encoders, found star. Choose circle or red.",
            ended(studio, request(PROMPT, "mine", "red"), "star"),
        ),
        (
            "Not attached: alien. Draw first: the report says why it does not fit.",
            ended(studio, request(PROMPT, "alien")),
        ),
    ]
    assert [text for text, _ in told] == [state.message for _, state in told]
    assert {state.ending for _, state in told} == {"refused"}
    studio.trials["circle"] = replace(studio.trials["circle"], needs=("It needs a judge.", "And a base."))
    assert ended(studio).message == "It needs a judge.\nAnd a base."


def test_a_single_concept_need_not_be_named(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"discrete": SEARCH})
    assert ended(studio, concept="star").ending == "finished"


def test_a_prompt_without_the_concept_has_nothing_to_bring_back(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    never = Brightness(2.0)
    found = ended(studio_of(tiny_pipe, {"mine": encoder}, attacks={"discrete": SEARCH}, judge=never))
    assert found.ending == "refused"
    assert found.message.startswith("The judge finds no circle in the picture without the encoder")
    assert found.before is not None


def test_a_picture_that_shows_the_concept_anyway_is_not_attacked(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    always = Brightness(-1.0)
    found = ended(studio_of(tiny_pipe, {"mine": encoder}, attacks={"discrete": SEARCH}, judge=always))
    assert found.message == "No attack was needed: the picture with the encoder already shows circle."
    assert found.attempts == ()


def test_a_failing_attack_is_told_and_gives_its_pipeline_back(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    studio = studio_of(tiny_pipe, {"mine": encoder}, attacks={"broken": Broken()}, workers=1)
    found = ended(studio)
    assert (found.ending, found.message) == ("failed", "The attack failed: ValueError: no room for the tokens")
    assert studio.draw(request()).after is not None


def test_passes_of_other_threads_do_not_count() -> None:
    unet, seen = nn.Linear(1, 1), []
    with watched(unet, lambda: seen.append(1)):
        unet(torch.ones(1))
        other = Thread(target=unet, args=(torch.ones(1),))
        other.start()
        other.join()
    unet(torch.ones(1))
    assert seen == [1]


def test_a_watch_ends_with_its_block_also_after_an_error() -> None:
    def fail() -> None:
        raise Stopped

    unet = nn.Linear(1, 1)
    with pytest.raises(Stopped), watched(unet, fail):
        unet(torch.ones(1))
    assert not unet._forward_pre_hooks


def test_the_result_tells_text_from_what_is_no_text() -> None:
    shown = Shown(torch.zeros(3, 8, 8))
    text = Attempt("discrete", "T3", 5, True, "x a circle", shown)
    free, lost = replace(text, label="continuous", tier="T4", text="", tries=1), replace(text, won=False)
    told = [
        (
            [text],
            "The attack won: it brought circle back by tokens before the prompt, found with the model's gradients.",
        ),
        ([lost, free], "The encoder held against text. The attack brought circle back by free embeddings"),
        ([lost], "The encoder held: circle is in none of 5 pictures."),
    ]
    for attempts, start in told:
        assert result_of(AttackState(attempts=tuple(attempts)), "circle").startswith(start)
    assert result_of(AttackState(), "circle") == ""


def test_the_judge_of_these_tests_tells_the_pictures_apart(tiny_pipe: Any, encoder: RobustEncoder) -> None:
    judge = judge_between(tiny_pipe, encoder)
    assert float(judge(picture(tiny_pipe)[None])) >= judge.threshold
    with encoder.attached(tiny_pipe):
        assert float(judge(picture(tiny_pipe)[None])) < judge.threshold
