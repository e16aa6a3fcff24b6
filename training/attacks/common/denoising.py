"""The loss of prompt attacks: the error of the model under attack in denoising the base's picture of the concept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...diffusion.backbone import Backbone
from ...losses import squared_error
from ...prompts.layout import Placement, PromptLayout
from ...types import Case

FORWARD_AND_BACKWARD = 2  # UNet calls per latent for one gradient of the loss


def case_generator(seed: int, case: Case, *label: object) -> torch.Generator:
    """Return a CPU generator seeded by the run's seed, the case and ``label``, not by the case's place in a batch."""
    text = ":".join(map(str, (seed, case.seed, case.index, *label)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def clean_latents(cases: Sequence[Case], target: Backbone) -> Tensor:
    """Return the cases' reference latents (B, C, h, w) on the target's device.

    Raises:
        ValueError: If a case has no reference latent.
    """
    latents = [case.reference_latent for case in cases if case.reference_latent is not None]
    if len(latents) < len(cases):
        missing = [case.index for case in cases if case.reference_latent is None]
        raise ValueError(
            f"expected a reference latent in every case, found none in cases {missing}; "
            "draw the base's pictures of the prompts with output_type='latent'"
        )
    return torch.stack(latents).to(target.device, target.dtype)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``range(n)`` in pieces of at most ``size``."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@dataclass(frozen=True)
class PrefixedPrompts:
    """A batch of prompts with room for adversarial embeddings before their words, or in their place.

    Args:
        target: Model under attack.
        prompts: Texts of the prompts.
        tokens: Number K of adversarial embeddings of each prompt.
        placement: Position of the embeddings.

    Raises:
        ValueError: If a prompt leaves no room for the embeddings.
    """

    target: Backbone
    prompts: Sequence[str]
    tokens: int
    placement: Placement = "prefix"

    @cached_property
    def ids(self) -> Tensor:
        """Token ids (B, L) of the prompts."""
        return self.target.tokenize(self.prompts)

    def place(self, adversarial: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token embeddings (B, L, D) with ``adversarial`` (B, K, D) in place, and their ids (B, L)."""
        embeds, eos_id = self.target.embed(self.ids), self.target.tokenizer.eos_token_id
        return PromptLayout(self.placement, self.tokens).place(embeds, self.ids, adversarial, eos_id=eos_id)

    def conditioning(self, adversarial: Tensor) -> Tensor:
        """Return the conditioning (B, L, D) with ``adversarial`` (B, K, D) in place."""
        return self.target.encode(*self.place(adversarial))


def finite(values: Tensor, t: Tensor, target: Backbone) -> Tensor:
    """Return the losses (B,) of a model at timesteps (B,) as they are.

    Raises:
        ValueError: If one is not finite, so that no search can follow it.
    """
    found = values.detach()
    if not bool(found.isfinite().all()):
        row = int((~found.isfinite()).nonzero()[0])
        raise ValueError(
            f"expected a finite denoising loss, found {float(found[row])} at timestep {int(t[row])}: the model "
            f"computes in {target.dtype}; attack it with --dtype float32, or train its weights again"
        )
    return values


@dataclass(frozen=True)
class DenoisingLoss:
    """MSE between the UNet's prediction for a noised picture and the correct noise or velocity.

    UnlearnDiffAtk (Zhang et al., ECCV 2024), equation 6: ``|| eps - eps_theta(x_t, t, c_adv) ||^2`` on a picture
    ``x_0`` of the concept. A low loss means that the conditioning makes the model draw that picture.

    Args:
        target: Model under attack; its UNet predicts noise or velocity.
        latents: Clean latents ``x_0`` (B, C, h, w).
    """

    target: Backbone
    latents: Tensor

    def __call__(self, conditioning: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the loss (B,) for conditioning (B, L, D), timesteps (B,) and noise (B, C, h, w).

        Raises:
            ValueError: If the loss of a row is not finite, so that no search can follow it.
        """
        return finite(self.values(conditioning, t, noise), t, self.target)

    def values(self, conditioning: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the loss (B,) as ``__call__`` does, but as the model gives it, finite or not."""
        noisy = self.target.add_noise(self.latents, noise, t)
        wanted = self.target.target(self.latents, noise, t)
        return squared_error(self.target.predict(noisy, t, conditioning), wanted)


def draw_timesteps(target: Backbone, generators: Sequence[torch.Generator]) -> Tensor:
    """Return timesteps (B,), uniform over the model's range, one from each case's generator."""
    highest = len(target.alphas_cumprod)
    return torch.cat([torch.randint(highest, (1,), generator=g) for g in generators]).to(target.device)


def draw_noise(latents: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return noise shaped like ``latents`` (B, C, h, w), with each row from its case's generator."""
    shape = latents.shape[1:]
    rows = [torch.randn(shape, generator=g, dtype=torch.float32) for g in generators]
    return torch.stack(rows).to(latents.device, latents.dtype)
