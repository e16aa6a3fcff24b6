"""The parts of the page as HTML: complete, and nothing that a visitor wrote becomes markup."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from PIL import Image
from studios import strong, studio_of

from robust_encoders import RobustEncoder
from robust_encoders.training.app import panels
from robust_encoders.training.app.attack_state import AttackState, Attempt
from robust_encoders.training.app.request import PictureRequest
from robust_encoders.training.app.studio import Shown, Studio
from robust_encoders.training.app.trials import Trial
from robust_encoders.training.attacks import RandomPrefix

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">${alert(3)}{{value}}\''


@pytest.fixture
def studio(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> Studio:
    encoders = {"mine": strong(make_encoder(tiny_pipe)), "same": make_encoder(tiny_pipe)}
    return studio_of(tiny_pipe, encoders, attacks={"random": RandomPrefix(1, 2)})


class Markup(HTMLParser):
    """Collects the tags of a text and the names of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def assert_escaped(html: str) -> None:
    assert "&lt;script&gt;" in html
    assert {name for name in Markup(html).found if name == "script" or name.startswith("on")} == set()


def test_the_two_pictures_stand_side_by_side(studio: Studio) -> None:
    drawn = studio.draw(PictureRequest("a red circle", encoders=("mine",)))
    html = panels.pictures(drawn)
    files = re.findall(r"base64,([^\"]+)\"", html)
    sizes = [Image.open(io.BytesIO(base64.b64decode(file))).size for file in files]
    assert sizes == [tuple(drawn.before.pixels.shape[:0:-1])] * 2
    assert re.findall(r"<span class=\"([\w-]*)\">([\w ]+)</span>", html) == [("", "circle"), ("re-good", "no circle")]
    assert 'alt="a red circle, without an encoder"' in html


def test_the_report_names_each_failed_check_with_its_remedy(
    studio: Studio, make_pipe: Callable[..., Any], make_encoder: Callable[..., RobustEncoder], tiny_pipe: Any
) -> None:
    wide = make_encoder(make_pipe(width=32))
    drawn = studio_of(tiny_pipe, {"mine": studio.encoders["mine"], "alien": wide}).draw(
        PictureRequest("a circle", encoders=("alien",))
    )
    html = panels.report(drawn, {"alien": "the alien"})
    assert "the alien: <span" in html
    assert "it does not fit" in html
    for check in drawn.fits[0].report.errors:
        assert f"error: {check.name}" in html
        assert check.found.partition("'")[0] in html
    assert "none: nothing is erased" in html
    assert "Not drawn: the report says why." in panels.pictures(drawn)


def test_the_report_says_what_is_attached_and_the_ways_past_it(studio: Studio) -> None:
    drawn = studio.draw(PictureRequest("a circle", encoders=("mine",)))
    html = panels.report(drawn, panels.titles(studio))
    assert "it fits" in html
    assert "<dt>erases</dt><dd>circle</dd>" in html
    assert f"{len(drawn.status.bypasses)} ways past it" in html
    two = studio.draw(PictureRequest("a circle", encoders=("mine", "same")))
    assert "room for one whole encoder" in panels.report(two, panels.titles(studio))


def test_what_a_visitor_wrote_is_no_markup(studio: Studio) -> None:
    drawn = studio.draw(PictureRequest(HOSTILE, encoders=("mine",)))
    assert_escaped(panels.pictures(drawn))
    assert_escaped(panels.problems([HOSTILE]))
    attempt = Attempt("random", "T2", 2, True, f"\x07 {HOSTILE}", drawn.before)
    html = panels.attack(AttackState(attempts=(attempt,), ending="finished", message=HOSTILE), HOSTILE)
    assert_escaped(html)
    assert "\\x07" in html


def test_a_running_attack_shows_its_progress_and_an_ended_one_its_result() -> None:
    running = panels.attack(AttackState("searching", 3, 12), "a circle")
    assert 'aria-valuenow="25"' in running
    assert "3 of about 12 passes of the UNet" in running
    shown = Shown(torch.zeros(3, 8, 8), sees={"circle": True})
    won = Attempt("discrete", "T3", 5, True, "x a circle", shown)
    ended = AttackState(attempts=(won,), before=shown, after=shown, ending="finished", message="It won.")
    html = panels.attack(ended, "a circle")
    assert "progressbar" not in html
    assert 're-verdict re-bad" role="status">It won.' in html
    assert html.count("<img") == 3
    assert "Shown is the first that won of 5 pictures. T3: tokens" in html
    held = replace(ended, attempts=(replace(won, tier="T7", text=""),))
    assert 're-verdict re-good"' in panels.attack(held, "a circle")
    assert 're-verdict re-bad"' in panels.attack(replace(ended, attempts=()), "a circle")  # no attack was needed


def test_a_covered_picture_says_so() -> None:
    shown = Shown(torch.zeros(3, 8, 8), covered="the safety checker")
    html = panels.attack(AttackState(before=shown), "a circle")
    assert "covered: the safety checker found something" in html


def test_the_note_on_the_attack_names_the_judge_or_what_it_needs(studio: Studio) -> None:
    html = panels.attack_note(studio, ["mine", "same"])
    assert "To bring circle back, it tries: random tokens before the prompt.</p>" in html
    assert "Judged by brightness." in html
    assert "Choose an encoder to attack." in panels.attack_note(studio, [])
    studio.trials["circle"] = Trial(studio.trials["circle"].concept, needs=("It needs a judge.",))
    assert "It needs a judge." in panels.attack_note(studio, ["mine"])


def test_encoders_of_one_concept_and_method_have_different_titles(studio: Studio) -> None:
    assert panels.titles(studio) == {"mine": "circle (test): mine", "same": "circle (test): same"}


def test_the_head_says_what_draws_and_what_is_filtered(studio: Studio) -> None:
    html = panels.header(studio)
    assert "Drawn by a tiny pipeline." in html
    assert studio.screen.words() in html
    assert panels.waiting().count("re-waiting") == 2


def test_the_styles_load_nothing() -> None:
    assert "re-pair" in panels.style()
    assert not re.search(r"url\(|@import|https?:", panels.style())
