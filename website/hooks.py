"""What mkdocs does beside building ``docs/``: pages from other folders, links to them, GitHub's ways of Markdown.

Every page stays as GitHub shows it. Relative links lead from file to file of the repository; here they are turned into
links from page to page of the site. A link to a file that is no page becomes its text, with the path behind it, and the
name of a page as the text of a link becomes the page's heading.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Files outside docs/ that are pages, too.
PAGES = ("*.md", "examples/*.md", "examples/*.py", "examples/*.ipynb", "studies/*.md", "studies/*/README.md")
# Code stays as it is. What is left are links, and numbers of papers.
TOKENS = re.compile(
    r"(?P<code>^(?P<indent> *)```.*?^(?P=indent)```|`[^`]+`)"
    r"|(?P<picture>!?)\[(?P<label>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)"
    r"|arXiv\s(?P<paper>\d{4}\.\d{5})",
    re.DOTALL | re.MULTILINE,
)
_FILE_NAME = re.compile(r"[\w/-]+\.md")
_FIRST_PAPER = re.compile(r"(\b[A-Z]\w+ (?:et al\.|and [A-Z]\w+)).*?\b((?:19|20)\d\d)\b", re.DOTALL)


def on_config(config: Any) -> None:
    """Complete the navigation, and name headings as GitHub does."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] += [
                {method_title(page): f"methods/{page.name}"} for page in listed(DOCS / "methods", "*.md")
            ]
        elif "Examples" in entry:
            entry["Examples"] += [{page.name: site_uri(page)} for page in listed(ROOT / "examples", "*")]
        elif "Studies" in entry:
            entry["Studies"] += [site_uri(page) for page in listed(ROOT / "studies", "*/README.md")]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside ``docs/``."""
    for path in pages_elsewhere():
        uri = site_uri(path)
        assert uri is not None
        files.append(File.generated(config, uri, content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn a page that is written for GitHub into one for the site."""
    return for_site(markdown, source_of(page.file.src_uri))


def for_site(text: str, source: Path) -> str:
    """Return a page's Markdown with links for the site, and with the interface's descriptions where it asks for them.

    Args:
        text: Markdown as GitHub shows it.
        source: File of the page in the repository.
    """
    text = TOKENS.sub(partial(_token, source), text)
    text = text.replace("<details>", '<details markdown="1">')
    return re.sub(r"^<!-- api: ([\w.]+) -->$", r"::: \1", text, flags=re.MULTILINE)


def _token(source: Path, match: re.Match[str]) -> str:
    """Return a link, a paper or a piece of code as it stands in the site."""
    if paper := match["paper"]:
        return f"[arXiv {paper}](https://arxiv.org/abs/{paper})"
    target = match["target"]
    if match["code"] or re.match(r"#|[a-z]+:", target):
        return match[0]
    name, hash_sign, heading = target.partition("#")
    path = (source.parent / name).resolve()
    found = site_uri(path)
    if found is None:
        return f"{match['label']} (`{path.relative_to(ROOT)}`)"
    start = site_uri(source)
    assert start is not None
    link = os.path.relpath(found, os.path.dirname(start) or ".")
    label = heading_of(path) if _FILE_NAME.fullmatch(match["label"]) else match["label"]
    return f"{match['picture']}[{label}]({link}{hash_sign}{heading})"


def heading_of(page: Path) -> str:
    """Return the first heading of a page in Markdown."""
    page = page / "README.md" if page.is_dir() else page
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def site_uri(path: Path) -> str | None:
    """Return the place in the site of a file of the repository, or none if it is no part of the site."""
    if (path / "README.md").exists():
        path = path / "README.md"
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if path not in pages_elsewhere():
        return None
    uri = path.relative_to(ROOT).as_posix()
    if path.suffix != ".md":
        return f"{uri}.md"
    return f"project/{uri}" if path.parent == ROOT else uri


def source_of(uri: str) -> Path:
    """Return the file of the repository behind a page of the site."""
    elsewhere = {site_uri(path): path for path in pages_elsewhere()}
    return elsewhere.get(uri, DOCS / uri)


def pages_elsewhere() -> list[Path]:
    """Return the files outside ``docs/`` that are pages."""
    return [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def shown(path: Path) -> str:
    """Return a file as Markdown: a program as a block of code, a notebook as text, code and pictures."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return f"# {path.name}\n\n```python\n{text}```\n"
    return "\n\n".join(_cells(json.loads(text))) if path.suffix == ".ipynb" else text


def _cells(notebook: Any) -> Iterator[str]:
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield text
            continue
        yield f"```python\n{text}\n```"
        for output in cell["outputs"]:
            data = output.get("data", {})
            if png := data.get("image/png"):
                yield f"![picture](data:image/png;base64,{''.join(png).strip()})"
            elif said := "".join(output.get("text", data.get("text/plain", ""))):
                yield f"```text\n{said.rstrip()}\n```"


def listed(folder: Path, pattern: str) -> list[Path]:
    """Return the pages of a section without the one that heads it."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in found if path != folder / "README.md"]


def method_title(page: Path) -> str:
    """Return the title of a method's page, with authors and year of its first paper."""
    name, text = heading_of(page), page.read_text(encoding="utf-8")
    paper = _FIRST_PAPER.search(text[max(0, text.find("Paper")) :])
    return f"{name}: {paper[1]} {paper[2]}" if paper else name


def anchor(heading: str, separator: str = "-") -> str:
    """Return what GitHub makes of a heading: words and hyphens in lower case, a hyphen for every space."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)
