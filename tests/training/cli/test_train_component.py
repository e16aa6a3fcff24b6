"""``train`` of methods whose component is chosen: the defaults of the component, and no retain prompts for a UNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from diffusers import StableDiffusionPipeline

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.methods import DP, ESD, MACE, RACE, RECE, SPEED, TRCE, UCE
from robust_encoders.training.methods.speed import PriorConfig
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Keep the recipes that would have been trained."""
    found: list[Recipe] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *args, **kwargs: found.append(recipe))
    return found


@pytest.fixture
def own(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> list[str]:
    """Options of a base of one's own."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    named = {"--base": tmp_path / "base", "--concept": "circle", "--family": "a-family", "--kind": "object"}
    return ["--out", str(tmp_path / "out"), *(str(part) for pair in named.items() for part in pair)]


@pytest.mark.parametrize("spelled", [["--component", "unet"], ["--component=unet"]])
def test_the_unet_is_trained_without_retain_prompts(
    trained: list[Recipe], tmp_path: Path, own: list[str], spelled: list[str]
) -> None:
    world = ["--out", str(tmp_path / "out"), "--concept", "circle"]
    for options in (world, own):
        assert main(["train", "esd", *options, *spelled]) == 0
        assert trained[-1].method == ESD(component="unet")


def test_a_retain_term_of_the_unet_takes_prompts_as_that_of_the_text_encoder_does(
    trained: list[Recipe], tmp_path: Path, own: list[str]
) -> None:
    options = ["--component", "unet", "--retain.weight", "0.5"]
    assert main(["train", "esd", "--out", str(tmp_path / "out"), "--concept", "circle", *options]) == 0
    method: Any = trained[-1].method
    assert method.retained
    assert not [text for text in method.retained if "circle" in text.split()]
    assert main(["train", "esd", *own, *options]) == 0
    method = trained[-1].method
    assert "a photo of a fire truck" in method.retained


def test_retain_prompts_without_a_term_are_bad_usage(
    tmp_path: Path, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("a star\n")
    options = ["--component", "unet", "--retain-prompts", str(tmp_path / "kept.txt")]
    assert "expected a retain term for --retain-prompts" in refused(capsys, 2, "train", "esd", *own, *options)


def test_the_text_encoder_is_the_default_and_keeps_its_settings(trained: list[Recipe], own: list[str]) -> None:
    assert main(["train", "esd", *own]) == 0
    method: Any = trained[-1].method
    assert method == ESD.standard(method.retained)
    assert main(["train", "esd", *own, "--component", "text_encoder"]) == 0
    assert trained[-1].method == method


def test_several_concepts_of_the_embedded_base_leave_the_unet_without_retain_prompts(
    trained: list[Recipe], tmp_path: Path
) -> None:
    options = ["--out", str(tmp_path / "out"), "--also", "red"]
    assert main(["train", "esd", "--concept", "circle", "--component", "unet", *options]) == 0
    assert [part.name for part in trained[-1].concept.parts] == ["circle", "red"]
    assert trained[-1].method == ESD(component="unet")
    assert main(["train", "shapes/circle-esd-unet", *options]) == 0
    method: Any = trained[-1].method
    assert method.retained
    assert not [text for text in method.retained if {"red", "circle"} & set(text.split())]


def test_race_follows_the_component_of_its_start(trained: list[Recipe], own: list[str]) -> None:
    assert main(["train", "race", *own]) == 0
    assert trained[-1].method == RACE()
    assert main(["train", "race", *own, "--start.component", "text_encoder"]) == 0
    method: Any = trained[-1].method
    assert method.start == ESD(retain=RetainConfig(prompts=method.retained))
    assert "a photo of a fire truck" in method.retained


def test_an_unknown_component_is_bad_usage(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "esd", *own, "--component", "vae"])
    assert stop.value.code == 2
    assert "vae" in capsys.readouterr().err


def test_a_recipe_keeps_its_method(trained: list[Recipe], tmp_path: Path) -> None:
    for name in ("shapes/circle-esd-unet", "shapes/circle-race"):
        assert main(["train", name, "--out", str(tmp_path / "out")]) == 0
        assert trained[-1] == RECIPES[name]()


def test_an_artifact_of_the_unet_is_saved_and_can_start_race(own: list[str], tmp_path: Path) -> None:
    small = ["--train.iterations", "1"]
    assert main(["train", "esd", *own, *small, "--component", "unet", "--bank.steps", "2"]) == 0
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.form, manifest.component) == ("delta", "unet")
    place = own.index(str(tmp_path / "out"))
    options = [*own[:place], str(tmp_path / "race"), *own[place + 1 :]]
    start = ["--start-from", str(tmp_path / "out"), "--start.bank.steps", "2"]
    assert main(["train", "race", *options, *small, *start]) == 0
    recorded = Manifest.read(tmp_path / "race")
    assert recorded.recipe["run"]["start"]["source"] == str(tmp_path / "out")
    assert recorded.method["start_from"] == str(tmp_path / "out")


def test_closed_forms_retain_everyday_objects_and_speed_follows_its_component(
    trained: list[Recipe], own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in (SPEED, DP, TRCE, MACE):
        assert main(["train", kind.name, *own]) == 0
        method: Any = trained[-1].method
        assert method == kind.standard(method.retained)
        assert "a photo of a fire truck" in method.retained
    speed = SPEED.standard(method.retained)
    assert main(["train", "speed", *own, "--component", "text_encoder", "--threshold", "0.2"]) == 0
    assert trained[-1].method == replace(speed, component="text_encoder", threshold=0.2)
    assert main(["train", "speed", *own, "--prior.copies", "0"]) == 0
    assert trained[-1].method == replace(speed, prior=PriorConfig(copies=0))
    with pytest.raises(SystemExit) as stop:
        main(["train", "speed", *own, "--component", "text_encoder_2"])
    assert stop.value.code == 2
    assert "text_encoder_2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--concept", "circle"], "prompts"),
        (["--base", "shapes", "--concept", "circle"], "prompts"),
        (["--concept", "circle", "--texts", "words"], "words"),
    ],
)
def test_a_closed_form_edits_the_captions_of_an_embedded_base(
    trained: list[Recipe], tmp_path: Path, arguments: list[str], texts: str
) -> None:
    assert main(["train", "uce", "--out", str(tmp_path / "out"), *arguments]) == 0
    method = trained[0].method
    assert isinstance(method, UCE)
    assert method.texts == texts


def test_a_closed_form_on_another_base_edits_captions_only_if_there_are_some(
    trained: list[Recipe], own: list[str], tmp_path: Path
) -> None:
    (tmp_path / "captions.txt").write_text("a red circle\n")
    for given in ([], ["--prompts", str(tmp_path / "captions.txt")]):
        assert main(["train", "rece", *own, *given]) == 0
    assert [one.method.start.texts for one in trained if isinstance(one.method, RECE)] == ["words", "prompts"]
