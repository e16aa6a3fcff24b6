"""The page in a real browser: type, click, see two pictures; two visitors at once; bad input; attack and stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from browser import Browser, open_browser

from robust_encoders.training.app.opening import AppConfig, open_studio
from robust_encoders.training.attacks import PromptEmbeds, RandomPrefix, UnlearnDiffAtk
from robust_encoders.training.protocols import Attack

pytestmark = [pytest.mark.browser, pytest.mark.base]
CIRCLE, SQUARE = "a red circle on a white background", "a red square on a black background"
LISTED = "const list = [...document.querySelectorAll('#pictures img')].map(i => i.src);"
PICTURES = f"{LISTED} return list"
SENT = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))"
TOO_WIDE = """return [...document.querySelectorAll('.re-html *')].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
HOSTILE = "a circle <img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>${1+1}{{1}}"
SHORT = UnlearnDiffAtk(timesteps=2, iterations=2)
ENDLESS = UnlearnDiffAtk(timesteps=1, iterations=100_000)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the page of the embedded base, with few steps and a short attack."""
    from robust_encoders.training.app.page import Page

    studio = open_studio(AppConfig(steps=6, workers=3))
    attacks: dict[str, dict[str, Attack]] = {
        "circle": {"random": RandomPrefix(3, 2), "discrete": SHORT, "prompt_embeds": PromptEmbeds()},
        "red": {"discrete": ENDLESS},
        "striped": {},
    }
    for name, trial in studio.trials.items():
        studio.trials[name] = replace(trial, attacks=attacks[name])
    page = Page(studio, prompt=CIRCLE, chosen=("shapes/circle",))
    try:
        yield page.launch()
    finally:
        page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def visit(browser: Browser, address: str, *, width: int = 1280, dark: bool = False) -> None:
    browser.visit(address, width=width, dark=dark)
    browser.wait("return document.querySelector('#draw')", seconds=120)


def choose(browser: Browser, *names: str) -> None:
    """Tick the encoders of these names alone, by clicking."""
    boxes = "[...document.querySelectorAll('#encoders label')]"
    for place, (title, ticked) in enumerate(
        browser.run(f"return {boxes}.map(l => [l.innerText.trim(), l.querySelector('input').checked])")
    ):
        if ticked != (title in names):
            browser.click(f"#encoders label:nth-of-type({place + 1}) input")
    found = browser.run(f"return {boxes}.filter(l => l.querySelector('input').checked).map(l => l.innerText.trim())")
    assert sorted(found) == sorted(names)


def drawn(browser: Browser, n: int = 2) -> list[str]:
    """Click on Draw; return the sources of the new pictures, which differ from those before."""
    before = json.dumps((browser.run(PICTURES) or [""])[0])
    browser.click("#draw")
    browser.wait(f"{LISTED} return list.length === {n} && list[0] !== {before}", seconds=120)
    found: list[str] = browser.run(PICTURES)
    return found


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (400, True)])
def test_a_visitor_types_and_clicks_and_sees_two_pictures(
    browser: Browser, address: str, width: int, dark: bool
) -> None:
    visit(browser, address, width=width, dark=dark)
    assert "shapes" in browser.text(".re-header")
    browser.type("#prompt textarea", CIRCLE)
    before, after = drawn(browser)
    assert before != after
    assert browser.run("return [...document.querySelectorAll('#pictures figure span')].map(s => s.innerText)") == [
        "circle",
        "no circle",
    ]
    assert "it fits" in browser.text("#report")
    assert "erases" in browser.text("#report")
    assert browser.complaints() == []
    assert browser.run(SENT) == []
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.run(TOO_WIDE) == []
    assert browser.run("return [...document.querySelectorAll('#pictures img')].every(i => i.naturalWidth > 0 && i.alt)")


def test_the_seed_and_the_negative_prompt_change_the_pictures_and_the_same_request_repeats_them(
    browser: Browser, address: str
) -> None:
    visit(browser, address)
    first = drawn(browser)
    browser.type("#seed input", "7")
    other = drawn(browser)
    browser.type("#negative textarea, #negative input", "red")
    pushed = drawn(browser)
    assert len({*first, *other, *pushed}) == 6
    browser.type("#negative textarea, #negative input", "")
    browser.type("#seed input", "0")
    assert drawn(browser) == first


def test_bad_input_is_told_in_words(browser: Browser, address: str) -> None:
    visit(browser, address)
    browser.type("#prompt textarea", " ")
    browser.type("#seed input", "")
    browser.click("#draw")
    browser.wait("return document.querySelectorAll('#pictures .re-problem p').length === 2")
    assert browser.text("#pictures").startswith("Expected a prompt, found none.")
    assert "as the seed, found none" in browser.text("#pictures")
    browser.click("#attack")
    browser.wait("return document.querySelectorAll('#attack-state .re-problem p').length === 2")
    browser.type("#prompt textarea", CIRCLE)
    for seed in ("-5", "1.5", "4294967296"):
        browser.type("#seed input", seed)
        browser.click("#draw")
        browser.wait(f"return document.querySelector('#pictures').innerText.includes('as the seed, found {seed}')")


def test_a_drawing_that_fails_is_told_in_words(browser: Browser, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the device has no memory left")

    visit(browser, address)
    monkeypatch.setattr("robust_encoders.training.app.studio.Studio.draw", fail)
    browser.click("#draw")
    browser.wait("return document.querySelector('#pictures .re-problem')")
    assert browser.text("#pictures") == "The drawing failed: RuntimeError: the device has no memory left"


def test_markup_in_a_prompt_stays_text(browser: Browser, address: str) -> None:
    visit(browser, address)
    browser.run(f"window.wanted = {json.dumps(HOSTILE)}")
    browser.type("#prompt textarea", HOSTILE)
    drawn(browser)
    assert browser.run("return document.querySelector('#pictures img').alt.startsWith(window.wanted)")
    assert browser.run("return document.title") == "Robust text encoders"
    assert browser.complaints() == []


def test_two_whole_encoders_do_not_fit_and_overlays_of_two_concepts_do(browser: Browser, address: str) -> None:
    visit(browser, address)
    choose(browser, "circle (advunlearn)", "red (advunlearn)")
    drawn(browser, 1)
    browser.wait("return document.querySelector('#report').innerText.includes('room for one whole encoder')")
    choose(browser, "circle (spm, adapter)", "red (spm, adapter)")
    drawn(browser)
    assert browser.text("#report").count("it fits") == 2
    browser.wait("return document.querySelector('#attack-note').innerText.includes('bring circle or red back')")


def test_two_visitors_at_once_get_their_own_pictures(browser: Browser, address: str) -> None:
    asked = ((CIRCLE, "circle (advunlearn)"), (SQUARE, "red (advunlearn)"))
    windows, alone = [browser.ask("GET", "window"), browser.ask("POST", "window/new", {"type": "tab"})["handle"]], []
    for handle, (prompt, encoder) in zip(windows, asked, strict=True):
        browser.ask("POST", "window", {"handle": handle})
        visit(browser, address)
        browser.type("#prompt textarea", prompt)
        choose(browser, encoder)
        alone.append([drawn_with_seed(browser, seed) for seed in range(3)])
    for seed in range(3):
        for handle in windows:  # both are asked before either is waited for
            browser.ask("POST", "window", {"handle": handle})
            browser.type("#seed input", str(seed))
            browser.click("#draw")
        for handle, expected in zip(windows, alone, strict=True):
            browser.ask("POST", "window", {"handle": handle})
            browser.wait(f"{LISTED} return list[0] === {json.dumps(expected[seed][0])}", seconds=120)
            assert browser.run(PICTURES) == expected[seed]
    assert len({source for pictures in alone for pair in pictures for source in pair}) == 12
    browser.ask("DELETE", "window")
    browser.ask("POST", "window", {"handle": windows[0]})


def drawn_with_seed(browser: Browser, seed: int) -> list[str]:
    browser.type("#seed input", str(seed))
    return drawn(browser)


def test_an_attack_shows_its_progress_and_what_won(browser: Browser, address: str) -> None:
    visit(browser, address)
    browser.type("#prompt textarea", CIRCLE)
    browser.click("#attack")
    browser.wait("return document.querySelector('#attack-state [role=progressbar]')")
    assert browser.run(
        "return [document.querySelector('#attack').disabled, document.querySelector('#stop').disabled]"
    ) == [True, False]
    browser.wait("return document.querySelector('[data-ending=finished]')", seconds=120)
    assert "prompt_embeds" in browser.text("#attack-state [role=status]")
    cards = browser.run("return [...document.querySelectorAll('#attack-state .re-card')].map(c => c.innerText)")
    assert len(cards) == 5
    assert "it won" in cards[-1]
    browser.wait("return !document.querySelector('#attack').disabled")


@pytest.mark.parametrize("width", [1280, 400])
def test_an_attack_can_be_stopped(browser: Browser, address: str, width: int) -> None:
    visit(browser, address, width=width)
    browser.type("#prompt textarea", SQUARE)
    choose(browser, "red (advunlearn)")
    browser.click("#attack")
    browser.wait("return document.querySelectorAll('#attack-state img').length === 2", seconds=120)
    browser.click("#stop")
    browser.wait("return document.querySelector('[data-ending=stopped]')")
    assert browser.text("#attack-state").startswith("Stopped.")
    browser.wait("return document.querySelector('#stop').disabled")
    assert browser.run("return document.documentElement.scrollWidth") == width
    drawn(browser)


def test_a_visitor_who_closes_the_tab_stops_the_attack(browser: Browser, address: str) -> None:
    first = browser.ask("GET", "window")
    for _ in range(3):  # more than the attacks that may run at once
        handle = browser.ask("POST", "window/new", {"type": "tab"})["handle"]
        browser.ask("POST", "window", {"handle": handle})
        visit(browser, address)
        browser.type("#prompt textarea", SQUARE)
        choose(browser, "red (advunlearn)")
        browser.click("#attack")
        browser.wait("return document.querySelectorAll('#attack-state img').length === 2", seconds=120)
        browser.ask("DELETE", "window")
        browser.ask("POST", "window", {"handle": first})
