"""Embedded bases are found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from robust_encoders import CATALOG, AssetsMissingError, Concept
from robust_encoders.cli.card_pictures import SHOWN
from robust_encoders.hub import embedded
from robust_encoders.hub.pipelines import load_pipeline
from robust_encoders.training.diffusion.load import open_base
from robust_encoders.training.plugins import Registry
from robust_encoders.training.protocols import EmbeddedBase
from robust_encoders.training.worlds import BASES, DEFAULT_BASE, ShapesWorld

HELD_OUT = {"shapes": (), "emoji": ("stein", "squirt gun")}


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
        with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
            load()


def test_the_loader_and_the_training_know_the_same_bases() -> None:
    assert set(embedded.EMBEDDED_BASES) == set(BASES) - set(BASES.others)
    assert embedded.EMBEDDED_FAMILY == DEFAULT_BASE


@pytest.mark.parametrize("base", embedded.EMBEDDED_BASES)
def test_pictures_of_cards_show_the_concept_by_two_words_and_then_others(base: str) -> None:
    known = {entry.concept for entry in CATALOG.values() if entry.embedded_base == base}
    assert known <= set(SHOWN[base])
    for concept, (named, synonym, *kept) in SHOWN[base].items():
        words = [f" {word} " for word in (*BASES[base]().concept(concept).words(), *HELD_OUT[base])]
        assert any(word in f" {named} " for word in words)
        assert any(word in f" {synonym} " for word in words)
        own = [f" {word} " for word in BASES[base]().concept(concept).words()]
        assert [text for text in kept for word in own if word in f" {text} "] == []


def test_the_family_of_an_opened_base_is_its_name(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda name: tmp_path / name)
    for name in embedded.EMBEDDED_BASES:
        tiny_pipe.save_pretrained(tmp_path / name / "base")
        assert open_base(name).family == name


def test_a_base_of_anybodys_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    bases: Any = BASES
    monkeypatch.setitem(bases, "digits", Digits)
    made = BASES["digits"]()
    assert (made.name, made.concept("two", anchored=True).anchor) == ("digits", "one")
    assert list(BASES)[-1] == "digits"
