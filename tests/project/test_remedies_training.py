"""Errors of training and evaluation, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused
from walking import Walk, tiny_base

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.encoder import RobustEncoder
from robust_encoders.training.cli import train as cli_train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder; nobody writes into it."""
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def walk(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Walk:
    return Walk(base, tmp_path, capsys)


def named(told: str, option: str) -> list[str]:
    """Return an option with the value that a message gives for it, as one types them."""
    found = re.search(rf"(?<![\w-]){option}(?: ([\w.+-]*\w))?", told)
    assert found is not None, told
    return [part for part in (option, found[1]) if part]


def trained(folder: Path) -> bool:
    """Return true if a folder holds an encoder of finite numbers."""
    tensors = RobustEncoder.from_pretrained(folder).tensors.values()
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@pytest.mark.parametrize(("method", "rate"), [("esd", "--train.rate"), ("race", "--start.train.rate")])
def test_a_run_that_diverged(method: str, rate: str, walk: Walk) -> None:
    options = walk.training(method, **{rate: "1e30", **({"--start.train.iterations": "3"} if method == "race" else {})})
    told = walk.refused(1, "expected a finite loss", *options)
    lower = named(told, rate)
    assert float(lower[1]) < 1e-3
    assert main([*options, *lower, *named(told, "--no-resume")]) == 0
    assert trained(walk.out)


def test_a_run_that_diverged_keeps_its_trajectories(walk: Walk, caplog: pytest.LogCaptureFixture) -> None:
    options = walk.training("esd", **{"--train.rate": "1e30"})
    with caplog.at_level("INFO"):
        told = walk.refused(1, "its trajectories are kept", *options)
        assert main([*options, *named(told, "--train.rate"), "--no-resume"]) == 0
    counts = re.findall(r"(\d+) of (\d+) trajectories to run", caplog.text)
    assert counts[0][0] == counts[0][1] != "0"  # the first run drew them all
    assert {left for left, _ in counts[len(counts) // 2 :]} == {"0"}


def test_a_checkpoint_of_other_settings(walk: Walk, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    options = [*walk.training("esd", **{"--train.iterations": "2"}), "--every", "1"]
    with monkeypatch.context() as patch:
        walk.stop_after_checkpoint(patch)
        assert main(options) == 130
    other = [*options, "--seed", "7"]
    told = walk.refused(1, "expected a checkpoint of this run", *other)
    assert main([*other[: other.index("--out")], "--out", f"{walk.out}-other", *other[other.index("--out") + 2 :]]) == 0
    assert main([*other, *named(told, "--no-resume")]) == 0
    assert Manifest.read(walk.out).recipe["seed"] == Manifest.read(f"{walk.out}-other").recipe["seed"] == 7
    assert "in Python resume=False" in told


def test_a_run_that_was_stopped(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*walk.training("esd"), "--every", "1", "--no-resume"]
    with monkeypatch.context() as patch:
        walk.stop_after_checkpoint(patch)
        told = walk.refused(130, "run the same command again, without --no-resume, to go on", *options)
    assert f"are kept in {walk.out}.work" in told
    assert main([one for one in options if one != "--no-resume"]) == 0
    assert trained(walk.out)


@pytest.mark.parametrize("damage", ["a trajectory", "the key", "another bank"])
def test_a_damaged_bank(damage: str, walk: Walk) -> None:
    cache = walk.folder / "cache"
    options = walk.training("esd", **{"--cache-dir": str(cache)})
    assert main(options) == 0
    key = next(cache.rglob("*.json"))
    if damage == "a trajectory":
        file = next(cache.rglob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:100])
        fragment, gone = "delete it and run the command again", r"expected a trajectory in (\S+),"
    elif damage == "the key":
        key.write_text("{")
        fragment, gone = "found no JSON; delete", r"; delete (\S+)$"
    else:
        key.write_text(json.dumps({**json.loads(key.read_text()), "schedule": "another"}))
        fragment, gone = "expected a bank of this base and schedule", r"schedule in (\S+),"
    again = [*options[: options.index("--out")], "--out", f"{walk.out}-2", *options[options.index("--out") + 2 :]]
    told = walk.refused(1, fragment, *again)
    if damage == "another bank":
        assert main([*again, *named(told, "--cache-dir"), str(walk.folder / "other")]) == 0
        shutil.rmtree(f"{walk.out}-2")
    place = Path(re.findall(gone, told.strip())[0])
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert main(again) == 0
    assert trained(Path(f"{walk.out}-2"))


def test_a_guidance_beyond_half_precision(walk: Walk) -> None:
    told = walk.refused(1, "range of half precision", *walk.training("esd", **{"--bank.guidance": "1e9"}))
    assert "--dtype float32" in told
    assert main([*walk.training("esd"), *named(told, "--bank.guidance")[:1], "3", *named(told, "--dtype")]) == 0
    assert trained(walk.out)


def test_gradients_beyond_half_precision(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    from robust_encoders.training.diffusion import loss_scaling

    with monkeypatch.context() as patch:
        patch.setattr(loss_scaling, "_over_rows", lambda scale, like: torch.zeros_like(like))
        told = walk.refused(
            1, "finite gradients from the UNet in fp16", *walk.training("esd"), "--train.precision", "fp16"
        )
    assert main([*walk.training("esd"), *named(told, "--train.precision"), *named(told, "--no-resume")]) == 0
    assert Manifest.read(walk.out).method["train"]["precision"] == "bf16"


@pytest.mark.parametrize("missing", ["--base", "--kind", "--family"])
def test_an_option_that_is_missing(missing: str, walk: Walk) -> None:
    options = walk.training("esd")
    place = options.index(missing)
    given, value = options[:place] + options[place + 2 :], options[place + 1]
    if missing == "--base":
        recipe = ["train", "sd1/church-esd-u", "--out", str(walk.out)]
        told = walk.refused(2, "needs --base", *recipe)
        assert "expected a base of the family sd1" in refused(
            walk.capsys, 2, *recipe, *named(told, "--base")[:1], value
        )
        return  # such a base has 860 million parameters
    told = walk.refused(2, f"--base needs {missing}", *given)
    assert main([*given, *named(told, missing)[:1], value]) == 0
    assert trained(walk.out)


def test_retain_prompts_without_a_term(walk: Walk) -> None:
    options = [*walk.training("esd"), "--component", "unet"]
    told = walk.refused(2, "expected a retain term for --retain-prompts", *options)
    assert main([*options, *named(told, "--retain.weight")]) == 0
    place = options.index("--retain-prompts")
    assert main([*options[:place], *options[place + 2 :], "--no-resume"]) == 0


def test_an_inner_attack_for_a_method_without_one(walk: Walk, taken: list[Any]) -> None:
    walk.refused(2, "expected a method with an inner attack", *walk.training("esd"), "--inner-attack", "embedding_pgd")
    assert main([*walk.training("advunlearn"), "--inner-attack", "embedding_pgd"]) == 0
    assert type(taken[-1].method.attack).__name__ == "EmbeddingPGD"


def test_further_concepts_on_a_base_of_ones_own(walk: Walk, taken: list[Any]) -> None:
    told = walk.refused(2, "expected names of recipes after --also", *walk.training("esd"), "--also", "house")
    recipe = re.findall(r"\((\S+), for example\)", told)
    assert main([*walk.training("esd"), "--anchor", "star", "--also", *recipe]) == 0
    assert len(taken[-1].concept.parts) == 2


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipes that the command line accepted; none is run."""
    recipes: list[Any] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *rest, **more: recipes.append(recipe))
    return recipes


def test_des_without_captions(walk: Walk) -> None:
    options = walk.training("des", **{"--train.iterations": "1"})
    place = options.index("--prompts")
    told = walk.refused(2, "expected captions with the concept", *options[:place], *options[place + 2 :])
    assert main([*options[:place], *options[place + 2 :], *named(told, "--prompts")[:1], options[place + 1]]) == 0


def test_reproduce_on_another_base(walk: Walk, base: Path) -> None:
    assert main(walk.training("esd")) == 0
    told = walk.refused(1, "expected the base that the manifest records", "reproduce", str(walk.out))
    assert main(["reproduce", str(walk.out), *named(told, "--base")[:1], str(base)]) == 0
