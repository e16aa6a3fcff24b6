"""``synonyms`` prints the nearest words; ``train --auto-synonyms`` shows, erases and records them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.training.recipes.reproduce import recorded_recipe


def test_the_command_prints_words_and_cosines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synonyms", "circle", "--synonyms", "disc", "ball", "--anchor", "square", "--k", "2"]) == 0
    out = capsys.readouterr().out
    assert "words near 'circle' by embedding, cosine of at least 0.4:" in out
    assert " 0.82  round" in out
    assert main(["synonyms", "circle", "--threshold", "0.99"]) == 0
    assert "none; lower the threshold" in capsys.readouterr().out


def test_settings_outside_their_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synonyms", "circle", "--k", "0"]) == 2
    assert "expected k of at least 1" in capsys.readouterr().err


def test_training_shows_erases_and_records_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    arguments = ["train", "shapes/circle-des", "--train.iterations", "1", "--batch", "4", "--auto-synonyms", "3"]
    assert main([*arguments, "--synonym-threshold", "0.5", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("0.82  round") < shown.index(str(out))
    manifest = RobustEncoder.from_pretrained(out).manifest
    assert manifest.concept.synonyms[-1] == "round"
    assert any("round" in prompt.split() for prompt in manifest.concept.prompts)
    assert manifest.recipe["found_synonyms"] == {"round": pytest.approx(0.82, abs=0.01)}
    assert json.loads((out / "robust_encoder.json").read_text())["recipe"]["found_synonyms"].keys() == {"round"}
    assert recorded_recipe(manifest).concept == manifest.concept
