"""DDIM inversion and image-to-image with the model under attack itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...diffusion.backbone import Backbone


@torch.no_grad()
def invert(
    backbone: Backbone,
    latents: Tensor,
    cond: Tensor,
    *,
    null: Tensor | None = None,
    steps: int,
    guidance: float = 1.0,
    refinements: int = 0,
) -> Tensor:
    """Return the noise from which ``backbone.sample`` with the same settings approximately draws ``latents``.

    This is DDIM (Song et al. 2021), Eq. 12 at eta 0, solved for the noisier latent. A step is
    ``x_s = a x_t + b f(x_t, t)`` with two numbers a and b from the schedule, so ``x_t = (x_s - b f(x_t, t)) / a``.
    Inversion evaluates ``f`` at ``x_s`` instead, which is exact in the limit of small steps. Each refinement evaluates
    ``f`` at the current estimate of ``x_t``. This is the fixed-point iteration of ReNoise (Garibi et al., ECCV 2024),
    without its averaging and its regularisation.

    Args:
        backbone: Model to invert.
        latents: Clean latents (B, C, h, w).
        cond: Conditioning (B, L, D).
        null: Conditioning (1, L, D) of the empty prompt; None runs without guidance.
        steps: Number of timesteps of the grid.
        guidance: Classifier-free guidance scale.
        refinements: Number of evaluations of ``f`` at each step after the first. With strong guidance the iteration may
            diverge, so more refinements may not help.

    Returns:
        Latents (B, C, h, w) at the noisiest timestep of the grid.
    """
    for t in backbone.timesteps(steps).flip(0):
        kept, added = _coefficients(backbone, t)
        batch_t, noisier = t.expand(latents.shape[0]), latents
        for _ in range(refinements + 1):
            if null is None:
                prediction = backbone.predict(noisier, batch_t, cond)
            else:
                prediction = backbone.guided(noisier, batch_t, cond, null, guidance)
            noisier = (latents - added * prediction) / kept
        latents = noisier
    return latents


def _coefficients(backbone: Backbone, t: Tensor) -> tuple[float, float]:
    """Return a and b of the step ``a x_t + b f`` at timestep t (), computed by two steps of the scheduler."""
    none, one = torch.zeros(1), torch.ones(1)
    kept = backbone.ddim_step(None, none, t, one, 1.0)
    added = backbone.ddim_step(None, one, t, none, 1.0)
    return float(kept), float(added)


@torch.no_grad()
def redrawn(backbone: Backbone, latents: Tensor, noise: Tensor, cond: Tensor, *, steps: int, strength: float) -> Tensor:
    """Return the clean latents (B, C, h, w) that image-to-image draws by DDIM without guidance.

    This is SDEdit (Meng et al., ICLR 2022) on the grid of diffusers' pipeline. The input pictures are noised to the
    level at which the last ``int(steps * strength)`` steps begin; then these steps are run.

    Args:
        backbone: Model that draws.
        latents: Clean latents (B, C, h, w) of the input pictures.
        noise: Noise (B, C, h, w) that is added to the latents.
        cond: Conditioning (B, L, D).
        steps: Number of timesteps of the whole grid.
        strength: Share of the grid that is run, in (0, 1]; it must leave at least one step.
    """
    grid = backbone.timesteps(steps)[steps - int(steps * strength) :]
    found = backbone.add_noise(latents, noise, grid[:1].expand(latents.shape[0]))
    for t in grid:
        prediction = backbone.predict(found, t.expand(latents.shape[0]), cond)
        found = backbone.ddim_step(None, prediction, t, found, 1.0)
    return found
