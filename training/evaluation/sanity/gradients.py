"""How much the denoising loss depends on the input of a text encoder, by its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...attacks.common.denoising import (
    DenoisingLoss,
    PrefixedPrompts,
    case_generator,
    chunks,
    clean_latents,
    draw_noise,
    draw_timesteps,
)
from ...attacks.unlearn_diff_atk import allowed_tokens
from ...diffusion.backbone import Backbone
from ...types import Case

_TOKENS = 3  # before a prompt, as many as the attacks commonly search for


def gradient_effects(target: Backbone, cases: Sequence[Case], *, seed: int, batch: int = 32) -> Tensor:
    """Return ``|g| |e| / l`` for each case: to first order, the share by which a step as long as e can change the loss.

    g is the gradient of the denoising loss l, at a timestep and noise of the case's own, with respect to the embeddings
    e of random real tokens before the prompt. The product has no unit, so that models can be compared.

    Args:
        target: The model under attack.
        cases: Prompts with their reference latents.
        seed: Of the run; with a case's own seed it fixes all that is random about that case.
        batch: Cases per gradient; no case's depends on it beyond rounding.

    Returns:
        Effects (N,) in float32 on the CPU; 0 where there is no gradient, NaN where it is not finite.

    Raises:
        ValueError: If a case has no reference latent, or its prompt leaves no room.
    """
    allowed = allowed_tokens(target, typable=False)
    with target.frozen(), torch.enable_grad():
        parts = [_effects(target, cases[part], seed, allowed) for part in chunks(len(cases), batch)]
    return torch.cat(parts).float().cpu()


def _effects(target: Backbone, cases: Sequence[Case], seed: int, allowed: Tensor) -> Tensor:
    generators = [case_generator(seed, case, "gradient_effects") for case in cases]
    loss = DenoisingLoss(target, clean_latents(cases, target))
    prompts = PrefixedPrompts(target, [case.prompt for case in cases], _TOKENS)
    picked = torch.stack([torch.randint(len(allowed), (_TOKENS,), generator=g) for g in generators])
    prefix = target.embed(allowed[picked.to(allowed.device)]).detach().requires_grad_()  # (B, K, D)
    t, noise = draw_timesteps(target, generators), draw_noise(loss.latents, generators)
    values = loss(prompts.conditioning(prefix), t, noise)
    gradient = _gradient(values, prefix).flatten(1)  # (B, K * D)
    # An infinite entry would make an infinite norm, which is above any threshold.
    norms = torch.where(gradient.isfinite(), gradient, torch.nan).norm(dim=1)
    effects: Tensor = norms * prefix.detach().flatten(1).norm(dim=1) / values.detach()
    return effects


def _gradient(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradient of the sum of values (B,), zero where they do not depend on what it is wanted for."""
    if not values.requires_grad:
        return torch.zeros_like(wanted)
    (found,) = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
    return torch.zeros_like(wanted) if found is None else found
