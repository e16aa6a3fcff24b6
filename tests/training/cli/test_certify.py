"""``certify`` from the command line: what it refuses before anything long, and what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import refused, save_artifact

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.interrupted import way_on
from robust_encoders.cli.main import main
from robust_encoders.hub import embedded

TINY = ["--pairs-among", "2", "--nearest", "3", "--random", "2", "--each", "1", "--seeds", "1", "--floor", "2"]
TINY += ["--steps", "2"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--record",), "expected the folder of an encoder with --record, found shapes/circle; name its folder"),
        (("--nearest", "0"), "found nearest 0: raise them"),
        (("--floor", "2"), "found floor 2, below seeds 4: raise them"),
        (("--steps", "0"), "expected steps and batch of at least 1"),
        (("--detector", "shapes-judge"), "shapes-judge"),
        (("--base", "nowhere/at-all/here"), "nowhere/at-all/here"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: tuple[str, ...], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert fragment in refused(capsys, 2, "certify", "shapes/circle", "--out", str(out), *arguments)
    assert not out.exists()


def test_a_base_of_ones_own_needs_a_detector(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "base")
    encoder = save_artifact(tiny_pipe, tmp_path / "encoder")
    said = refused(capsys, 2, "certify", str(encoder), "--base", str(tmp_path / "base"), "--out", str(tmp_path / "out"))
    assert "expected --detector for the base" in said
    assert "--detector nudenet" in said


@pytest.mark.base
def test_it_is_written_recorded_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "circle", tmp_path / "out"
    shutil.copytree(Path(embedded.__file__).parents[1] / "assets" / "shapes" / "encoders" / "circle", folder)
    assert main(["certify", str(folder), "--record", "--out", str(out), *TINY]) == 0
    printed = capsys.readouterr().out
    record = json.loads((out / "certificate.json").read_text())
    assert record["settings"]["prompts"] == 1 + 226 + 4
    said = record["settings"]["statement"]
    assert printed.startswith(f"{said[0].upper()}{said[1:]}.")
    assert "By chance, the empty prompt shows it" in printed
    assert (out / "certificate.svg").read_bytes().startswith(b"<?xml")
    manifest = Manifest.read(folder)
    assert [one for one in manifest.results if one["metric"] == "certificate"] == [record]
    assert manifest.results[-1]["settings"]["base"]["id"] == "shapes"
    assert "## A finite certificate" in (folder / "README.md").read_text(encoding="utf-8")
    # The second run reads every part, and the card's hashes are those of the same weights.
    assert main(["certify", str(folder), "--out", str(out), "--json", *TINY]) == 0
    assert json.loads(capsys.readouterr().out) == record


def test_a_stopped_run_says_how_to_go_on() -> None:
    said = way_on(["certify", "shapes/circle", "--out", "runs/c"])
    assert said == "run the same command again to go on: the finished parts are kept in runs/c"


def test_a_record_goes_into_the_folder_that_was_certified(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may have the name of an encoder of the package; that one must not be written over it."""
    folder = save_artifact(tiny_pipe, tmp_path / "shapes" / "circle")
    before = (folder / "robust_encoder.json").read_bytes()
    monkeypatch.chdir(tmp_path)
    for command, more in (("certify", TINY), ("evaluate", ["--suite", "quick"])):
        assert main([command, "shapes/circle", "--record", "--out", str(tmp_path / command), *more]) != 0
        assert "the encoder does not fit this pipeline" in capsys.readouterr().err
        assert (folder / "robust_encoder.json").read_bytes() == before
