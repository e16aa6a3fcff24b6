"""The last trained part of a base's build: the judge of its pictures."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn

from ...diffusion.backbone import has_bf16
from .corpus import UNSTATED, Pictures
from .loop import fit
from .networks import LabelNet
from .stages import Course


def train_judge(judge: LabelNet, autoencoder: AutoencoderKL, course: Course, rejects: Pictures | None = None) -> float:
    """Train the judge's classifiers, and return their last mean loss.

    A third of the pictures is plain, a third has noise, and a third is decoded from noisy latents. Each third holds
    as many pictures that lack a value as pictures of the world, if there are such pictures.

    Args:
        judge: Network to train.
        autoencoder: Finished autoencoder.
        course: Training data and folder of the stage.
        rejects: Pictures that lack a value of at least one label, if the judge can reject.
    """

    def loss(generator: Generator) -> Tensor:
        images, labels, _ = course.pictures.draw(course.sizes.judge_batch, generator)
        if rejects is not None:
            lacking, their_labels, _ = rejects.draw(course.sizes.judge_batch, generator)
            order = torch.randperm(2 * len(images), generator=generator)
            images, labels = torch.cat([images, lacking])[order], torch.cat([labels, their_labels])[order]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            logits = judge.logits(_degraded(images, autoencoder, generator).clamp(0, 1))
        losses = [
            nn.functional.cross_entropy(logits[label].float(), labels[:, i], ignore_index=UNSTATED, reduction="sum")
            / labels[:, i].ne(UNSTATED).sum().clamp(min=1)
            for i, label in enumerate(judge.labels)
        ]
        return torch.stack(losses).sum()

    return fit(judge, loss, course.sizes.judge, course.folder, seed=course.seed, label="judge")


@torch.no_grad()
def _degraded(images: Tensor, autoencoder: AutoencoderKL, generator: Generator) -> Tensor:
    """Add noise to a third of the pictures (B, 3, H, W) in [0, 1], and decode another from noisy latents."""
    plain, noisy, coded = images.chunk(3)
    noisy = noisy + 0.1 * torch.rand((), generator=generator) * torch.randn(noisy.shape, generator=generator)
    latents = autoencoder.encode(coded * 2 - 1).latent_dist.mean
    strength = 0.25 * torch.rand((len(coded), 1, 1, 1), generator=generator) * latents.std()
    latents = latents + strength * torch.randn(latents.shape, generator=generator)
    return torch.cat([plain, noisy, autoencoder.decode(latents).sample.float() / 2 + 0.5])
