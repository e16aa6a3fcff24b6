"""What a release needs besides code: the citation, the way to report a fault, the workflow that runs every check."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


def test_the_citation_is_of_this_version_and_cites_the_paper_of_the_project() -> None:
    cited = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "required by the format"
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    (paper,) = cited["references"]
    assert paper["url"] == PROJECT["urls"]["Paper of AdvUnlearn"]


def test_the_way_to_report_a_bypass_names_pages_and_forms_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert [page for page in re.findall(r"\]\(([^)#]+)", text) if not (ROOT / page).is_file()] == []
    forms = [read(f".github/ISSUE_TEMPLATE/{path.name}") for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")]
    named = re.findall(r'use the form "([^"]+)"', text)
    assert named
    assert set(named) <= {form.get("name") for form in forms}


def test_the_workflow_runs_what_every_clone_can_run() -> None:
    workflow = read(".github/workflows/test.yml")
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, "it can be started"
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("part", ["pyproject.toml", "CITATION.cff", "CHANGELOG.md"])
def test_the_checklist_names_every_place_of_the_version(part: str) -> None:
    assert f"`{part}`" in (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    assert PROJECT["version"] in (ROOT / part).read_text(encoding="utf-8")
