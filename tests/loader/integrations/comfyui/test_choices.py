"""The encoders that a node offers, and what is said about a name that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_encoders import CATALOG, RobustEncoder, UnknownNameError
from robust_encoders.integrations.comfyui.choices import OTHER, choices, chosen, problem, state


@pytest.fixture
def folders(tiny_encoder: RobustEncoder, tmp_path: Path) -> list[str]:
    tiny_encoder.save_pretrained(tmp_path / "models" / "own")
    (tmp_path / "models" / "empty").mkdir()
    return [str(tmp_path / "models"), str(tmp_path / "missing")]


def test_the_list_holds_the_catalog_and_the_folders(folders: list[str]) -> None:
    found = choices(folders)
    assert found[0] == OTHER
    assert found[-1] == "folder: own"
    for entry in CATALOG.values():
        assert (entry.name in found) == (not entry.embedded and entry.format != "foreign")


def test_a_choice_is_a_name_or_a_folder(folders: list[str]) -> None:
    assert chosen("nudity", " ", folders) == "nudity"
    assert chosen(OTHER, " org/name ", folders) == "org/name"
    assert chosen("folder: own", "", folders) == Path(folders[0], "own")


@pytest.mark.parametrize(
    ("choice", "other", "told"),
    [
        (OTHER, "", "found none chosen; choose one in the list, or write a name or folder below it. Names: nudity"),
        ("nudity", "org/name", "found 'nudity' in the list and 'org/name' below it; empty the text"),
        ("folder: gone", "", "expected the folder 'gone' of a robust encoder among ComfyUI's models, found own"),
        (OTHER, "chruch", "Did you mean 'church'?"),
        (OTHER, "./missing", "expected an encoder's name, an existing folder or a repository"),
    ],
)
def test_a_wrong_choice_is_told_before_the_graph_runs(folders: list[str], choice: str, other: str, told: str) -> None:
    assert told in problem(choice, other, folders)


def test_every_remedy_leads_to_an_encoder(folders: list[str]) -> None:
    for choice, other in (("nudity", ""), (OTHER, "org/name"), (OTHER, "church"), ("folder: own", "")):
        assert problem(choice, other, folders) == ""


def test_a_folder_without_an_artifact_is_told(folders: list[str]) -> None:
    assert "robust_encoder.json" in problem(OTHER, f"{folders[0]}/empty", folders)


def test_the_state_changes_with_the_files(folders: list[str], tiny_encoder: RobustEncoder) -> None:
    before = state("folder: own", "", folders)
    assert state("folder: own", "", folders) == before
    tiny_encoder.annotate(license="mit").save_pretrained(Path(folders[0], "own"))
    assert state("folder: own", "", folders) != before
    assert state("nudity", "", folders) == "nudity"
    with pytest.raises(UnknownNameError):
        state(OTHER, "", folders)
