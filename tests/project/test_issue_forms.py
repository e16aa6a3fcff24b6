"""The issue forms: GitHub shows them only if they follow its syntax, and they ask for what the catalog needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tree import ROOT

from robust_encoders.cli.main import _parser

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KINDS = {"markdown", "input", "textarea", "dropdown", "checkboxes"}
KEYS = {"name", "description", "title", "labels", "assignees", "projects", "type", "body"}


def form(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.name)
def test_a_form_follows_the_syntax_of_github(path: Path) -> None:
    read = form(path)
    assert {"name", "description", "body"} <= read.keys() <= KEYS
    assert all(part["type"] in KINDS for part in read["body"])
    assert any(part["type"] != "markdown" for part in read["body"])
    fields = [part for part in read["body"] if part["type"] != "markdown"]
    ids, labels = [field["id"] for field in fields], [field["attributes"]["label"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[\w-]+", name) for name in ids)
    for field in fields:
        allowed = {"type", "id", "attributes", "validations"}
        assert field.keys() <= allowed
        if field["type"] in ("dropdown", "checkboxes"):
            assert field["attributes"]["options"]
        if field["type"] == "checkboxes":
            assert all(option.keys() <= {"label", "required"} for option in field["attributes"]["options"])


def test_the_form_of_the_catalog_asks_for_what_pins_an_entry() -> None:
    read = form(ROOT / ".github" / "ISSUE_TEMPLATE" / "list-an-encoder.yml")
    required = {part["id"] for part in read["body"] if part.get("validations", {}).get("required")}
    assert {"repo", "revision", "name", "ready", "evaluation", "licence"} <= required


def test_the_commands_and_pages_that_a_form_names_exist() -> None:
    commands = _parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for path in FORMS:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"`robust-encoders (\w+)", text)) <= set(commands or ())
        assert [page for page in re.findall(r"docs/[\w/]+\.md", text) if not (ROOT / page).is_file()] == []
