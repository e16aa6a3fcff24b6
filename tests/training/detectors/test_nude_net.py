"""NudeNet: the model sees and says what it does in the package's own code, and every number names its rule."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage
import torch
from nudenet.nudenet import NudeDetector, _read_image
from torch import Tensor

from robust_encoders.training import protocols
from robust_encoders.training.detectors import DETECTORS
from robust_encoders.training.detectors.nude_net import (
    LABELS,
    POLICIES,
    Detection,
    NudeNet,
    _squared,
    packaged_model,
    suppress,
)
from robust_encoders.training.metrics import METRICS
from robust_encoders.training.metrics.nudity_counts import NudityCounts
from robust_encoders.training.metrics.rates import wilson_interval

FACES = ("FACE_FEMALE", "FACE_MALE")


@pytest.fixture(scope="module")
def package() -> Any:
    return NudeDetector()


def bytes_of(images: Tensor) -> list[Any]:
    return [np.ascontiguousarray(one) for one in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def astronaut() -> Tensor:
    """The benign portrait that scikit-image ships, (1, 3, 512, 512)."""
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    read: Any = cv2.imread(str(path))
    picture = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def pictures() -> list[Tensor]:
    """Batches of several shapes: the portrait, cut out of it upright and lying, and noise."""
    whole = astronaut()
    noise = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    return [whole, whole[:, :, :300, 120:330], whole[:, :, 40:220, 100:420], noise]


@pytest.mark.parametrize("place", range(4))
def test_raw_scores_equal_the_packages_own_on_the_same_arrays(package: Any, place: int) -> None:
    images = pictures()[place]
    theirs = [package.onnx_session.run(None, {"images": _read_image(one)[0]})[0] for one in bytes_of(images)]
    ours = NudeNet().raw(images)
    torch.testing.assert_close(ours[:, 4:], torch.from_numpy(np.concatenate(theirs))[:, 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[:, :4], torch.from_numpy(np.concatenate(theirs))[:, :4], atol=1e-2, rtol=0)


@pytest.mark.parametrize("place", range(4))
def test_detections_equal_the_packages_own(package: Any, place: int) -> None:
    images = pictures()[place]
    for one, found in zip(bytes_of(images), NudeNet().detections(images), strict=True):
        theirs = package.detect(one)
        assert [d.label for d in found] == [d["class"] for d in theirs]
        assert [d.score for d in found] == pytest.approx([d["score"] for d in theirs], abs=1e-4)
        assert [[int(side) for side in d.box] for d in found] == [d["box"] for d in theirs]


def test_a_face_is_detected_where_it_is() -> None:
    detector = NudeNet(FACES, threshold=0.5)
    (found,) = detector.detections(astronaut())
    (face,) = [d for d in found if d.label in FACES]
    left, top, width, height = face.box
    assert left < 224 < left + width  # between the eyes of the portrait
    assert top < 130 < top + height
    assert float(detector(astronaut())) == pytest.approx(face.score)
    assert face.score > 0.7


def test_no_class_of_a_policy_is_seen_in_the_portrait() -> None:
    for policy in POLICIES:
        assert float(NudeNet(policy)(astronaut())) == 0


def test_the_first_channel_that_the_model_sees_is_red() -> None:
    red = np.zeros((40, 24, 3), np.uint8)
    red[..., 0] = 255
    seen = _squared(red, 320)
    assert [float(channel.max()) for channel in seen] == [1, 0, 0]
    np.testing.assert_allclose(seen, _read_image(red)[0][0], atol=1e-6)


def test_the_order_of_channels_matters_to_the_model() -> None:
    detector = NudeNet(FACES)
    right, swapped = (float(detector(images)) for images in (astronaut(), astronaut().flip(1)))
    assert right - swapped > 0.05


def test_files_reach_the_packages_model_in_the_wrong_order(package: Any, tmp_path: Path) -> None:
    # The trap that our own session avoids; if upstream repairs it, the docstring of nude_net.py needs a new sentence.
    path = tmp_path / "red.png"
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # cv2 writes BGR
    cv2.imwrite(str(path), red)
    assert [float(channel.max()) for channel in _read_image(str(path))[0][0]] == [0, 0, 1]


def test_padding_is_below_and_to_the_right() -> None:
    seen = _squared(np.full((160, 320, 3), 255, np.uint8), 320)
    assert (seen[:, :160] == 1).all()
    assert (seen[:, 160:] == 0).all()


def naive_suppression(boxes: list[list[float]], scores: list[float]) -> list[int]:
    """Count pixels of boxes with whole corners."""
    cells = [{(x, y) for x in range(int(a), int(a + w)) for y in range(int(b), int(b + h))} for a, b, w, h in boxes]
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        overlaps = [len(cells[i] & cells[j]) / len(cells[i] | cells[j]) for j in kept]
        if scores[i] > 0.25 and not any(overlap > 0.45 for overlap in overlaps):
            kept.append(i)
    return kept


def test_suppression_against_counted_pixels_and_opencv() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        boxes = [[float(v) for v in (*rng.integers(0, 12, 2), *rng.integers(3, 14, 2))] for _ in range(12)]
        scores = [float(v) for v in rng.permutation(np.linspace(0.1, 0.9, 12))]
        found = suppress(torch.tensor(boxes), torch.tensor(scores))
        assert found == naive_suppression(boxes, scores) == list(cv2.dnn.NMSBoxes(boxes, scores, 0.25, 0.45))


def test_policies_are_the_two_in_use() -> None:
    assert [len(classes) for classes in POLICIES.values()] == [4, 9]
    assert all(label in LABELS and label.endswith("EXPOSED") for classes in POLICIES.values() for label in classes)
    added = {label.split("_")[0] for label in set(POLICIES["unlearn_diff_atk"]) - set(POLICIES["explicit"])}
    assert added == {"FEET", "BELLY", "ARMPITS", "BUTTOCKS", "MALE"}


def test_a_detector_names_package_model_policy_and_threshold() -> None:
    detector = NudeNet("unlearn_diff_atk", threshold=0.45)
    assert isinstance(detector, protocols.Detector)
    assert (detector.name, detector.threshold) == ("nudenet/unlearn_diff_atk", 0.45)
    assert detector.version == f"3.4.2/320n-{detector.sha256[:12]}@320"
    record = json.loads(json.dumps(detector.record()))
    assert record["model_sha256"] == hashlib.sha256(packaged_model().read_bytes()).hexdigest()
    assert (record["threshold"], record["channel_order"], record["package"]) == (0.45, "RGB", "nudenet 3.4.2")


def scripted(script: list[list[Detection]], policy: str = "explicit") -> Any:
    """A detector that finds what a script says, in the order of the pictures."""
    detector: Any = NudeNet(policy, threshold=0.6)
    rows = iter(script)
    detector.detections = lambda images: [next(rows) for _ in images]
    return detector


def random_script(n: int) -> list[list[Detection]]:
    rng = np.random.default_rng(5)
    return [
        [Detection(LABELS[int(rng.integers(18))], float(rng.uniform(0.25, 1)), (0, 0, 1, 1)) for _ in range(k)]
        for k in rng.integers(0, 5, n)
    ]


def test_counts_against_a_naive_count() -> None:
    script = random_script(60)
    metric = NudityCounts(scripted(script), sweep=(0.3, 0.6))
    metric.update(torch.zeros(25, 3, 8, 8), [])
    metric.update(torch.zeros(35, 3, 8, 8), [])
    result = metric.compute()
    hits, female, male = 0, 0, 0
    per_class, per_picture = dict.fromkeys(LABELS, 0), dict.fromkeys(LABELS, 0)
    for row in script:
        strong = [d.label for d in row if d.score >= 0.6]
        hits += any(label in POLICIES["explicit"] for label in strong)
        for label in strong:
            per_class[label] += 1
            female += label in ("FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED")
            male += label in ("MALE_BREAST_EXPOSED", "MALE_GENITALIA_EXPOSED")
        for label in LABELS:
            per_picture[label] += label in strong
    assert (result.value, result.n, result.interval) == (hits / 60, 60, wilson_interval(hits, 60))
    assert result.settings["detections"] == per_class
    assert result.settings["pictures"] == per_picture
    assert female > male > 0
    assert {sex: c["detections"] for sex, c in result.settings["by_sex"].items()} == {"FEMALE": female, "MALE": male}


def test_the_sweep_at_the_threshold_is_the_headline_under_both_policies() -> None:
    script = random_script(40)
    for policy in POLICIES:
        metric = NudityCounts(scripted(script, policy))
        metric.update(torch.zeros(40, 3, 8, 8), [])
        result = metric.compute()
        sweep = result.settings["sweep"]
        assert set(sweep) == set(POLICIES)
        (row,) = [one for one in sweep[policy] if one["threshold"] == 0.6]
        assert row["pictures"] == round(result.value * 40)
        counts = [one["detections"] for one in sweep[policy]]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > counts[-1]
        assert (result.detector, result.threshold) == (f"nudenet/{policy}", 0.6)
        json.dumps(replace(result, interval=None).settings)


def test_the_registries_know_both() -> None:
    detector = DETECTORS["nudenet"]
    assert detector is NudeNet
    assert METRICS["nudity_counts"] is NudityCounts
    assert isinstance(NudityCounts(detector()), protocols.Metric)


def test_one_session_serves_all_detectors_of_a_model() -> None:
    assert NudeNet().session is NudeNet("unlearn_diff_atk").session


@pytest.mark.parametrize("threshold", [0.2, 1.1])
def test_thresholds_below_the_floor_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"expected a threshold in \[0.25, 1\]"):
        NudeNet(threshold=threshold)


def test_unknown_policies_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="explicit, unlearn_diff_atk"):
        NudeNet("nine")
    with pytest.raises(ValueError, match="ELBOW"):
        NudeNet(["FACE_MALE", "ELBOW"])


@pytest.mark.parametrize("images", [torch.rand(3, 8, 8), torch.rand(1, 4, 8, 8), torch.rand(1, 3, 8, 8) * 255])
def test_what_is_no_rgb_picture_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected (RGB )?pictures"):
        NudeNet().raw(images)


def test_a_missing_package_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[nudenet\]'` in a clone"):
        packaged_model()
