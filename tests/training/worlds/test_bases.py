"""Embedded bases are found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from robust_encoders import AssetsMissingError, Concept
from robust_encoders.hub import embedded
from robust_encoders.hub.pipelines import load_pipeline
from robust_encoders.training.diffusion.load import open_base
from robust_encoders.training.plugins import Registry
from robust_encoders.training.protocols import EmbeddedBase
from robust_encoders.training.worlds import BASES, DEFAULT_BASE, ShapesWorld


class Digits:
    """A world of anybody's."""

    name: ClassVar[str] = "digits"
    license: ClassVar[str] = "mit"

    def pipeline(self) -> Any:
        return "a pipeline"

    def concept(self, name: str, *, anchored: bool = False) -> Concept:
        return Concept(name=name, kind="object", anchor="one" if anchored else "")

    def retain_prompts(self, concepts: Any) -> tuple[str, ...]:
        return ("a two",)


def test_the_default_is_one_of_them() -> None:
    assert isinstance(BASES, Registry)
    assert BASES.group == "robust_encoders.bases"
    assert BASES[DEFAULT_BASE] is ShapesWorld


@pytest.mark.parametrize("name", list(BASES))
def test_a_base_has_the_name_that_it_is_registered_under(name: str) -> None:
    world: EmbeddedBase = BASES[name]()
    assert world.name == name
    assert world.license


def test_the_emoji_base_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere: Any = lambda name: tmp_path / name  # noqa: E731
    monkeypatch.setattr(embedded, "embedded_folder", nowhere)
    world = BASES["emoji"]()
    assert world.concept("alcohol", anchored=True).anchor
    for load in (world.pipeline, lambda: load_pipeline("emoji"), lambda: open_base("emoji")):
        with pytest.raises(AssetsMissingError, match="robust-encoders emoji build"):
            load()


def test_a_base_of_anybodys_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    bases: Any = BASES
    monkeypatch.setitem(bases, "digits", Digits)
    made = BASES["digits"]()
    assert (made.name, made.concept("two", anchored=True).anchor) == ("digits", "one")
    assert list(BASES)[-1] == "digits"
