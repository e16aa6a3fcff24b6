"""The report: complete, self-contained, the same bytes twice, and no prompt can break out of it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluations import Attacks, write_evaluation, write_pictures
from PIL import Image
from suite_evaluations import SUITE, checks, write_suite

from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.html.page import write_report
from robust_encoders.training.reports.html.text import method_of, visible
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.titles import settings_line

INNER_ATTACKS: Attacks = {"a": ("T3", [20, None, 40, None]), "c": ("T4", [5, None, None, None])}
HOSTILE = '</div><script>alert(1)</script><img src="http://x/y" onerror="alert(2)"> \x05 \u202e"\'&'


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = write_evaluation(tmp_path_factory.mktemp("report"), INNER_ATTACKS)
    write_pictures(folder, HOSTILE, "a plain one")
    return report(folder)


def report(folder: Path) -> Page:
    return Page(write_report(folder, Evaluation.read(folder)).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_evaluation(tmp_path, INNER_ATTACKS)
    write_pictures(tmp_path, HOSTILE, "a plain one")
    return tmp_path


def test_a_hostile_prompt_is_shown_and_does_nothing(page: Page) -> None:
    assert [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "base", "form")] == []
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert visible(HOSTILE) in page.text
    assert "\\x05 \\u202e" in page.text
    assert "\x05" not in page.text


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    links = [
        value or ""
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "action", "poster")
    ]
    assert len(links) == 1 + 4 + 2 * 3  # no icon, four pictures, three figures for light and for dark
    assert [link for link in links if not link.startswith("data:")] == []
    policy = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_picture_says_what_it_shows(page: Page) -> None:
    alts = [attributes.get("alt") or "" for tag, attributes in page.elements if tag == "img"]
    assert all(alts)
    assert "Picture before for the prompt a plain one: circle, 0.90" in alts
    assert "Picture after for the prompt a plain one: no circle, 0.10" in alts


def test_the_page_says_what_was_measured_and_how(page: Page) -> None:
    text = " ".join(page.text.split())
    for said in (
        "judge/circle, version v1: the concept counts as shown from a score of 0.5 on",
        "4 cases, hash c0ffee",
        "a T3: it won 2 of 4 prompts.",
        "c T4: it won 1 of 4 prompts. It uses free vectors instead of words, so there is no text",
        "random_prefix (tokens, with the model's gradients): candidates 40",
        "50.0 [15.0, 85.0]",
        "the attack won; from: a circle; seed 7",
    ):
        assert said in text


def test_kept_pictures_say_what_they_show_instead(tmp_path: Path) -> None:
    write_evaluation(tmp_path, {})
    write_pictures(tmp_path, "a star", kind="kept", name="circle/kept")
    text = report(tmp_path).text
    assert "no circle, 0.10; not asked: square" in text


def test_an_evaluation_without_cells_has_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "full", INNER_ATTACKS)
    alone = tmp_path / "alone"
    page = Page(write_report(alone, Evaluation.read(tmp_path / "full")).read_text(encoding="utf-8"))
    assert "No pictures were drawn" in page.text
    assert "≥ 50.0 %" in page.text  # the union of the attacks is not known without the cells
    assert {path.name for path in alone.iterdir()} == {"report.html", "asr.png", "trade-off.png"}


def test_the_same_evaluation_gives_the_same_bytes_and_leaves_nothing_else(folder: Path) -> None:
    report(folder)
    names = {"report.html", "asr.png", "curves.png", "trade-off.png"}
    first = {name: (folder / name).read_bytes() for name in names}
    report(folder)
    assert {name: (folder / name).read_bytes() for name in names} == first
    assert {path.name for path in folder.iterdir()} == {*names, "results.json", "cells"}
    assert all(Image.open(folder / name).size[0] == 920 for name in names - {"report.html"})


def test_evaluations_beside_are_in_the_figures(folder: Path, tmp_path: Path) -> None:
    alone = figures(report(folder))
    other = write_evaluation(tmp_path / "base", {"a": ("T3", [0, 0, 0, 0])}, "base")
    page = Page(write_report(folder, Evaluation.read(folder), beside=[other]).read_text(encoding="utf-8"))
    assert [old == new for old, new in zip(alone, figures(page), strict=True)] == [False, True, False]
    with pytest.raises(FileNotFoundError):
        write_report(folder, Evaluation.read(folder), beside=[tmp_path / "nowhere"])


def figures(page: Page) -> list[bytes]:
    """Bars, curves, trade-off."""
    start = "data:image/svg+xml;base64,"
    sources = [a["src"] or "" for tag, a in page.elements if tag == "img"]
    return [base64.b64decode(source.removeprefix(start)) for source in sources if source.startswith(start)]


@pytest.fixture
def suite(tmp_path: Path) -> StoredEvaluation:
    return StoredEvaluation.read(write_suite(tmp_path))


def test_long_settings_are_cut_short_and_calls_are_counted_once(suite: StoredEvaluation) -> None:
    line = settings_line({"label": "x", "name": "black_box", "words": [*"abcdefgh"], "inner": {"name": "p4d", "n": 1}})
    assert line == "black_box: words [a, b, c, d, … 8 in all], inner (p4d: n 1)"
    calls = next(text for part in method_of(suite) for name, text in part["rows"] if name == "UNet calls in all")
    assert calls.startswith(f"{len(SUITE) * 1_234_567 + 3 * 32_000:,} forwards")


def test_the_page_of_a_suite_says_all_that(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, checks=checks(("gradients_alive", "")))
    page = report(folder)
    text = " ".join(page.text.split())
    for said in (
        "T6: latents",
        "Can these numbers be trusted?",
        "worst case of text and embeddings",
        "not trusted, see the checks",
        "latent_inversion T6: it won 38 of 40 prompts, and 2 succeed without it. It chooses the latents",
    ):
        assert said in text
    assert "Attacked: none" not in text
    assert {a["colspan"] for tag, a in page.elements if tag == "th" and "colspan" in a} == {"9", "5"}
