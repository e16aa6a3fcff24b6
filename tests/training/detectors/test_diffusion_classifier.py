"""The Diffusion Classifier: against loops on a random model, and it names what rendered pictures show on the base."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training import protocols
from robust_encoders.training.detectors import DETECTORS
from robust_encoders.training.detectors.diffusion_classifier import (
    DiffusionClassifier,
    DiffusionClassifierDetector,
    Stage,
    best,
    spaced,
    vae_encoder,
)
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.worlds.shapes.pictures import render_pictures
from robust_encoders.training.worlds.shapes.vocabulary import VALUES

PROMPTS = {"circle": "a red circle", "square": "a square", "star": "a yellow star", "none": ""}
STAGES = (Stage(2, 3), Stage(6, 1))


def classifier(pipe: Any, **changes: Any) -> DiffusionClassifier:
    settings: dict[str, Any] = {"stages": STAGES, "seed": 4, "batch": 5}
    return DiffusionClassifier(Backbone.from_pipeline(pipe), vae_encoder(pipe), PROMPTS, **{**settings, **changes})


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def naive_error(pipe: Any, latent: Tensor, prompt: str, t: int, noise: Tensor) -> float:
    """One picture, one prompt, one timestep, from the scheduler and the modules themselves."""
    noisy = pipe.scheduler.add_noise(latent[None], noise[None], torch.tensor([t]))
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=24, return_tensors="pt").input_ids
    said = pipe.unet(noisy, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample[0]
    wanted = noise
    if pipe.scheduler.config.prediction_type == "v_prediction":
        wanted = pipe.scheduler.get_velocity(latent[None], noise[None], torch.tensor([t]))[0]
    return float(((said - wanted) ** 2).mean())


@torch.no_grad()
def naive_classes(pipe: Any, images: Tensor) -> tuple[list[str], list[dict[str, float]], int]:
    latents = pipe.vae.encode(images * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    noises = torch.randn((6, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    grid = [83 + 166 * i for i in range(6)]  # 1000 // 6 // 2, and steps of 1000 // 6
    labels, means, tried = [], [], 0
    for latent in latents:
        errors: dict[str, dict[int, float]] = {name: {} for name in PROMPTS}
        alive = list(PROMPTS)
        for places, keep in (([1, 4], 3), ([0, 1, 2, 3, 4, 5], 1)):
            for name in alive:
                for place in places:
                    if place not in errors[name]:
                        errors[name][place] = naive_error(pipe, latent, PROMPTS[name], grid[place], noises[place])
                        tried += 1
            alive = sorted(alive, key=lambda name: sum(errors[name].values()) / len(errors[name]))[:keep]
        labels += alive
        means.append({name: sum(found.values()) / len(found) for name, found in errors.items()})
    return labels, means, tried


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_classes_and_errors_against_loops(make_pipe: Callable[..., Any], prediction_type: str) -> None:
    pipe = make_pipe(prediction_type=prediction_type)
    images = pictures(3)
    labels, means, tried = naive_classes(pipe, images)
    made = classifier(pipe)
    found = made(images)
    assert list(found.labels) == labels
    assert made.timesteps.tolist() == [83, 249, 415, 581, 747, 913]
    for row, expected in zip(found.errors.tolist(), means, strict=True):
        assert row == pytest.approx([expected[name] for name in PROMPTS], rel=1e-4)
    assert made.backbone.unet_calls == tried == 3 * (4 * 2 + 3 * 4)
    assert sorted(found.samples[0].tolist()) == [2, 6, 6, 6]


def test_probabilities_are_the_posterior_among_the_last_classes(tiny_pipe: Any) -> None:
    found = classifier(tiny_pipe)(pictures(3))
    for label, errors, samples, chances in zip(
        found.labels, found.errors.tolist(), found.samples.tolist(), found.probabilities.tolist(), strict=True
    ):
        left = [i for i, n in enumerate(samples) if n == 6]
        lowest = min(errors[i] for i in left)
        weights = {i: math.exp(-4 * 8 * 8 * (errors[i] - lowest)) for i in left}
        expected = [weights.get(i, 0) / sum(weights.values()) for i in range(4)]
        assert chances == pytest.approx(expected, abs=1e-6)
        assert list(PROMPTS)[chances.index(max(chances))] == label


def test_neither_batch_nor_company_changes_an_answer(tiny_pipe: Any) -> None:
    images = pictures(3)
    together, alone = classifier(tiny_pipe)(images), classifier(tiny_pipe, batch=64)(images[1:2])
    torch.testing.assert_close(together.errors[1:2], alone.errors, rtol=1e-4, atol=1e-5)
    assert together.labels[1:2] == alone.labels
    again = classifier(tiny_pipe)(images)
    assert torch.equal(together.errors, again.errors)
    assert not torch.equal(together.errors, classifier(tiny_pipe, seed=5)(images).errors)


def test_places_are_evenly_spaced_and_the_best_are_kept() -> None:
    assert spaced(9, 3).nonzero().flatten().tolist() == [1, 4, 7]
    assert spaced(500, 50).nonzero().flatten().tolist() == list(range(5, 500, 10))
    assert best(torch.tensor([[3.0, 1.0, torch.inf, 2.0]]), 2).tolist() == [[False, True, False, True]]


def test_the_detector_is_the_concepts_probability(tiny_pipe: Any) -> None:
    made = classifier(tiny_pipe)
    detector = DETECTORS["diffusion_classifier"](made, "star")
    assert isinstance(detector, protocols.Detector)
    torch.testing.assert_close(detector(pictures(3)), made(pictures(3)).probabilities[:, 2])
    assert (detector.name, detector.threshold) == ("diffusion-classifier/star", 0.5)
    others = [classifier(tiny_pipe, seed=5), classifier(tiny_pipe, stages=(Stage(6, 1),))]
    assert len({detector.version, *(DiffusionClassifierDetector(one, "star").version for one in others)}) == 3


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((), "expected two or more classes"),
        ((Stage(2, 4), Stage(4, 1)), r"keep \[4, 1\]"),
        ((Stage(2, 2),), r"keep \[2\]"),
        ((Stage(4, 2), Stage(2, 1)), r"found \[4, 2\]"),
        ((Stage(4, 2), Stage(6, 1)), r"each a divisor of the last, found \[4, 6\]"),
        ((Stage(2000, 1),), r"up to 1000, .* found \[2000\]"),
    ],
)
def test_stages_that_do_not_fit_are_refused(tiny_pipe: Any, stages: tuple[Stage, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        classifier(tiny_pipe, stages=stages)


def test_a_detector_of_nothing_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="expected a class among circle, square, star, none, found 'ring'"):
        DiffusionClassifierDetector(classifier(tiny_pipe), "ring")
    with pytest.raises(ValueError, match="expected a threshold"):
        DiffusionClassifierDetector(classifier(tiny_pipe), "star", threshold=0)


@pytest.mark.base
def test_the_base_names_the_shape_of_rendered_pictures() -> None:
    pipe, rendered = embedded_pipeline(), render_pictures(8, seed=21)
    prompts = {shape: f"a {shape}" for shape in VALUES["shape"]}
    made = DiffusionClassifier(
        Backbone.from_pipeline(pipe), vae_encoder(pipe), prompts, stages=(Stage(3, 2), Stage(6, 1))
    )
    found = made(rendered.images.float() / 255)
    right = [VALUES["shape"][int(row[0])] == label for row, label in zip(rendered.labels, found.labels, strict=True)]
    # By chance one or two of 8 are right, and 6 or more once in two thousand times.
    assert sum(right) >= 6


@pytest.mark.base
@torch.no_grad()
def test_pairing_noise_and_timesteps_lowers_the_variance() -> None:
    pipe = embedded_pipeline()
    backbone = Backbone.from_pipeline(pipe)
    generator = torch.Generator().manual_seed(0)
    latent = vae_encoder(pipe)(render_pictures(1, seed=3).images.float() / 255)
    right, wrong = backbone.condition(["a circle", "a star"])

    def errors(conditioning: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        noisy = backbone.add_noise(latent.expand_as(noise), noise, t)
        said = backbone.predict(noisy, t, conditioning.expand(len(t), -1, -1))
        found: Tensor = (said - backbone.target(latent.expand_as(noise), noise, t)).square().mean((1, 2, 3))
        return found

    draws = [
        (torch.randint(1000, (24,), generator=generator), torch.randn((24, *latent.shape[1:]), generator=generator))
        for _ in range(2)
    ]
    one, paired, independent = errors(right, *draws[0]), errors(wrong, *draws[0]), errors(wrong, *draws[1])
    assert float((one - paired).var()) < 0.2 * float((one - independent).var())
