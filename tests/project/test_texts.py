"""The Markdown files of the tree: their links lead somewhere, and folders of texts hold what they promise."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from tree import ROOT

ELSEWHERE = {"runs", "build", "dist", "node_modules", "site"}
LINK = re.compile(r"\]\(([^()\s]+)\)")


def texts() -> list[Path]:
    """Return the Markdown files of the tree, without those of environments, caches and runs."""
    found: list[Path] = []
    for folder in (ROOT, *(ROOT / name for name in sorted(p.name for p in ROOT.iterdir() if p.is_dir()))):
        if folder != ROOT and (folder.name.startswith(".") or folder.name in ELSEWHERE):
            continue
        found += folder.glob("*.md") if folder == ROOT else folder.rglob("*.md")
    return sorted(found)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """Return a text without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading: words and hyphens in lower case, a hyphen for every space."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors of a text; the second of two equal headings ends in ``-1``, the third in ``-2``."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} (.*)$", prose(text), re.MULTILINE):
        name = anchor(heading)
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def dead_links(path: Path, root: Path = ROOT) -> list[str]:
    """Return the relative links of a text that lead to no file or folder, or to no heading of a text."""
    dead = []
    for link in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if "://" in link or link.startswith("mailto:"):
            continue
        misses_heading = heading and (target.suffix != ".md" or heading not in anchors(target.read_text("utf-8")))
        if not target.is_relative_to(root) or not target.exists() or misses_heading:
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", texts(), ids=relative)
def test_links_between_the_texts_lead_somewhere(path: Path) -> None:
    assert dead_links(path) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    there, text = tmp_path / "there.md", tmp_path / "text.md"
    there.write_text("# A heading, `with code`\n\n## Twice\n\n## Twice\n", encoding="utf-8")
    good = ["there.md", "there.md#a-heading-with-code", "there.md#twice-1", "#here", "https://example.org/x#y"]
    bad = ["missing.md", "there.md#no-such", "#nowhere", "../outside.md", "there.md#twice-2"]
    shown = "\n".join(f"[x]({link})" for link in (*good, *bad))
    text.write_text(f"# Here\n\n{shown}\n\n```\n[x](in-code.md)\n```\n", encoding="utf-8")
    assert dead_links(text, tmp_path) == bad


def test_docs_is_prose_with_an_index() -> None:
    docs = ROOT / "docs"
    files = [path.relative_to(docs) for path in docs.rglob("*") if path.is_file()]
    # Folder in docs to the suffixes of its files.
    kinds = {".": {".md"}, "api": {".md"}, "methods": {".md"}, "pictures": {".png", ".svg"}}
    assert [str(path) for path in files if path.suffix not in kinds.get(str(path.parent), ())] == []
    pages = [path for path in files if path.suffix == ".md" and path.name != "README.md"]
    index = (docs / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([\w/-]+\.md)\]\(\1\) \| .+ \|$", index, re.MULTILINE)
    in_order = sorted(pages, key=lambda path: (len(path.parts), path))
    assert listed == [str(path) for path in in_order], "one line a page, in order"


def test_every_study_says_its_question_its_command_and_its_answer() -> None:
    folders = sorted(path for path in (ROOT / "studies").iterdir() if path.is_dir() and path.name != "__pycache__")
    for folder in folders:
        text = (folder / "README.md").read_text(encoding="utf-8")
        parts = re.findall(r"^\*\*(Question|Command|Answer)\.\*\* \S", text, re.MULTILINE)
        assert parts == ["Question", "Command", "Answer"], f"expected the three parts in studies/{folder.name}"
    index = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(\1/README\.md\) \| .+ \|$", index, re.MULTILINE)
    assert listed == [folder.name for folder in folders], "one line a study, in order"


def test_what_the_texts_run_from_the_studies_is_there() -> None:
    missing = [
        f"{relative(path)}: {name}"
        for path in texts()
        for name in re.findall(r"studies/[\w/]+\.(?:py|sh)\b", path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []
