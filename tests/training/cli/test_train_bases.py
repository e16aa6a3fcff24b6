"""``train``: base, family and file of settings name one world, or the command says which part does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refused

from robust_encoders.cli.main import main
from robust_encoders.hub import embedded
from robust_encoders.training import METHODS
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.cli.configured_run import _retained_place
from robust_encoders.training.protocols import RetainingMethod
from robust_encoders.training.recipes.method_settings import standard
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.worlds import EmojiWorld, ShapesWorld

Trained = Callable[..., tuple[Recipe, str]]
CONCEPT = '[concept]\nname = "moon rocket"\nkind = "object"\nanchor = "teacup"\nprompts = ["a moon rocket"]\n'
METHOD = '[method]\nname = "uce"\n'
PRESERVED = 'preserve = ["a teacup on a blue background"]\n'
KNOWN = '[concept]\nname = "hot dog"\nkind = "object"\nanchor = "sandwich"\n'


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Run ``train`` without training, and return the recipe and the name of the pipeline."""
    calls: list[tuple[Recipe, str]] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, pipe, *_, **__: calls.append((recipe, pipe)))
    monkeypatch.setattr(embedded, "is_installed", lambda base: True)
    for world in (EmojiWorld, ShapesWorld):
        monkeypatch.setattr(world, "pipeline", lambda self: self.name)

    def run(*arguments: str) -> tuple[Recipe, str]:
        assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 0
        return calls[-1]

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return the options that read a file of settings with a text."""

    def write(text: str) -> list[str]:
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        return ["--config", str(tmp_path / "run.toml")]

    return write


def test_the_family_of_an_embedded_base_chooses_the_base(trained: Trained) -> None:
    recipe, pipe = trained("uce", "--family", "emoji", "--concept", "hot dog")
    assert (recipe.base, recipe.name, pipe) == ("emoji", "emoji/hot dog-uce", "emoji")
    assert recipe == trained("uce", "--base", "emoji", "--concept", "hot dog")[0]
    assert trained("uce", "--family", "shapes", "--concept", "circle")[1] == "shapes"


def test_base_and_family_name_one_world(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("train", "uce", "--concept", "circle", "--out", "out", "--family")
    assert "the embedded base does not know this concept" in refused(capsys, 2, *command, "emoji")
    told = refused(capsys, 2, *command, "emoji", "--base", "shapes")
    assert "expected --family shapes with the base shapes, found emoji; leave --family out, or name another" in told
    assert trained("uce", "--concept", "circle", "--base", "shapes")[1] == "shapes"
    capsys.readouterr()
    assert "--family sd1 needs --base: a folder, or a Hub id such as CompVis" in refused(capsys, 2, *command, "sd1")
    assert "needs --base: a folder, or a Hub id" in refused(capsys, 2, *command, "a-family")
    assert "found sd1; leave --family out" in refused(capsys, 2, *command, "sd1", "--base", "emoji")


def test_a_concept_of_ones_own_is_trained_on_the_base_of_the_command_line(
    trained: Trained, written: Callable[[str], list[str]]
) -> None:
    for before in ("", 'base = "shapes"\n'):
        uce: Any = METHODS["uce"]()
        recipe, pipe = trained(*written(before + CONCEPT + METHOD + PRESERVED), "--base", "emoji")
        assert (recipe.base, recipe.name, pipe) == ("emoji", "emoji/moon rocket-uce", "emoji")
        assert recipe.method == uce.retaining(("a teacup on a blue background",)).by_captions()
    assert trained(*written(CONCEPT + METHOD + PRESERVED))[1] == "shapes"


def test_a_concept_of_the_base_gets_its_retain_prompts(trained: Trained, written: Callable[[str], list[str]]) -> None:
    recipe, _ = trained(*written(KNOWN + METHOD), "--base", "emoji")
    method: Any = recipe.method
    assert method.retained == EmojiWorld().retain_prompts(["hot dog"])


def test_what_a_file_lacks_for_a_base_is_named(
    trained: Trained, written: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, 2, "train", *written(CONCEPT + METHOD), "--base", "emoji", "--out", "out")
    assert "concept.name: expected a concept of the base, or retain prompts as method.preserve, found neither" in told
    assert "emoji world, found 'moon rocket'" in told
    trained(*written(CONCEPT + METHOD + PRESERVED), "--base", "emoji")
    capsys.readouterr()
    text = 'family = "shapes"\n' + CONCEPT + METHOD
    told = refused(capsys, 2, "train", *written(text + PRESERVED), "--base", "emoji", "--out", "out")
    assert "family: expected 'emoji', the base of the run, found 'shapes'; leave it out, or name another base" in told


def test_a_file_of_another_family_is_refused_on_an_embedded_base(
    trained: Trained, written: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, 2, "train", "sd1/church", "--base", "emoji", "--out", "out")
    assert "expected the base sd1 for sd1/church, found emoji; name a base of the family sd1 as --base" in told


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_a_place_for_retain_prompts(name: str) -> None:
    method = standard(METHODS[name])
    if isinstance(method, RetainingMethod):
        assert _retained_place(method).rpartition(".")[2] in ("prompts", "preserve", "retain", "safe")


def test_a_base_of_ones_own_with_a_file_has_no_world(
    tiny_pipe: Any, written: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Recipe] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *_, **__: taken.append(recipe))
    tiny_pipe.save_pretrained(tmp_path / "base")
    options = [*written('family = "mine"\n' + CONCEPT + METHOD + PRESERVED), "--base", str(tmp_path / "base")]
    assert main(["train", *options, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert (taken[0].base, taken[0].license) == ("mine", "")
