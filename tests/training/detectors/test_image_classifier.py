"""A published classifier as a detector: what the model itself says of a picture, and which class is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_folders import pictures, resnet_folder, vit_folder
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from robust_encoders.training import protocols
from robust_encoders.training.detectors import DETECTORS, hub_models
from robust_encoders.training.detectors.hub_models import Source
from robust_encoders.training.detectors.image_classifier import ImageClassifier, find_class
from robust_encoders.training.metrics.rates import detect

LABELS = ("tench, Tinca tinca", "church, church building", "crane", "parachute, chute", "crane")


@pytest.fixture(scope="module", params=[vit_folder, resnet_folder])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("models") / "tiny", LABELS)
    return made


def naive_logits(folder: Path, images: Tensor) -> Tensor:
    """One Pillow picture at a time, as UnlearnDiffAtk does."""
    processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model: Any = AutoModelForImageClassification.from_pretrained(folder).eval()
    rows = []
    for image in images:
        picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        with torch.no_grad():
            rows.append(model(**processor(images=picture, return_tensors="pt")).logits[0])
    return torch.stack(rows)


def test_the_probability_is_the_models_own_whatever_the_batch(folder: Path) -> None:
    images = pictures(7)
    expected = naive_logits(folder, images).softmax(1)[:, 3]
    for batch in (1, 3, 32):
        detector = ImageClassifier(str(folder), "chute", threshold=0.2, batch=batch)
        torch.testing.assert_close(detector(images), expected, atol=1e-5, rtol=1e-4)
    assert detector.threshold == 0.2
    assert detect(detector, images) == [bool(p >= 0.2) for p in expected]


@pytest.mark.parametrize("top", [None, 1, 2, 4])
def test_it_counts_exactly_where_the_class_is_among_the_first(folder: Path, top: int | None) -> None:
    images = pictures(24)
    order = naive_logits(folder, images).argsort(dim=1, descending=True)
    found = []
    for index in range(len(LABELS)):
        flags = detect(ImageClassifier(str(folder), str(index), top=top), images)
        assert flags == [index in row[: top or 1].tolist() for row in order]
        found += flags
    assert sum(found) == (top or 1) * len(images)


def test_the_margin_is_in_logits_and_never_above_the_first_choice(folder: Path) -> None:
    images = pictures(9)
    logits = naive_logits(folder, images)
    expected = logits[:, 1] - logits.max(1).values
    torch.testing.assert_close(ImageClassifier(str(folder), "church")(images), expected, atol=1e-5, rtol=1e-4)


def test_name_and_version_say_what_judges(tmp_path: Path) -> None:
    one = vit_folder(tmp_path / "one", LABELS)
    again = vit_folder(tmp_path / "again", LABELS)
    other = vit_folder(tmp_path / "other", LABELS, seed=1)
    made = [ImageClassifier(str(place), "church") for place in (one, again, other)]
    assert made[0].name == "one/church, church building/top-1"
    assert made[0].version == made[1].version != made[2].version
    assert made[0].version != ImageClassifier(str(one), "tench").version
    assert ImageClassifier(str(one), "church", threshold=0.5).name.endswith("/probability")
    prepared = one / "preprocessor_config.json"
    prepared.write_text(prepared.read_text().replace('"resample": 2', '"resample": 3'))
    assert ImageClassifier(str(one), "church").version != made[0].version


def test_it_is_registered_and_a_detector(folder: Path) -> None:
    assert DETECTORS["image_classifier"] is ImageClassifier
    assert isinstance(ImageClassifier(str(folder), "church"), protocols.Detector)


@pytest.mark.parametrize(
    ("label", "index"),
    [("Church", 1), ("church, church building", 1), ("CHURCH_BUILDING", 1), ("tinca-tinca", 0), ("4", 4)],
)
def test_classes_are_found_by_any_of_their_names(label: str, index: int) -> None:
    assert find_class(dict(enumerate(LABELS)), label, "tiny") == index


def test_a_label_that_is_a_number_goes_before_the_number() -> None:
    assert find_class({0: "1", 1: "0"}, "1", "digits") == 0


def test_classes_that_are_not_there_or_not_single_are_refused() -> None:
    names = dict(enumerate(LABELS))
    with pytest.raises(ValueError, match="found 'churhc'; similar labels: church, church building"):
        find_class(names, "churhc", "tiny")
    with pytest.raises(ValueError, match="similar labels: parachute, chute"):
        find_class(names, "para", "tiny")
    with pytest.raises(ValueError, match="none of its 5 labels is similar to it"):
        find_class(names, "zzz", "tiny")
    with pytest.raises(ValueError, match=r"found 2 \(crane\), 4 \(crane\): give its number"):
        find_class(names, "crane", "tiny")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": 1, "threshold": 0.5}, "top or threshold"),
        ({"threshold": 0.0}, r"threshold in \(0, 1\]"),
        ({"threshold": 1.5}, r"threshold in \(0, 1\]"),
        ({"top": 0}, "top between 1 and 4"),
        ({"top": 5}, "top between 1 and 4"),
        ({"batch": 0}, "batch of at least 1"),
    ],
)
def test_settings_without_meaning_are_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageClassifier(str(folder), "church", **changes)


def test_pictures_outside_the_unit_range_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected pictures in \[0, 1\]"):
        ImageClassifier(str(folder), "church")(pictures(2) * 255)


def test_sources_name_a_revision_unless_they_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_models, "unreachable", lambda: "")
    assert Source.parse("org/name") == Source("org/name")
    assert Source.parse("org/name@abc") == Source("org/name", "abc")
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert Source.parse(str(folder)) == Source(str(folder))
    assert Source.parse(str(folder)).name == "a@b"
    assert Source("org/name", "abc").load(_Asked) == ("org/name", {"revision": "abc"})
    assert Source("org/name").load(_Asked) == ("org/name", {})


class _Asked:
    @staticmethod
    def from_pretrained(place: str, **options: Any) -> tuple[str, dict[str, Any]]:
        return place, options


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        ImageClassifier(str(tmp_path / "missing"), "church")
