"""Walks along the remedies of errors that come at the beginning: words, files, folders, homes, tokens, bases."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from tree import ROOT

from robust_encoders import Concept
from robust_encoders.cli.main import main
from robust_encoders.errors import BaseLoadError, HomeError
from robust_encoders.hub.client import sending_problems
from robust_encoders.hub.pins import Pin, read_pins, write_pin
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline
from robust_encoders.training.cli import evaluate as cli_evaluate
from robust_encoders.training.cli import judge as cli_judge
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.evaluation.benchmarks.stable_diffusion import StableDiffusionBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.second_judgement import SecondJudgement
from robust_encoders.training.evaluation.suite import SUITE_KEY, SUITE_VERSION
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.recipes.preflight import list_warnings
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Recipes that would have been trained."""
    recipes: list[Recipe] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *_, **__: recipes.append(recipe))
    return recipes


def after(words: str, told: str) -> list[str]:
    """Return what a message says to write, from ``words`` to the end of its clause."""
    found = re.search(rf"{re.escape(words)}[^;\n]*", told)
    assert found is not None, told
    return shlex.split(found[0].removeprefix("write "))


def test_several_concepts_in_one_word(
    trained: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    told = refused(capsys, 2, "train", "esd", "--concept", "circle, square", *out)
    assert "several concepts are --concept NAME --also OTHER ..., further words of one concept are --synonyms" in told
    assert main(["train", "esd", "--concept", "circle", "--also", "square", *out]) == 0
    assert main(["train", "esd", "--concept", "circle", "--synonyms", "ring", *out]) == 0
    assert [part.name for part in trained[0].concept.parts] == ["circle", "square"]
    assert "ring" in trained[1].concept.words()


@pytest.mark.parametrize(("words", "value"), [("write --also ", "square, star"), ("write --synonyms ", "disc, ring")])
def test_several_words_in_one_value(
    trained: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, value: str
) -> None:
    start = ["train", "esd", "--concept", "circle", "--out", str(tmp_path / "out")]
    told = refused(capsys, 2, *start, words.split()[1], value)
    assert main([*start, *after(words, told)]) == 0
    found = {word for part in trained[0].concept.parts or (trained[0].concept,) for word in part.words()}
    assert set(re.split(", ", value)) <= found


def test_a_concept_that_reads_like_a_list() -> None:
    recipe = RECIPES["shapes/circle-esd"]()
    listed = Recipe(name="x", concept=Concept(name="circle, square", kind="object"), method=recipe.method)
    (told,) = list_warnings(listed)
    assert "for several concepts use Recipe.together (--also on the command line)" in told
    assert list(list_warnings(recipe.together((Concept(name="star", kind="object"),)))) == []


@pytest.mark.parametrize(("option", "written"), [("words", "write --words "), ("categories", "write --categories ")])
def test_lists_of_a_benchmark_in_one_value(tmp_path: Path, option: str, written: str) -> None:
    (tmp_path / "p.csv").write_text("prompt,evaluation_seed\na red circle,1\n")
    parts: dict[str, Any] = {
        "concept": Concept(name="circle", kind="object"),
        "prompts": str(tmp_path / "p.csv"),
        "kept": str(tmp_path / "p.csv"),
    }

    def told(values: tuple[str, ...]) -> list[str]:
        benchmark = StableDiffusionBenchmark(**{**parts, option: values})
        return [one for one in benchmark.problems(EvaluationConfig()) if written in one]

    (problem,) = told(("a, b",))
    _, *values = after(written, problem)
    assert values == ["a", "b"]
    assert told(tuple(values)) == []


def test_captions_of_windows(trained: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "captions.txt").write_bytes("a red circle\na caf\u00e9 circle\n".encode("cp1252"))
    command = ["train", "esd", "--concept", "circle", "--out", str(tmp_path / "out"), "--prompts"]
    told = refused(capsys, 2, *command, str(tmp_path / "captions.txt"))
    assert "expected UTF-8 in" in told
    found = re.search(r"`(iconv [^`]+)`", told)
    assert found is not None
    subprocess.run(found[1], shell=True, cwd=tmp_path, check=True)
    assert main([*command, str(tmp_path / "utf8.txt")]) == 0
    assert "a caf\u00e9 circle" in trained[0].concept.prompts


def test_a_report_beside_an_unfinished_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(Exception):
        pass

    def stop(*_: Any, **__: Any) -> Any:
        raise ReachedError

    monkeypatch.setattr(cli_evaluate, "open_named", stop)
    command = ["evaluate", "base", "--concept", "circle", "--out", str(tmp_path / "out"), "--beside"]
    told = refused(capsys, 2, *command, str(tmp_path))
    assert "expected folders of finished evaluations with --beside, found no results.json" in told
    with pytest.raises(ReachedError):
        main([*command, str(finished(tmp_path / "base"))])


def finished(folder: Path) -> Path:
    """Write a finished evaluation of the present suite version, with a folder for its parts."""
    number = replace(rate("pre_asr", [False] * 4), settings={SUITE_KEY: SUITE_VERSION}, prompt_set="circle/name")
    Evaluation("base", "circle", (number,), benchmark="shapes").write(folder / "results.json")
    (folder / "cells").mkdir()
    return folder


def test_parts_of_another_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_evaluate, "open_named", lambda *_, **__: sys.exit(0))
    command = ["evaluate", "base", "--concept", "circle", "--out", str(tmp_path / "out"), "--reuse"]
    told = refused(capsys, 2, *command, str(tmp_path))
    assert "expected folders of evaluations with --reuse, found no folder cells in" in told
    with pytest.raises(SystemExit, match="0"):
        main([*command, str(finished(tmp_path / "another"))])


def test_a_second_judgement_in_a_place_that_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(folder: Path, detector: Any) -> SecondJudgement:
        before = Evaluation.read(folder)
        return SecondJudgement(before, before, {}, "all", 0, 0.0)

    monkeypatch.setattr(cli_judge, "judge_again", judged)
    one, same = finished(tmp_path / "a" / "run"), finished(tmp_path / "b" / "run")
    command = ["judge", str(one), "--detector", "shapes_judge", "--out"]
    told = refused(capsys, 2, *command, str(same))
    assert "yet, found results.json; choose another folder with --out" in told
    assert main([*command, str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "results.json").is_file()
    capsys.readouterr()
    both = ["judge", str(one), str(same), "--detector", "shapes_judge"]
    assert "expected folders with names of their own for --out" in refused(capsys, 2, *both, "--out", str(tmp_path))
    assert main(both) == 0
    assert (same / "judged-shapes_judge" / "results.json").is_file()


def test_a_folder_in_place_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["results", str(ROOT / "studies" / "matrix" / "circle" / "base"), "--csv"]
    told = refused(capsys, 2, *command, str(tmp_path))
    found = re.search(r"expected a file name after --csv, found a folder: .*; name a file, such as (\S+)", told)
    assert found is not None
    assert main([*command, found[1]]) == 0
    assert Path(found[1]).read_text().startswith("source,label,")


def test_files_of_settings(trained: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "run.json"), ["--out", str(tmp_path / "out")]
    assert "train NAME --write-config FILE writes one" in refused(capsys, 2, "train", "--config", file, *out)
    assert main(["train", "shapes/circle-esd", "--write-config", file]) == 0
    capsys.readouterr()
    assert "expected one --config" in refused(capsys, 2, "train", "--config", file, "--config", file, *out)
    assert "expected a file after --config, found none" in refused(capsys, 2, "train", *out, "--config")
    told = refused(capsys, 2, "train", "--config", file, "--write-config", file, *out)
    assert "expected another file than that of --config" in told
    assert main(["train", "--config", file, "--write-config", str(tmp_path / "new.json"), *out]) == 0
    assert main(["train", "--config", file, *out]) == 0
    assert [recipe.name for recipe in trained] == ["shapes/circle-esd"]


def test_a_user_without_a_folder_of_his_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "ROBUST_ENCODERS_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(path: str) -> str:
        return path

    monkeypatch.setattr(os.path, "expanduser", unknown)
    with pytest.raises(HomeError, match="this user has no home directory; set ROBUST_ENCODERS_HOME"):
        write_pin("a/b", Pin(files={}))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(HomeError, match=r"expected a folder that can be written .* set ROBUST_ENCODERS_HOME"):
        write_pin("a/b", Pin(files={}))
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "own"))
    write_pin("a/b", Pin(files={}))
    assert list(read_pins()) == ["a/b"]


def test_a_folder_of_pins_that_may_not_be_entered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "own"))
    write_pin("a/b", Pin(files={}))
    with monkeypatch.context() as patch:

        def forbidden(*_: Any, **__: Any) -> str:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "read_text", forbidden)
        patch.setattr(os, "access", lambda *_: False)
        assert read_pins() == {}
    assert "no pins apply: this user may not enter" in caplog.text
    assert "set ROBUST_ENCODERS_HOME" in caplog.text
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "another"))
    write_pin("c/d", Pin(files={}))
    assert list(read_pins()) == ["c/d"]


def test_a_push_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (told,) = sending_problems("org/name", token=True)
    assert "expected a token with write permission" in told
    assert "set HF_TOKEN" in told
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    assert sending_problems("org/name", token=True) == []


def test_a_base_with_pickles(tiny_pipe: Any, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "base", safe_serialization=False)
    for made in (tmp_path / "base").glob("*/*.safetensors"):  # newest transformers writes nothing else
        convert_to_pickle(made)
    with pytest.raises(BaseLoadError, match="expected a complete pipeline with safetensors") as told:
        load_pipeline(tmp_path / "base", PipelineOptions(safetensors=True))
    found = re.search(r'python -c "(.+)" and|python -c "(.+)"`', str(told.value))
    assert found is not None
    code = (found[1] or found[2]).replace("'FOLDER'", repr(str(tmp_path / "copy")))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert load_pipeline(tmp_path / "copy", PipelineOptions(safetensors=True)).pipe is not None


def convert_to_pickle(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    names = {"model.safetensors": "pytorch_model.bin"}
    torch.save(load_file(path), path.with_name(names.get(path.name, path.name.replace(".safetensors", ".bin"))))
    path.unlink()


def test_a_base_of_several_variants(tiny_pipe: Any, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "base")
    for component, variant in (("unet", "fp16"), ("vae", "bf16")):
        (weights,) = (tmp_path / "base" / component).glob("*.safetensors")
        weights.rename(weights.with_name(weights.name.replace(".safetensors", f".{variant}.safetensors")))
    with pytest.raises(BaseLoadError, match="expected weights of one variant") as told:
        load_pipeline(tmp_path / "base")
    assert "save the pipeline again with plain names: pipe.save_pretrained(FOLDER)" in str(told.value)
    tiny_pipe.save_pretrained(tmp_path / "again")
    assert load_pipeline(tmp_path / "again").pipe is not None
