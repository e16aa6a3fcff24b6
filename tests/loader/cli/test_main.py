"""The loader's commands: answers on stdout, errors in one line on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from commands import refused, save_artifact
from diffusers import StableDiffusionPipeline

import robust_encoders
from robust_encoders.cli.main import TRAINING_COMMANDS, main
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.training.cli import main as training_cli

PipelineMaker = Callable[..., StableDiffusionPipeline]


@pytest.fixture
def base(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """A pipeline folder."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def artifact(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """An encoder that fits ``base``."""
    return save_artifact(tiny_pipe, tmp_path / "artifact")


def test_list_names_every_encoder_with_its_base_licence_and_pin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "name"
    assert [line.split()[0] for line in lines] == list(CATALOG)
    for entry, line in zip(CATALOG.values(), lines, strict=True):
        assert all(text in line for text in (entry.base, entry.licence, entry.pin))
        assert ("converted on first use" in line) == (entry.format == "pickle")


def test_list_as_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list(CATALOG)
    assert {entry["pin"] for entry in entries if entry["repo"]} == {"unpinned"}


def test_info_tells_what_the_manifest_says(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(artifact)]) == 0
    out = capsys.readouterr().out
    for text in ("circle", "disc", "a-method", "a-family", "a-licence", "pre_asr", "0.125", "[0.020, 0.470]", "n=8"):
        assert text in out
    assert next(line for line in out.splitlines() if "asr_any" in line).split()[1] == "an-attack"


def test_whoever_stops_reading_gets_no_traceback(artifact: Path) -> None:
    run = "from robust_encoders.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", run, "info", str(artifact)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_info_counts_withdrawn_numbers_and_json_has_them(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = {"value": 0.125, "n": 8, "interval": None, "prompt_set": "kept-set", "origin": "measured"}
    gone = {**number, "prompt_set": "gone-set", "settings": {"doubts": ["withdrawn: too few"]}}
    results = tuple({**one, "metric": "asr_any"} for one in (number, gone, gone))
    manifest = replace(tiny_encoder.manifest, results=results)
    RobustEncoder(manifest, tiny_encoder.tensors, tiny_encoder.config).save_pretrained(tmp_path / "a")
    assert main(["info", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("kept-set") == 1
    assert "gone-set" not in shown
    assert "withdrawn, because: too few" in shown
    assert shown.endswith("left out: 2; `robust-encoders info NAME --json` prints them, too\n")
    assert main(["info", str(tmp_path / "a"), "--json"]) == 0
    assert len([one for one in json.loads(capsys.readouterr().out)["results"] if one["prompt_set"] == "gone-set"]) == 2


def test_info_as_json_is_the_manifest(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((artifact / "robust_encoder.json").read_text())


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_info_of_a_published_pickle_shows_its_catalog_entry(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "nudity", *flags]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("OPTML-Group/AdvUnlearn", "cc-by-4.0", "unpinned", "converted on first use"))


def test_check_says_yes_to_a_base_that_fits(artifact: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(artifact), str(base)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "fits"


def test_check_says_no_with_every_reason(
    artifact: Path, make_pipe: PipelineMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = make_pipe(width=32, merges=40)
    pipe.save_pretrained(tmp_path / "other")
    expected = RobustEncoder.from_pretrained(artifact).check(pipe)
    assert len(expected.errors) > 1

    assert main(["check", str(artifact), str(tmp_path / "other"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {check["name"] for check in report["checks"] if not check["ok"]} >= {check.name for check in expected.errors}

    assert main(["check", str(artifact), str(tmp_path / "other")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "does not fit"
    for check in expected.errors:
        place = next(i for i, line in enumerate(lines) if line.startswith("error") and line.endswith(check.name))
        assert check.remedy in lines[place + 1]


def test_a_wrong_name_is_bad_usage_and_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, 2, "info", "shapes/circel")
    assert "did you mean 'shapes/circle'" in message.lower()


def test_what_the_hub_does_not_deliver_is_a_no(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    assert "nudity" in refused(capsys, 1, "check", "nudity", str(base))


def test_a_damaged_artifact_is_refused_as_a_no(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact / "robust_encoder.json").write_text("{}")
    assert "concept" in refused(capsys, 1, "info", str(artifact))


def test_a_folder_without_a_pipeline_is_bad_usage(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "model_index.json" in refused(capsys, 2, "check", str(artifact), str(tmp_path / "nowhere"))


def test_an_incomplete_pipeline_is_bad_usage(artifact: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "unet" / "config.json").unlink()
    assert str(base) in refused(capsys, 2, "check", str(artifact), str(base))


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["check", "shapes/circle"], ["train"], ["shapes"], ["shapes", "build"]]
)
def test_a_command_line_that_does_not_parse_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2


@pytest.mark.parametrize("arguments", [["--version"], *([name, "--help"] for name in TRAINING_COMMANDS)])
def test_help_and_version_exit_with_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert (robust_encoders.__version__ if arguments == ["--version"] else arguments[0]) in out


def test_the_help_lists_the_training_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert [name for name in TRAINING_COMMANDS if name not in out] == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    message = refused(capsys, 1, "train", "shapes/circle", "--out", "unused")
    assert "tyro" in message
    assert "pip install '.[train]'` in a clone" in message


def test_any_other_missing_module_is_not_disguised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'nonsense'", name="nonsense")

    monkeypatch.setattr(training_cli, "main", broken)
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        main(["demo"])
