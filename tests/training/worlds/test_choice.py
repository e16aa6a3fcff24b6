"""The base of a command: its name, the folder of the same name, and what encoders tell of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from commands import save_artifact

from robust_encoders import CompatibilityWarning
from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.errors import BaseLoadError
from robust_encoders.hub import embedded
from robust_encoders.training.cli.requirements import base_problems
from robust_encoders.training.worlds import BASES, EmojiWorld, ShapesWorld
from robust_encoders.training.worlds.choice import (
    base_of_encoders,
    embedded_base_of,
    open_named,
    other_world_problems,
    world_of,
)


class Digits:
    """A world of another package."""

    name: ClassVar[str] = "digits"
    license: ClassVar[str] = "mit"
    pipe: ClassVar[Any] = None

    def pipeline(self) -> Any:
        return self.pipe


@pytest.fixture(autouse=True)
def digits(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bases: Any = BASES
    monkeypatch.setitem(bases, "digits", Digits)
    monkeypatch.setattr(Digits, "pipe", tiny_pipe)


def of_family(family: str, label: str) -> Any:
    """Return what a command knows of an encoder."""
    return SimpleNamespace(label=label, manifest=SimpleNamespace(base=SimpleNamespace(family=family)))


@pytest.mark.parametrize("here", [False, True])
def test_the_name_of_a_base_stands_for_it_whatever_lies_here(
    here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shapes", "emoji", "digits") if here else ():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    kinds = {None: ShapesWorld, "shapes": ShapesWorld, "emoji": EmojiWorld, "digits": Digits}
    assert {name: type(world_of(name)) for name in kinds} == kinds
    assert all(world_of(other) is None for other in ("./shapes", Path("shapes"), "org/shapes", ""))


def test_a_base_of_another_package_opens_as_ours_do(tiny_pipe: Any) -> None:
    assert base_problems("digits") == []
    opened = open_named("digits")
    assert (opened.pipe, opened.family) == (tiny_pipe, "digits")
    assert open_named("digits", dtype="bfloat16").pipe.unet.dtype == torch.float32
    assert open_named("digits", dtype="bfloat16", whole=True).pipe.unet.dtype == torch.bfloat16
    with pytest.raises(BaseLoadError, match="abacus"):
        open_named("digits", device="abacus")


def test_a_folder_with_the_name_of_a_base_opens_by_its_path(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_pipe.save_pretrained("digits")
    with pytest.warns(CompatibilityWarning, match="Write './digits' for the folder"):
        assert open_named("digits").pipe is tiny_pipe
    opened = open_named("./digits", device="cpu")
    assert (opened.pipe is tiny_pipe, opened.family == "digits") == (False, False)


def test_names_and_manifests_tell_the_base(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert embedded_base_of(["emoji/alcohol", "emoji/weapon"]) == "emoji"
    assert embedded_base_of(["shapes/circle"]) == "shapes"
    for names in ([], ["nudity"], ["emoji"], ["org/name"], ["emoji/alcohol", "shapes/circle"], ["emoji/alcohol", "x"]):
        assert embedded_base_of(names) == ""
    folder = save_artifact(tiny_pipe, tmp_path / "made")
    assert embedded_base_of(["made"]) == "", "its family is no embedded base"
    text = (folder / MANIFEST_NAME).read_text()
    (folder / MANIFEST_NAME).write_text(text.replace('"a-family"', '"emoji"'))
    assert embedded_base_of(["made"]) == "", "its manifest was changed by hand"
    (tmp_path / "emoji" / "alcohol").mkdir(parents=True)
    assert embedded_base_of(["emoji/alcohol"]) == "emoji", "the encoder of that name is loaded, not the folder"


def test_encoders_tell_the_base_unless_it_is_stated() -> None:
    beer, circle, other = of_family("emoji", "beer"), of_family("shapes", "circle"), of_family("sd1", "other")
    assert [base_of_encoders(base, [beer]) for base in (None, "", "shapes", "folder")] == [
        "emoji", "emoji", "shapes", "folder",
    ]  # fmt: skip
    assert [base_of_encoders(None, those) for those in ([], [other], [beer, circle], [beer, beer, other])] == [
        None, None, None, "emoji",
    ]  # fmt: skip


def test_encoders_of_another_base_are_named() -> None:
    beer, circle, other = of_family("emoji", "beer"), of_family("shapes", "circle"), of_family("sd1", "other")
    for base, those in (("emoji", [beer]), (None, [circle]), ("", [circle]), ("folder", [beer]), ("shapes", [other])):
        assert other_world_problems(base, those) == []
    for base in (None, "shapes"):
        assert other_world_problems(base, [beer, other]) == [
            "expected encoders made from the base shapes, found beer made from emoji; write --base emoji"
        ]
    for base in (None, "emoji", "folder"):
        assert other_world_problems(base, [circle, beer, circle]) == [
            "expected encoders made from one base, found beer made from emoji, circle and circle made from shapes; "
            "name those of one base in a command"
        ]


@pytest.mark.parametrize("base", embedded.EMBEDDED_BASES)
def test_a_base_that_is_not_installed_is_a_problem(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda name: tmp_path / name)
    assert f"{tmp_path / base / 'base'}, found no" in " ".join(base_problems(base))
