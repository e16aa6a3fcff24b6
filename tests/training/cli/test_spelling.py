"""What a stranger types: another spelling of a concept or an option, a file where texts belong, a folder with a dot."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from commands import refused

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.concepts import Concept
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.training.cli.evaluate import concept_of
from robust_encoders.training.cli.evaluate_options import read_options


@pytest.fixture(scope="module")
def circle() -> LoadedArtifact:
    return RobustEncoder.from_pretrained("shapes/circle")


@pytest.mark.parametrize("given", ["vangogh", "van_gogh", "VAN GOGH", "Van-Gogh", "Van Gogh"])
def test_every_spelling_of_a_known_concept_means_it(given: str) -> None:
    assert concept_of(given) == Concept(name="Van Gogh", kind="style")


def test_the_kind_of_a_known_concept_is_kept() -> None:
    assert concept_of("Nudity").kind == concept_of("nudity").kind != "object"
    assert concept_of("garbage_truck").name == "garbage truck"


def test_what_the_encoder_erases_goes_before_what_the_catalog_knows(circle: LoadedArtifact) -> None:
    assert concept_of("Circle", [circle]) is circle.manifest.concept


def test_another_concept_than_the_erased_one_is_said(circle: LoadedArtifact, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert concept_of("circel", [circle]) == Concept(name="circel", kind="object")
    assert "the encoder erases 'circle', and what is looked for is the concept 'circel'" in caplog.text
    assert "leave --concept out to look for what the encoder erases" in caplog.text
    caplog.clear()
    assert concept_of("", [circle]) is circle.manifest.concept
    assert concept_of("red", [circle]).name == "red"
    assert concept_of("a lighthouse").name == "a lighthouse"
    assert not caplog.text


def test_options_with_underscores_are_read_like_those_with_hyphens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    command = ["train", "shapes/circle-advunlearn"]
    assert main([*command, "--inner_attack", "embedding_pgd", f"--write_config={file}"]) == 0
    capsys.readouterr()
    assert json.loads(file.read_text())["method"]["attack"]["name"] == "embedding_pgd"
    assert "nonsense" in refused(capsys, 2, *command, "--inner_attack", "nonsense", "--write-config", str(file))
    run, _ = read_options(["--out", str(tmp_path), "--n_kept", "7"])
    assert run.settings.n_kept == 7


@pytest.mark.parametrize(
    ("recipe", "option"), [("shapes/circle-advunlearn", "--retain.prompts"), ("shapes/circle-uce", "--preserve")]
)
def test_a_file_where_texts_belong_is_refused(
    recipe: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "keep.txt"
    keep.write_text("a dog\na cat\n")
    out = ["--out", str(tmp_path / "out"), "--device", "banana"]
    for texts in ([str(keep)], ["a dog", str(keep)], ["missing.csv"]):
        said = refused(capsys, 2, "train", recipe, option, *texts, *out)
        assert "expected texts, found the name of a file" in said
        assert "`robust-encoders train METHOD --retain-prompts FILE`" in said
    said = refused(capsys, 2, "train", recipe, option, "a dog", "a file called missing.csv", *out)
    assert "name of a file" not in said
    method = recipe.rpartition("-")[2]
    said = refused(capsys, 2, "train", method, "--concept", "circle", "--retain-prompts", str(keep), *out)
    assert "name of a file" not in said
    assert "banana" in said


def test_prompts_are_asked_for_where_the_pictures_have_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "PNDMScheduler"],
        },
        "text_encoder/config.json": {"architectures": ["CLIPTextModel"], "hidden_size": 768},
        "unet/config.json": {"in_channels": 4, "sample_size": 64, "cross_attention_dim": 768},
        "vae/config.json": {"latent_channels": 4},
    }
    for name, content in parts.items():
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text(json.dumps(content))
    command = ["evaluate", "base", "--concept", "red", "--base", str(tmp_path / "base"), "--device", "cpu"]
    said = refused(capsys, 2, *command, "--out", str(tmp_path / "out"))
    assert "expected --prompts with a base of your own, the file of prompts, found none" in said
    assert "judges of shapes would look at pictures of another size" in said


def test_a_folder_may_have_a_dot_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robust_encoders.training.cli import demo

    drawn: list[Path] = []

    class Made:
        table = "drawn"

    def run(out: Path, **_: object) -> type[Made]:
        drawn.append(out)
        return Made

    monkeypatch.setattr(demo, "run_demo", run)
    (tmp_path / "v0.2").mkdir()
    for name in ("v0.2", "results.2025"):
        assert main(["demo", "--out", str(tmp_path / name)]) == 0
        assert drawn[-1] == tmp_path / name
    capsys.readouterr()
    assert "found a file name" in refused(capsys, 2, "demo", "--out", str(tmp_path / "picture.PNG"))
