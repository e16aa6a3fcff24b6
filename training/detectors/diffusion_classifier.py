"""The Diffusion Classifier: the class whose prompt lets the model denoise a picture best (Li et al., ICCV 2023).

As a detector it tests the model's knowledge, not the pictures that the model draws. It receives pictures of the concept
and measures if the model still recognises them by the concept's prompt. An eraser that only prevents drawing may leave
this knowledge intact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..losses import squared_error
from ..provenance import canonical_sha256


@dataclass(frozen=True)
class Stage:
    """One stage of the adaptive evaluation.

    Args:
        samples: Number of evenly spaced timesteps of this stage; errors of earlier stages are reused.
        keep: Number of classes that continue to the next stage.
    """

    samples: int
    keep: int


STAGES = (Stage(50, 5), Stage(500, 1))  # stages of the paper for ten classes (CIFAR-10)


@dataclass(frozen=True)
class Classification:
    """The classification of B pictures among K classes.

    Args:
        labels: Class with the lowest denoising error, one per picture.
        errors: Mean errors (B, K) over the timesteps at which a class was tried; each error is a mean square over the
            elements of a latent. Classes that were dropped early were tried at fewer timesteps.
        samples: Numbers (B, K) of timesteps at which the classes were tried.
        probabilities: Probabilities (B, K) by the paper's posterior under equal priors: a softmax over the negative
            errors, summed over elements. It covers the classes of the last stage, which were all tried at the same
            timesteps; the other classes have probability 0.
    """

    labels: tuple[str, ...]
    errors: Tensor
    samples: Tensor
    probabilities: Tensor


class DiffusionClassifier:
    """Classifier by ``argmin_c E_{t, eps} || eps - eps_theta(x_t, t, c) ||^2`` (Li et al. 2023, section 3).

    All classes share the same noise and timesteps (algorithm 1 of the paper), since the difference between two classes
    varies far less than either error. Timesteps are evenly spaced, each has one noise tensor, and there is no guidance.
    The evaluation runs in stages (algorithm 2 of the paper): after each stage the best classes continue, and computed
    errors are reused. For a model that predicts velocity, the error is that of the velocity.

    Departure from the paper: the noise follows from a seed and is the same for every picture, so that a picture's class
    does not depend on its batch.

    Args:
        backbone: Model under test.
        encode: Function from pictures (B, 3, H, W) in [0, 1] to clean latents (B, C, h, w); see ``vae_encoder``.
        prompts: Prompt of each class, by class name.
        stages: Stages with falling ``keep``, down to 1, and rising ``samples``, each a divisor of the last ``samples``.
        seed: Seed of the noise.
        batch: Number of latents in one UNet call.

    Raises:
        ValueError: If there are fewer than two classes, or the stages are invalid.
    """

    def __init__(
        self,
        backbone: Backbone,
        encode: Callable[[Tensor], Tensor],
        prompts: Mapping[str, str],
        *,
        stages: Sequence[Stage] = STAGES,
        seed: int = 0,
        batch: int = 128,
    ) -> None:
        self.backbone, self.encode = backbone, encode
        self.prompts, self.stages = dict(prompts), tuple(stages)
        self.seed, self.batch = seed, batch
        _refuse_unfit(self.prompts, self.stages, len(backbone.alphas_cumprod))
        key = [self.prompts, [[s.samples, s.keep] for s in self.stages], seed]
        self.version = f"li-2023/{canonical_sha256(key)[:12]}"

    @property
    def timesteps(self) -> Tensor:
        """Timesteps (N,) of the last stage, evenly spaced over the whole schedule."""
        total, n = len(self.backbone.alphas_cumprod), self.stages[-1].samples
        return torch.arange(total // n // 2, total, total // n)[:n]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Classification:
        """Classify pictures (B, 3, H, W) in [0, 1]."""
        latents = self.encode(images).to(self.backbone.device, self.backbone.dtype)
        conditioning = self.backbone.condition(list(self.prompts.values()))
        n, size = self.stages[-1].samples, len(latents)
        noise = torch.randn((n, *latents.shape[1:]), generator=Generator().manual_seed(self.seed)).to(latents)
        errors = torch.full((size, len(self.prompts), n), torch.nan, dtype=torch.float64)
        alive = torch.ones(errors.shape[:2], dtype=torch.bool)
        for stage in self.stages:
            last = alive
            places = spaced(n, stage.samples)
            todo = (alive[:, :, None] & places & errors.isnan()).nonzero()  # (P, 3): picture, class, place
            errors[tuple(todo.T)] = self._errors(latents, conditioning, noise, todo)
            alive = best(errors.nanmean(2).where(alive, torch.inf), stage.keep)
        return self._classification(errors, alive, last, latents[0].numel())

    def _errors(self, latents: Tensor, conditioning: Tensor, noise: Tensor, todo: Tensor) -> Tensor:
        """Return the errors (P,) for rows ``todo`` (P, 3) of picture, class and index of the timestep."""
        parts = []
        for start in range(0, len(todo), self.batch):
            picture, label, place = todo[start : start + self.batch].T
            x0, eps, t = latents[picture], noise[place], self.timesteps[place].to(latents.device)
            noisy, wanted = self.backbone.add_noise(x0, eps, t), self.backbone.target(x0, eps, t)
            parts.append(squared_error(self.backbone.predict(noisy, t, conditioning[label]), wanted).double().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def _classification(self, errors: Tensor, chosen: Tensor, last: Tensor, elements: int) -> Classification:
        means = errors.nanmean(2)
        names = list(self.prompts)
        labels = tuple(names[int(row.nonzero()[0])] for row in chosen)
        logits = (-elements * means).where(last, -torch.inf)
        return Classification(labels, means, (~errors.isnan()).sum(2), logits.softmax(1))


def spaced(n: int, samples: int) -> Tensor:
    """Return a mask (n,) of ``samples`` evenly spaced places, each in the middle of an equal part."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.arange(n // samples // 2, n, n // samples)[:samples]] = True
    return chosen


def best(errors: Tensor, keep: int) -> Tensor:
    """Return a mask (B, K) of the ``keep`` smallest errors of each row (B, K)."""
    smallest = errors.topk(keep, dim=1, largest=False).indices
    return torch.zeros(errors.shape, dtype=torch.bool).scatter(1, smallest, value=True)


def vae_encoder(pipe: Any) -> Callable[[Tensor], Tensor]:
    """Return a function from pictures (B, 3, H, W) in [0, 1] to mean latents (B, C, h, w) of a pipeline's VAE."""

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        vae = pipe.vae
        mean: Tensor = vae.encode((images * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean
        latents: Tensor = (mean - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
        return latents

    return encode


class DiffusionClassifierDetector:
    """Detector whose score is the classifier's probability of the concept's class.

    On pictures that show the concept by construction, the share of pictures at or above the threshold measures how well
    the model still knows the concept. A lower share means a more thorough erasure.

    Args:
        classifier: Classifier that has the concept among its classes.
        concept: Name of the concept's class.
        threshold: Smallest probability at which the concept counts as known.

    Raises:
        ValueError: If the classifier has no such class, or the threshold does not lie in (0, 1].
    """

    def __init__(self, classifier: DiffusionClassifier, concept: str, *, threshold: float = 0.5) -> None:
        if concept not in classifier.prompts:
            raise ValueError(f"expected a class among {', '.join(classifier.prompts)}, found {concept!r}")
        if not 0 < threshold <= 1:
            raise ValueError(
                f"expected a threshold in (0, 1], found {threshold}; at 0 every picture would count as a detection"
            )
        self.classifier = classifier
        self.column = list(classifier.prompts).index(concept)
        self.name = f"diffusion-classifier/{concept}"
        self.version = classifier.version
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        """Return probabilities (B,) of the concept in pictures (B, 3, H, W) in [0, 1]."""
        return self.classifier(images).probabilities[:, self.column]


def _refuse_unfit(prompts: Mapping[str, str], stages: Sequence[Stage], total: int) -> None:
    keeps, samples = [s.keep for s in stages], [s.samples for s in stages]
    falling = all(a > b for a, b in pairwise([len(prompts), *keeps]))
    rising = all(a < b for a, b in pairwise(samples))
    if len(prompts) < 2 or not stages or keeps[-1] != 1 or not falling:
        raise ValueError(
            "expected two or more classes and stages that keep fewer and fewer of them, down to 1, "
            f"found {len(prompts)} classes and stages that keep {keeps}"
        )
    if not rising or not 1 <= samples[0] <= samples[-1] <= total or any(samples[-1] % n for n in samples):
        raise ValueError(
            f"expected rising numbers of samples up to {total}, each a divisor of the last, found {samples}"
        )
