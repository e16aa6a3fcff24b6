"""The dependence of the denoising loss on the input of a text encoder, measured by its gradient."""

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

_TOKENS = 3  # tokens before a prompt; attacks commonly search for as many


def gradient_effects(target: Backbone, cases: Sequence[Case], *, seed: int, batch: int = 32) -> Tensor:
    """Return ``|g| |e| / l`` for each case: to first order, the share of the loss that a step as long as e can change.

    l is the denoising loss at a timestep and noise of the case's own. e are the embeddings of random real tokens before
    the prompt, and g is the gradient of l with respect to e. The value has no unit, so that models can be compared.

    Args:
        target: Attacked model.
        cases: Prompts with their reference latents.
        seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.
        batch: Number of cases per gradient; it changes the effect of a case only by rounding.

    Returns:
        Effects (N,) in float32 on the CPU; 0 without a gradient, NaN if the gradient is not finite.

    Raises:
        ValueError: If a case has no reference latent, or its prompt leaves no room for the tokens.
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
    values = loss.values(prompts.conditioning(prefix), t, noise)
    gradient = _gradient(values, prefix).flatten(1)  # (B, K * D)
    # An infinite entry would give an infinite norm, which is above every threshold.
    norms = torch.where(gradient.isfinite(), gradient, torch.nan).norm(dim=1)
    effects: Tensor = norms * prefix.detach().flatten(1).norm(dim=1) / values.detach()
    return effects


def _gradient(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradient of the sum of values (B,) for ``wanted``; zero if the values do not depend on it."""
    if not values.requires_grad:
        return torch.zeros_like(wanted)
    (found,) = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
    return torch.zeros_like(wanted) if found is None else found
