"""Opening a page: everything is loaded, and what is missing is told first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import save_artifact
from diffusers import StableDiffusionImg2ImgPipeline
from studios import safety_checker

from robust_encoders import CATALOG, Concept
from robust_encoders.errors import NotReadyError, UnknownNameError
from robust_encoders.hub import embedded
from robust_encoders.training.app import opening
from robust_encoders.training.app.opening import AppConfig, open_studio
from robust_encoders.training.app.request import PictureRequest
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS


@pytest.fixture
def base(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A pipeline folder without a safety checker."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def artifact(tiny_pipe: Any, tmp_path: Path) -> Path:
    """An encoder that fits ``base``."""
    return save_artifact(tiny_pipe, tmp_path / "artifact")


@pytest.mark.base
def test_the_embedded_base_opens_with_all_its_encoders() -> None:
    studio = open_studio(AppConfig())
    assert list(studio.encoders) == [name for name, entry in CATALOG.items() if entry.embedded_base == "shapes"]
    assert studio.title == "the small base of coloured shapes in the package"
    assert set(studio.trials) == {"circle", "striped", "red"}
    assert studio.sampling == SamplingConfig(15, 4.0)
    assert studio.screen.draws == "coloured shapes"
    assert studio.workers == 2


def test_the_emoji_base_opens_by_its_name(
    tiny_pipe: Any, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a benchmark of that name the page draws, and says that it cannot attack."""
    monkeypatch.setattr(embedded, "embedded_folder", lambda name: tmp_path / name)
    if "emoji" in BENCHMARKS:
        monkeypatch.delitem(BENCHMARKS, "emoji")
    wrong = AppConfig(base="emoji").problems()
    assert f"expected the embedded base in {tmp_path / 'emoji' / 'base'}, found no model_index.json" in " ".join(wrong)
    tiny_pipe.save_pretrained(tmp_path / "emoji" / "base")
    studio = open_studio(AppConfig((str(artifact),), "emoji", steps=1))
    assert studio.title == "the small base of emoji in the package"
    assert studio.screen.words() == "Nothing is filtered, because this base draws nothing but emoji."
    assert studio.trials["circle"].needs[0].startswith("The embedded base emoji has no attacks yet")
    assert studio.draw(PictureRequest("a beer mug", encoders=(str(artifact),))).after is not None


def test_an_embedded_base_without_encoders_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {name: entry for name, entry in CATALOG.items() if entry.embedded_base != "emoji"}
    monkeypatch.setattr(opening, "CATALOG", shapes)
    told = AppConfig(base="emoji").problems()
    assert "found none; name them, for example `robust-encoders app FOLDER --base emoji`" in told[0]
    assert "name them" not in " ".join(AppConfig().problems())


def test_another_base_opens_with_the_encoders_that_are_named(base: Path, artifact: Path) -> None:
    studio = open_studio(AppConfig((str(artifact),), str(base), steps=1, guidance=3.0, workers=1))
    assert (studio.sampling.steps, studio.sampling.guidance) == (1, 3.0)
    assert studio.screen.draws == ""
    assert studio.screen.words().endswith("Pictures may be explicit.")
    drawn = studio.draw(PictureRequest("a circle", encoders=(str(artifact),)))
    assert drawn.after is not None
    assert "Nobody judges yet" in studio.trials["circle"].needs[0]
    assert studio.title == str(base)


def test_the_safety_checker_is_asked_by_the_page_and_no_longer_by_the_pipeline(
    tiny_pipe: Any, tmp_path: Path, artifact: Path
) -> None:
    found, extractor = safety_checker(-2.0)
    tiny_pipe.register_modules(safety_checker=found, feature_extractor=extractor)
    tiny_pipe.save_pretrained(tmp_path / "checked")
    studio = open_studio(AppConfig((str(artifact),), str(tmp_path / "checked"), steps=1))
    drawn = studio.draw(PictureRequest("a circle", encoders=(str(artifact),)))
    assert drawn.after is not None
    assert (drawn.before.covered, drawn.after.covered) == ("the safety checker", "the safety checker")
    with studio.pipeline() as pipe:
        assert pipe.safety_checker is None


def test_wrong_settings_are_told_together(base: Path, artifact: Path) -> None:
    with pytest.raises(NotReadyError) as refused:
        open_studio(AppConfig(base=str(base), workers=0, steps=0))
    text = str(refused.value)
    assert f"found none; name them, for example `robust-encoders app nudity --base {base}`" in text
    assert "expected at least 1 worker, found 0; leave --workers out for 2" in text
    assert "expected at least 1 step, found 0; leave --steps out for the usual number" in text
    assert open_studio(AppConfig((str(artifact),), str(base))).workers == 2


def test_a_detector_belongs_to_one_concept(
    tiny_pipe: Any, base: Path, artifact: Path, tmp_path: Path, make_encoder: Callable[..., Any]
) -> None:
    make_encoder(tiny_pipe, concept=Concept(name="red", kind="attribute")).save_pretrained(tmp_path / "red")
    both = (str(artifact), str(tmp_path / "red"))
    with pytest.raises(NotReadyError, match="expected encoders of one concept beside --detector, found circle, red"):
        open_studio(AppConfig(both, str(base), detector="nudenet"))
    assert set(open_studio(AppConfig(both, str(base))).trials) == {"circle", "red"}
    assert open_studio(AppConfig(both[:1], str(base), detector="nudenet")).trials["circle"].detector is not None


def test_a_pipeline_that_needs_a_picture_is_refused(tiny_pipe: Any, base: Path, artifact: Path, tmp_path: Path) -> None:
    StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False).save_pretrained(
        tmp_path / "img2img"
    )
    with pytest.raises(NotReadyError, match="draws from a prompt alone, found StableDiffusionImg2ImgPipeline"):
        open_studio(AppConfig((str(artifact),), str(tmp_path / "img2img")))
    assert open_studio(AppConfig((str(artifact),), str(base))).title == str(base)  # a text-to-image pipeline as --base


def test_names_that_do_not_exist_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        open_studio(AppConfig(("shapes/cirle",)))
    # What is wrong with the rest is told before an encoder is fetched.
    wrong = AppConfig(("shapes/cirle",), str(tmp_path / "none"), detector="nudnet", device="cuda:9")
    with pytest.raises(NotReadyError) as refused:
        open_studio(wrong)
    assert "no model_index.json in" in str(refused.value)
    assert "found 'nudnet'" in str(refused.value)
    assert "found 'cuda:9'" in str(refused.value)
    with pytest.raises(NotReadyError, match="expected a detector, found 'nudnet'; did you mean 'nudenet'"):
        open_studio(AppConfig(detector="nudnet"))
