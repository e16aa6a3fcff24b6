"""``train --config`` and ``--write-config``: the same run from a file, and the command line wins over it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused, save_artifact
from tree import ROOT

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.cli.main import main
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.cli.configured_run import NO_KEYS, OF_METHODS
from robust_encoders.training.cli.train_config import joined
from robust_encoders.training.diffusion.load import OpenedBase
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.worlds import ShapesWorld

Trained = Callable[..., tuple[Recipe, Path, dict[str, Any]]]
SHIPPED = ROOT / "robust_encoders" / "assets" / "shapes" / "encoders"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Run ``train`` without training, and return the recipe, the folder, and the other options."""
    calls: list[tuple[Recipe, Path, dict[str, Any]]] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, pipe, out, **rest: calls.append((recipe, out, rest)))
    monkeypatch.setattr(ShapesWorld, "pipeline", lambda self: "the embedded base")

    def run(*arguments: str) -> tuple[Recipe, Path, dict[str, Any]]:
        assert main(["train", *arguments]) == 0
        return calls[-1]

    return run


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["shapes/circle-esd"],
        ["shapes/circle", "--seed", "3", "--train.iterations", "7", "--train.clip", "0.5", "--attack.steps", "2"],
        ["shapes/circle-uce", "--also", "shapes/red", "star"],
        ["shapes/red-spm", "--micro-batch", "2", "--gradient-checkpointing", "--every", "9", "--no-resume"],
        ["esd", "--concept", "star", "--anchor", "ring", "--component", "unet"],
        ["uce", "--concept", "star", "--synonyms", "asterisk"],
        ["advunlearn", "--concept", "star", "--inner-attack", "embedding_pgd", "--attack.steps", "4"],
        ["shapes/circle-race", "--cache-dir", "a b/banks", "--auto-synonyms", "0", "--tracker-project", "mine"],
    ],
)
@pytest.mark.parametrize("ending", ["json", "toml"])
def test_a_written_file_repeats_the_run(
    trained: Trained, tmp_path: Path, arguments: list[str], ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if ending == "toml":
        pytest.importorskip("tomli_w")
    out, file = str(tmp_path / "out"), str(tmp_path / "new" / f"run.{ending}")
    plain = trained(*arguments, "--out", out)
    capsys.readouterr()
    assert main(["train", *arguments, "--write-config", file]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert trained("--config", file, "--out", out) == plain
    assert main(["train", *arguments, "--out", out, "--write-config", file]) == 0
    assert trained("--config", file) == plain
    assert trained(f"--config={file}", "--seed", "11")[0] == replace(plain[0], seed=11)
    again = str(tmp_path / f"again.{ending}")
    assert main(["train", "--config", file, "--write-config", again]) == 0
    assert Path(again).read_text(encoding="utf-8") == Path(file).read_text(encoding="utf-8")


def test_every_option_of_a_run_is_in_the_file(tmp_path: Path) -> None:
    options = ["--out", "o", "--cache-dir", "c", "--micro-batch", "1", "--base", "shapes"]
    assert main(["train", "shapes/circle-esd", *options, "--write-config", str(tmp_path / "run.json")]) == 0
    known = {one.name for one in fields(cli_train.RecipeRun)} - {*NO_KEYS, "also"}
    whole = {"recipe", "family", "license", "concept", "method"}
    assert set(json.loads((tmp_path / "run.json").read_text())) == known | whole
    assert {one.name for one in fields(cli_train.MethodRun)} - {one.name for one in fields(cli_train.RecipeRun)} == {
        *OF_METHODS
    }


def test_the_command_line_wins_over_the_file(trained: Trained, tmp_path: Path) -> None:
    text = (
        'recipe = "shapes/circle-esd"\nseed = 2\nevery = 9\nresume = false\nmethod.train = {iterations = 5, clip = 1}\n'
    )
    file = written(tmp_path / "run.toml", f'out = "{tmp_path}/out"\n{text}')
    recipe, out, options = trained("--config", file)
    method: Any = RECIPES["shapes/circle-esd"]().method
    changed = replace(method, train=replace(method.train, iterations=5, clip=1.0))
    assert recipe == replace(RECIPES["shapes/circle-esd"](), method=changed, seed=2)
    assert (out, options["every"], options["resume"]) == (tmp_path / "out", 9, False)
    line = ["--train.iterations", "6", "--train.clip", "None", "--seed", "0", "--out", str(tmp_path / "x"), "--resume"]
    recipe, out, options = trained("shapes/circle-esd", "--config", file, *line)
    assert recipe == replace(
        RECIPES["shapes/circle-esd"](), method=replace(method, train=replace(method.train, iterations=6))
    )
    assert (out, options["every"], options["resume"]) == (tmp_path / "x", 9, True)


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.iterdir()))
def test_a_trained_encoder_is_a_file_of_settings(trained: Trained, tmp_path: Path, name: str) -> None:
    manifest = Manifest.read(SHIPPED / name)
    for place in (SHIPPED / name, SHIPPED / name / MANIFEST_NAME):
        recipe, _, _ = trained("--config", str(place), "--out", str(tmp_path / "out"))
        assert (recipe.name, recipe.seed) == (manifest.recipe["name"], manifest.recipe["seed"])
        assert recipe.concept == manifest.concept
        assert (recipe.base, recipe.license) == (manifest.base.family, manifest.license)
        assert recipe == replace(RECIPES[recipe.name](), seed=recipe.seed)


def test_an_encoder_without_a_recipe_is_refused(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_artifact(tiny_pipe, tmp_path / "artifact")
    assert "expected a method of this package" in refused(capsys, 2, "train", "--config", str(folder), "--out", "x")
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    (folder / MANIFEST_NAME).write_text(text.replace('"circle"', '"square"', 1), encoding="utf-8")
    assert "manifest" in refused(capsys, 1, "train", "--config", str(folder), "--out", "x")


def test_an_encoder_of_a_real_base_names_it_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def opened(name: str, **given: Any) -> OpenedBase:
        asked.append((name, given["dtype"]))
        return OpenedBase("a pipeline", "sd1", ("org/a",), "f" * 40)

    monkeypatch.setattr(cli_train, "open_named", opened)
    options = ["train", "sd1/church", "--base", "org/a@main", "--dtype", "bfloat16"]
    assert main([*options, "--write-config", str(tmp_path / "run.json")]) == 0
    recipe, _, _ = trained("--config", str(tmp_path / "run.json"), "--out", str(tmp_path / "out"))
    assert recipe == RECIPES["sd1/church"]()
    assert asked == [("org/a@main", "bfloat16")]
    values = json.loads((tmp_path / "run.json").read_text())
    del values["base"]
    file = written(tmp_path / "b.json", json.dumps(values))
    capsys.readouterr()
    assert "needs --base" in refused(capsys, 2, "train", "--config", file, "--out", "x")
    file = written(tmp_path / "c.json", json.dumps({**values, "family": "a-family", "recipe": "own/name"}))
    assert "needs --base" in refused(capsys, 2, "train", "--config", file, "--out", "x")


def test_a_base_whose_family_is_not_known_yet_is_written_without_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_train, "open_named", lambda *a, **k: OpenedBase("a pipeline", "sd2", ("org/a",), "f" * 40))
    options = ["esd", "--concept", "a balloon", "--kind", "object", "--base", "org/a"]
    plain = trained(*options, "--out", str(tmp_path / "out"))
    assert main(["train", *options, "--write-config", str(tmp_path / "run.json")]) == 0
    assert "recipe" not in json.loads((tmp_path / "run.json").read_text())
    assert trained("--config", str(tmp_path / "run.json"), "--out", str(tmp_path / "out")) == plain
    assert plain[0].name == "sd2/a balloon-esd"


def test_a_file_of_a_method_leaves_the_concept_to_the_command_line(trained: Trained, tmp_path: Path) -> None:
    file = written(tmp_path / "esd.toml", '[method]\nname = "esd"\n[method.train]\niterations = 5\n')
    for concept in ("star", "ring"):
        found = trained("--config", file, "--concept", concept, "--out", str(tmp_path / "out"))
        assert found == trained("esd", "--concept", concept, "--train.iterations", "5", "--out", str(tmp_path / "out"))
    unnamed = written(
        tmp_path / "short.toml", 'concept = "star"\nsynonyms = ["asterisk"]\nmethod.train = {iterations = 5}\n'
    )
    found = trained("esd", "--config", unnamed, "--out", str(tmp_path / "out"))
    line = ["--concept", "star", "--synonyms", "asterisk", "--train.iterations", "5"]
    assert found == trained("esd", *line, "--out", str(tmp_path / "out"))


def test_a_concept_of_ones_own_gets_the_usual_retain_prompts(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[concept]\nname = "{}"\nkind = "object"\nprompts = ["a star"]\n[method]\nname = "uce"\n'
    recipe, _, _ = trained(
        "--config", written(tmp_path / "a.toml", text.format("star")), "--out", str(tmp_path / "out")
    )
    plain, _, _ = trained("uce", "--concept", "star", "--out", str(tmp_path / "out"))
    assert recipe == replace(plain, concept=replace(plain.concept, prompts=("a star",), synonyms=(), anchor=""))
    capsys.readouterr()
    file = written(tmp_path / "b.toml", text.format("dog"))
    assert "concept.name" in refused(capsys, 2, "train", "--config", file, "--out", "x")


def test_further_concepts_are_not_retained(trained: Trained, tmp_path: Path) -> None:
    file = str(tmp_path / "run.json")
    assert main(["train", "shapes/circle-esd", "--write-config", file]) == 0
    recipe, _, _ = trained("--config", file, "--also", "red", "--out", str(tmp_path / "out"))
    assert [part.name for part in recipe.concept.parts] == ["circle", "red"]
    method: Any = recipe.method
    assert method.retained
    assert not [prompt for prompt in method.retained if "red" in prompt.split()]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["expected a recipe or a method, found neither"]),
        ('recipe = "shapes/circel-esd"', ["found 'shapes/circel-esd'; did you mean 'shapes/circle-esd'?"]),
        ('recipe = ["shapes/circle-esd", "shapes/red-esd"]', ["recipe: expected one name; write a file for each run"]),
        ('[[method]]\nname = "esd"\n[[method]]\nname = "uce"', ["method: expected one table"]),
        ('method = "esdd"', ["method.name: expected a method, found 'esdd'; did you mean 'esd'?"]),
        ('recipe = "shapes/circle-esd"\nmethod = "uce"', ["method.name: expected 'esd', the method of shapes"]),
        ('recipe = "shapes/circle-esd"\niterations = 3', ["iterations: .*did you mean method.train.iterations?"]),
        ('recipe = "shapes/circle-esd"\ncache-dir = "x"', ["did you mean cache_dir?"]),
        ('recipe = "shapes/circle-esd"\nsed = 3', ["sed: .*did you mean seed?"]),
        ('recipe = "shapes/circle-esd"\nkind = "object"', ["kind: expected no such setting beside a recipe"]),
        ('recipe = "shapes/circle-esd"\nconcept = "star"', ["concept: expected no such setting beside a recipe"]),
        ('recipe = "own/name"\nmethod = "esd"\nconcept = "star"', ["recipe: expected a recipe of this package"]),
        ('kind = "object"\nmethod = "esd"\n[concept]\nname = "star"\nkind = "object"', ["beside a table [concept]"]),
        ('method = "esd"\nfound_synonyms = 3\n[concept]\nname = "star"\nkind = "object"', ["found_synonyms: expected"]),
        (
            'recipe = "shapes/circle-esd"\nseed = "x"\ndtype = "fp16"\n[method.train]\nrate = true\niteratons = 3',
            ["found 4 problem(s)", "seed:", "dtype: expected one of", "method.train.rate:", "method.train.iterations?"],
        ),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_before_anything_is_loaded(
    tmp_path: Path, text: str, messages: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShapesWorld, "pipeline", lambda self: pytest.fail("the base was loaded"))
    said = refused(capsys, 2, "train", "--config", written(tmp_path / "run.toml", text), "--out", str(tmp_path / "out"))
    for message in messages:
        start, _, end = message.partition(".*")
        assert start in said
        assert end in said
    assert str(tmp_path / "run.toml") in said


def test_two_runs_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    circle = written(tmp_path / "a.toml", 'recipe = "shapes/circle-esd"\n')
    uce = written(tmp_path / "b.toml", 'method = "uce"\n')
    own = written(tmp_path / "c.toml", '[concept]\nname = "star"\nkind = "object"\n[method]\nname = "esd"\n')
    for name, file in (("shapes/red-esd", circle), ("esd", circle), ("esd", uce), ("shapes/red-esd", own)):
        said = refused(capsys, 2, "train", name, "--config", file, "--out", "x")
        assert f"expected one run, found {name!r} on the command line" in said
    assert "expected one --config" in refused(capsys, 2, "train", "--config", circle, "--config", uce)
    assert "expected a file after --config" in refused(capsys, 2, "train", "--config")
    assert "did you mean 'shapes/circle'" in refused(capsys, 2, "train", "shapes/circel", "--config", circle)


def test_the_file_that_is_read_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "a.toml", '# my comment\nrecipe = "shapes/circle-esd"\n')
    said = refused(capsys, 2, "train", "--config", file, "--write-config", file)
    assert "expected another file than that of --config" in said
    assert Path(file).read_text().startswith("# my comment")
    assert "ends in .toml or .json" in refused(capsys, 2, "train", "--config", file, "--write-config", "x.yaml")
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    assert "tomli-w" in refused(capsys, 2, "train", "--config", file, "--write-config", str(tmp_path / "b.toml"))


def test_help_is_that_of_the_run_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.toml", 'recipe = "shapes/circle-esd"\nseed = 17\nout = "here"\n')
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", file, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "[17]" in out
    assert "[here]" in out
    assert "--config PATH" in out


def test_the_sweep_of_the_docs_runs_line_by_line(trained: Trained, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    loop = re.search(r"robust-encoders train (--config runs/esd.json --train.rate .*)\n", text)
    by_hand = re.search(r"```text\n(recipe = .*?)```", text, re.DOTALL)
    assert loop is not None
    assert by_hand is not None
    file = str(tmp_path / "esd.json")
    assert main(["train", "shapes/circle-esd", "--write-config", file]) == 0
    line = loop[1].replace("runs/esd.json", file).replace("$rate", "1e-4").replace("$seed", "1").split()
    recipe, out, _ = trained(*line)
    method: Any = recipe.method
    assert (method.train.rate, recipe.seed, out) == (1e-4, 1, Path("runs/rate-1e-4-1"))
    recipe, out, _ = trained("--config", written(tmp_path / "hand.toml", by_hand[1]))
    method = recipe.method
    assert (method.train.iterations, method.train.clip, out) == (50, 1.0, Path("runs/by-hand"))


def test_trackers_may_be_named_in_one_option_or_in_several() -> None:
    rest = ["--out", "x", "--seed", "1"]
    both = ["--tracker", "a", "b"]
    assert joined("--tracker", ["--tracker", "a", *rest, "--tracker", "b"]) == [*rest, *both]
    assert joined("--tracker", [*rest, "--tracker=a", "--tracker=b"]) == [*rest, *both]
    assert joined("--tracker", [*rest, *both]) == [*rest, *both]
    assert joined("--tracker", rest) == rest
    assert joined("--tracker", ["--tracker-dir", "a"]) == ["--tracker-dir", "a"]


def test_the_trackers_of_the_command_line_replace_those_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "a.toml", 'recipe = "shapes/circle-esd"\ntracker = ["one"]\n')
    options = ["train", "--config", file, "--out", str(tmp_path / "out")]
    assert "found 'one'" in refused(capsys, 2, *options)
    assert "found 'two'" in refused(capsys, 2, *options, "--tracker", "two", "--tracker", "three")
    wrong = ["train", "shapes/circle-esd", "--out", str(tmp_path / "out"), "--tracker"]
    assert "did you mean 'wandb'" in refused(capsys, 2, *wrong, "wndb")
