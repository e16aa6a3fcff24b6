"""The report in a real browser: no script error, every picture loads, nothing to scroll sideways."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, open_browser
from evaluations import write_evaluation, write_pictures
from PIL import Image
from suite_evaluations import checks, write_suite

from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.html.page import write_report

pytestmark = pytest.mark.browser
PICTURES = "return [...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0 && i.clientWidth > 40])"
TOO_WIDE = """return [...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e).clipPath === 'none'
        && !e.closest('thead')).map(e => e.outerHTML.slice(0, 80))"""
SMALLEST = """return Math.min(...[...document.querySelectorAll('body *')].filter(e => e.innerText).map(
    e => parseFloat(getComputedStyle(e).fontSize)))"""
# Cells of one short word that stand on more than one line.
BROKEN_WORDS = """return [...document.querySelectorAll('td, thead th')].filter(
    e => e.innerText.length < 12 && !e.innerText.includes(' ') && e.firstChild.getClientRects
        && e.querySelector('span')?.getClientRects().length > 1).map(e => e.innerText)"""
LONG = "unbroken" * 40
HOSTILE = '<script>document.title = "broken"</script><img src="http://127.0.0.1:9/x">'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_evaluation(folder, {"a": ("T3", [20, None, 40, None]), "c": ("T4", [5, None, None, None])})
    write_pictures(folder, HOSTILE, LONG, "a plain one")
    made: Path = write_report(folder, Evaluation.read(folder))
    return made


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_is_whole_and_legible(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.run(TOO_WIDE) == []
    pictures = browser.run(PICTURES)
    assert len(pictures) == 3 * 2 + 3
    assert [alt for alt, loaded in pictures if not (alt and loaded)] == []
    assert browser.run("return document.title") == "Can the ESD encoder still draw “circle”?"
    assert browser.run(SMALLEST) >= 12
    image = Image.open(io.BytesIO(browser.screenshot())).convert("L")
    assert image.width == width
    assert (image.getpixel((2, 2)) < 60) is dark  # type: ignore[operator]  # of mode L, so a number


@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_of_a_whole_suite_beside_two_others_is_legible(browser: Browser, tmp_path: Path, width: int) -> None:
    folder = write_suite(tmp_path / "esd", checks=checks(("gradients_alive", "")))
    beside = [write_suite(tmp_path / name, name, strength=k) for name, k in (("base", 2), ("advunlearn", 0.4))]
    browser.open(write_report(folder, Evaluation.read(folder), beside=beside), width=width)
    assert browser.complaints() == []
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.run(TOO_WIDE) == []
    assert browser.run(SMALLEST) >= 12
    if width > 720:
        assert browser.run(BROKEN_WORDS) == []


def test_the_browser_of_these_tests_does_complain(browser: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text('<div style="width: 2000px">wide</div><img alt="x" src="none.png"><script>nonsense()</script>')
    browser.open(broken, width=400)
    complaints = browser.complaints()
    assert any("nonsense is not defined" in line for line in complaints)
    assert any("none.png" in line for line in complaints)
    assert browser.run(TOO_WIDE) != []
    assert browser.run(PICTURES) == [["x", False]]
