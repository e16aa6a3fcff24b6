"""Half-finished samples of a base, as pictures that its judge has to reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Generator, Tensor

from .corpus import Corpus, Pictures, judge_labels, random_labels
from .measure import GUIDANCE, STEPS
from .stages import new_scheduler

# A sample is unfinished while noise is this many times as strong as the picture in its latents: less than 8 % of their
# variance is the picture.
_NOISE_RATIO = 3.5
_BATCH = 50


@dataclass(frozen=True)
class Sampler:
    """The parts of a base that draw pictures.

    Args:
        unet: UNet that predicts velocity.
        autoencoder: Autoencoder of the latents.
        condition: Function that returns the conditionings (B, L, D) of captions.
    """

    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL
    condition: Callable[[list[str]], Tensor]


def unfinished_pictures(sampler: Sampler, corpus: Corpus, n: int, *, seed: int) -> Pictures:
    """Return ``n`` half-finished samples as pictures that show no value of any label.

    Every sample stops at a random step of those at which it is still unfinished: noise has at least 3.5 times the
    standard deviation of the picture in its latents.

    Args:
        sampler: Parts of the base.
        corpus: World of the captions.
        n: Number of pictures.
        seed: Seed of captions, noise and steps.
    """
    generator, images = Generator().manual_seed(seed), []
    for start in range(0, n, _BATCH):
        images.append(_stopped(sampler, corpus, min(_BATCH, n - start), generator))
    nothing = torch.tensor([size - 1 for size in judge_labels(corpus).values()])
    return Pictures(torch.cat(images), nothing.expand(n, -1).clone())


@torch.no_grad()
def _stopped(sampler: Sampler, corpus: Corpus, n: int, generator: Generator) -> Tensor:
    """Return ``n`` samples (n, 3, H, W), uint8, that stopped at one random early step."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(STEPS)
    captions = corpus.captions(random_labels(corpus, n, generator), generator)
    conditions = sampler.condition(["" for _ in captions] + captions)
    config = sampler.unet.config
    latents = torch.randn((n, config.in_channels, config.sample_size, config.sample_size), generator=generator)
    stop = int(torch.randint(last_unfinished(scheduler.alphas_cumprod, scheduler.timesteps), (), generator=generator))
    for t in scheduler.timesteps[: stop + 1]:
        plain, named = sampler.unet(torch.cat([latents, latents]), t, conditions).sample.chunk(2)
        latents = scheduler.step(plain + GUIDANCE * (named - plain), t, latents).prev_sample
    decoded = sampler.autoencoder.decode(latents / sampler.autoencoder.config.scaling_factor).sample / 2 + 0.5
    pictures: Tensor = (decoded.clamp(0, 1) * 255).round().byte()
    return pictures


def last_unfinished(alphas: Tensor, timesteps: Tensor) -> int:
    """Return the number of steps after which a sample is still unfinished."""
    kept = alphas[timesteps[1:]]
    return max(1, int(((1 - kept) / kept).sqrt().ge(_NOISE_RATIO).sum()))


def joined(one: Pictures, other: Pictures) -> Pictures:
    """Return the pictures of both sets."""
    return Pictures(torch.cat([one.images, other.images]), torch.cat([one.labels, other.labels]))
