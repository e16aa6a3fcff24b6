"""CLIP models from folders: cosines, scaled scores and features equal what the library's own forward pass gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_folders import clip_folder, pictures
from PIL import Image
from tiny_models import make_tokenizer
from torch import Tensor
from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

from robust_encoders.training import protocols
from robust_encoders.training.detectors.hub_models import pixel_values
from robust_encoders.training.metrics import METRICS, ClipFeatures, ClipScore, FrechetDistance, HubClip, PickScore
from robust_encoders.training.metrics import clip_models as clip_hub
from robust_encoders.training.metrics.rates import Z_95
from robust_encoders.training.types import Case

TEXTS = ("a red circle", "a striped blue square on white", "van gogh", "", "a photo of a church")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clip")
    return clip_folder(place / "tiny-clip", make_tokenizer(place / "tokenizer"))


def naive_logits(folder: Path, images: Tensor, texts: tuple[str, ...]) -> Tensor:
    """The model's own logits of one pair at a time, its text unpadded."""
    model: Any = CLIPModel.from_pretrained(folder)
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
    processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = []
    for image, text in zip(images, texts, strict=True):
        picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        with torch.no_grad():
            made = model.eval()(**tokenizer(text, return_tensors="pt"), **processor(picture, return_tensors="pt"))
        found.append(made.logits_per_image[0, 0])
    return torch.stack(found)


def cases(texts: tuple[str, ...] = TEXTS) -> list[Case]:
    return [Case(i, text, i) for i, text in enumerate(texts)]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_scores_are_the_models_own_logits(folder: Path, batch: int) -> None:
    images = pictures(5)
    logits = naive_logits(folder, images, TEXTS)
    clip = HubClip(str(folder), batch=batch)
    scale = float(clip.model.logit_scale.detach().exp())
    assert scale != 1
    torch.testing.assert_close(clip.scaled(images, TEXTS), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clip(images, TEXTS), logits / scale, atol=1e-5, rtol=1e-4)


def test_pick_score_is_the_mean_of_the_logits_with_its_interval(folder: Path) -> None:
    images = pictures(5)
    logits = naive_logits(folder, images, TEXTS).double().numpy()
    metric = PickScore(HubClip(str(folder)))
    metric.update(images[:2], cases()[:2])
    metric.update(images[2:], cases()[2:])
    result = metric.compute()
    half = Z_95 * logits.std(ddof=1) / math.sqrt(5)
    assert (result.metric, result.n) == ("pick_score", 5)
    assert result.value == pytest.approx(logits.mean(), abs=1e-4)
    assert result.interval == pytest.approx((logits.mean() - half, logits.mean() + half), abs=1e-4)
    assert result.settings["scorer"] == "tiny-clip"


def test_clip_score_says_which_model_it_is_of(folder: Path) -> None:
    images, clip = pictures(5), HubClip(str(folder))
    metric = ClipScore(clip, settings=clip.record())
    metric.update(images, cases())
    result = metric.compute()
    assert result.value == pytest.approx(float(clip(images, TEXTS).mean()), abs=1e-6)
    assert result.settings == {"scorer": "tiny-clip", "scorer_version": clip.version}
    assert -1 <= result.value <= 1


def test_a_prompt_longer_than_the_context_is_cut(folder: Path) -> None:
    clip, images = HubClip(str(folder)), pictures(1)
    long = " ".join(["circle"] * 60)
    assert torch.equal(clip(images, [long]), clip(images, [long + " square"]))
    assert not torch.equal(clip(images, [long]), clip(images, ["circle"]))


def test_features_are_the_embeddings_and_serve_fid(folder: Path) -> None:
    clip, images = HubClip(str(folder), batch=3), pictures(8)
    features = ClipFeatures(clip)
    model: Any = clip.model
    with torch.no_grad():
        tokens = clip.tokenizer("circle", return_tensors="pt")
        made = model(**tokens, pixel_values=pixel_values(clip.processor, images))
    found = features(images)
    assert found.shape == (8, 12)
    unit = found / found.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit, made.image_embeds, atol=1e-5, rtol=1e-4)
    assert features.name == f"clip/tiny-clip/{clip.version}"
    fid = FrechetDistance(features)
    fid.update(images, cases(), images.flip(0))
    assert fid.compute().value == pytest.approx(0, abs=1e-5)
    assert fid.compute().settings["features"] == features.name


def test_the_version_follows_weights_and_preprocessing(folder: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    other = clip_folder(tmp_path / "other", tokenizer, seed=1)
    assert HubClip(str(folder)).version == HubClip(str(folder)).version != HubClip(str(other)).version
    coarse = clip_folder(tmp_path / "coarse", make_tokenizer(tmp_path / "few", merges=20))
    assert HubClip(str(folder), processor=str(coarse)).version != HubClip(str(folder)).version


def test_the_published_pick_score_takes_its_processor_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(clip_hub, "HubClip", lambda *args, **options: asked.append((*args, options)))
    PickScore.published(device="cpu")
    expected = {"processor": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "device": "cpu"}
    assert asked == [("yuvalkirstain/PickScore_v1", expected)]


def test_it_is_registered_and_a_metric(folder: Path) -> None:
    assert METRICS["pick_score"] is PickScore
    assert isinstance(PickScore(HubClip(str(folder))), protocols.Metric)


def test_too_few_pictures_and_empty_batches_are_refused(folder: Path) -> None:
    metric = PickScore(HubClip(str(folder)))
    metric.update(pictures(1), cases()[:1])
    with pytest.raises(ValueError, match="at least 2 scored pictures, found 1"):
        metric.compute()
    with pytest.raises(ValueError, match="batch of at least 1"):
        HubClip(str(folder), batch=0)
