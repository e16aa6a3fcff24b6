"""The documentation as a site: every page is in it, looks as on GitHub, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from browser import open_browser
from markdown_it import MarkdownIt
from tree import ROOT

import robust_encoders
import robust_encoders.training as training

CONFIG = ROOT / "website" / "mkdocs.yml"
API = {"api/loader.md": robust_encoders, "api/training.md": training}
# What a reader's browser fetches without being asked: tag to attribute.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
TOO_WIDE = "return [innerWidth, document.documentElement.scrollWidth]"
MISSING = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src)"


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return import_module("website.hooks")


def navigation(hooks: Any) -> list[str]:
    """Return the places of all pages that the navigation names."""
    config = SimpleNamespace(nav=yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"], mdx_configs={})
    hooks.on_config(config)
    return list(_leaves(config.nav))


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(child)


def pages(hooks: Any) -> list[str]:
    """Return the places of all pages in the site."""
    own = [path.relative_to(hooks.DOCS).as_posix() for path in hooks.DOCS.rglob("*.md")]
    return [*own, *map(hooks.site_uri, hooks.pages_elsewhere())]


class Shown(HTMLParser):
    """Counts the elements of a page's text, and notes what the page fetches."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.names: set[str] = set()
        self._inside = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._inside |= tag == "article"
        self.counts[tag] += self._inside
        self.names |= {found["id"] or ""} if "id" in found else set()
        if tag in FETCHED and (address := found.get(FETCHED[tag])):
            self.fetched.append(address)

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"


def on_github(text: str) -> Counter[str]:
    """Return the counts of elements that CommonMark with tables makes of a page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    blocks = Counter(token.tag for token in tokens if token.nesting == 1)
    blocks["pre"] = sum(token.type in ("fence", "code_block") for token in tokens)
    return blocks


def test_the_navigation_holds_every_page_once(hooks: Any) -> None:
    assert sorted(navigation(hooks)) == sorted(pages(hooks))


def test_every_method_stands_with_its_paper(hooks: Any) -> None:
    titles = [hooks.method_title(path) for path in hooks.listed(hooks.DOCS / "methods", "*.md")]
    assert [title for title in titles if not re.fullmatch(r".+: \w+ (et al\.|and \w+) 20\d\d", title)] == []
    assert "ESD: Gandikota et al. 2023" in titles


def test_links_lead_from_page_to_page(hooks: Any) -> None:
    source = hooks.DOCS / "methods" / "esd.md"
    page = hooks.for_site("[a](../train.md#the-bank), [b](../../studies/methods/README.md)", source)
    assert page == "[a](../train.md#the-bank), [b](../studies/methods/README.md)"
    folder = hooks.for_site("[c](studies) [d](docs/use.md) ![e](docs/pictures/demo.png)", ROOT / "README.md")
    assert folder == "[c](../studies/README.md) [d](../use.md) ![e](../pictures/demo.png)"
    assert hooks.for_site("[server.py](../examples/server.py)", hooks.DOCS / "use.md").endswith("/server.py.md)")
    assert hooks.for_site("[x](../pyproject.toml)", hooks.DOCS / "use.md") == "x (`pyproject.toml`)"
    assert hooks.for_site("see [use.md](use.md#memory)", hooks.DOCS / "README.md") == (
        "see [How do I attach an encoder to my pipeline?](use.md#memory)"
    )
    elsewhere = "[y](https://example.org/x), [z](#here), ![d](data:image/png;base64,AA)"
    same = f"`[x](../pyproject.toml)`, {elsewhere}\n\n```text\n[x](../pyproject.toml)\n```\n"
    assert hooks.for_site(same, hooks.DOCS / "use.md") == same


def test_papers_become_links_and_the_interface_is_described(hooks: Any) -> None:
    assert hooks.for_site("ICCV 2023 (arXiv\n2303.07345)", hooks.DOCS / "use.md") == (
        "ICCV 2023 ([arXiv 2303.07345](https://arxiv.org/abs/2303.07345))"
    )
    assert hooks.for_site("<!-- api: robust_encoders.Base -->", hooks.DOCS / "use.md") == "::: robust_encoders.Base"


def test_a_notebook_becomes_text_code_and_pictures(hooks: Any, tmp_path: Path) -> None:
    outputs = '[{"text": ["two\\n"]}, {"data": {"image/png": "AAAA\\n", "text/plain": ["<x>"]}}]'
    code = f'{{"cell_type": "code", "source": ["1 + 1"], "outputs": {outputs}}}'
    notebook = tmp_path / "a.ipynb"
    cells = f'[{{"cell_type": "markdown", "source": ["# A"]}}, {code}]'
    notebook.write_text(f'{{"cells": {cells}}}', encoding="utf-8")
    assert hooks.shown(notebook).split("\n\n") == [
        *("# A", "```python\n1 + 1\n```", "```text\ntwo\n```"),
        "![picture](data:image/png;base64,AAAA)",
    ]


@pytest.mark.parametrize("page", API)
def test_every_public_name_is_on_the_pages_of_the_interface(page: str) -> None:
    package = API[page]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = re.findall(rf"^<!-- api: {package.__name__}\.(\w+) -->$", text, re.MULTILINE)
    assert sorted(names) == sorted(name for name in package.__all__ if name != "__version__")
    assert [name for name in names if f"`{name}`" not in text] == [], "names are also words of the text"


def test_the_pictures_are_those_that_the_code_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    drawn = import_module("website.pictures.__main__").files()
    there = {path.name: path.read_bytes() for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert sorted(drawn) == sorted(there)
    assert [name for name in drawn if drawn[name] != there[name]] == [], "make pictures draws them again"
    fetching = re.compile(rb"""(?:href=["']|url\(|@import\s*["'])(?!#)""")
    assert [name for name, data in drawn.items() if fetching.search(data)] == [], "a picture fetches nothing"


def built(folder: Path) -> Path:
    """Build the site into a folder; a warning of mkdocs is an error."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(CONFIG),
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.docs
def test_the_site_builds_looks_as_on_github_and_needs_no_network(hooks: Any, tmp_path: Path) -> None:
    assert (ROOT / ".types").is_dir(), "make types lays out the tree that the docstrings are read from"
    site = built(tmp_path / "site")
    wrong: list[object] = []
    for uri in pages(hooks):
        html = site / re.sub(r"(README)?\.md$", lambda name: "index.html" if name[1] else ".html", uri)
        shown, source = Shown(html), hooks.source_of(uri)
        wrong += [(uri, name) for name in shown.fetched if re.match(r"(\w+:)?//", name)]
        if uri in API:
            package = API[uri]
            names = {f"{package.__name__}.{name}" for name in package.__all__ if name != "__version__"}
            wrong += [(uri, name) for name in sorted(names - shown.names)]
        elif source.suffix == ".md":
            expected = on_github(source.read_text(encoding="utf-8"))
            tags = ("h1", "h2", "h3", "ol", "ul", "li", "tr", "table", "pre")
            wrong += [
                (uri, tag, shown.counts[tag], expected[tag]) for tag in tags if shown.counts[tag] != expected[tag]
            ]
        # Its script would be fetched from elsewhere.
        wrong += [(uri, "mermaid")] * ('class="mermaid"' in html.read_text(encoding="utf-8"))
    for sheet in site.rglob("*.css"):
        wrong += re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", sheet.read_text(encoding="utf-8"))
    assert wrong == []


@pytest.mark.browser
def test_no_page_is_wider_than_a_telephone_or_asks_for_something_missing(hooks: Any, tmp_path: Path) -> None:
    site = built(tmp_path / "site")
    wrong: list[object] = []
    with open_browser(tmp_path) as browser:
        # The page of errors is for servers; its addresses begin at the server's root.
        for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):
            browser.open(page, width=400)
            width, needed = browser.run(TOO_WIDE)
            wrong += [(page.name, needed)] if needed > width else []
            wrong += [(page.name, src) for src in browser.run(MISSING)]
            wrong += [(page.name, said) for said in browser.complaints()]
    assert wrong == []
