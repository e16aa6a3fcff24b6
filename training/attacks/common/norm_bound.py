"""The norm bound of free embeddings: a ball whose radius is a multiple of the vocabulary's largest norm.

Free embeddings without a bound can make an encoder output nearly any conditioning. Then the attack succeeds by
construction, as the base's own conditioning does. So tier T4 asks for a bound, and embeddings beyond it are of tier T7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...diffusion.backbone import Backbone

LARGEST_BOUND = 10.0


def require_bound(bound: float | None) -> None:
    """Refuse a bound that leaves no embedding.

    Raises:
        ValueError: If the bound is not above 0.
    """
    if bound is not None and not bound > 0:
        raise ValueError(f"expected a bound above 0, or None for no bound, found {bound}: give for example 1.0")


def tier_of_bound(bound: float | None) -> str:
    """Return the threat tier of free embeddings: ``T4`` up to ``LARGEST_BOUND``, ``T7`` beyond it and without bound."""
    return "T4" if bound is not None and bound <= LARGEST_BOUND else "T7"


@torch.no_grad()
def largest_norm(target: Backbone) -> float:
    """Return the largest L2 norm of a token embedding in the vocabulary of the model under attack."""
    ids = torch.arange(len(target.tokenizer), device=target.text_encoder.device)
    return float(target.embed(ids).float().norm(dim=-1).max())


def within(embeds: Tensor, radius: float | None) -> Tensor:
    """Return the embeddings (..., D) nearest to ``embeds`` with norms of at most ``radius``; None changes nothing."""
    if radius is None:
        return embeds
    norms = embeds.norm(dim=-1, keepdim=True)
    shrunk: Tensor = embeds * (radius / norms.clamp(min=torch.finfo(embeds.dtype).tiny)).clamp(max=1)
    return shrunk


def radius_of(bound: float | None, target: Backbone) -> float | None:
    """Return the radius of the ball: ``bound`` times the vocabulary's largest norm; None without a bound."""
    return None if bound is None else bound * largest_norm(target)


def relative_norms(embeds: Tensor, target: Backbone) -> list[float]:
    """Return the largest norm of each of B sets of embeddings (B, K, D), in multiples of the vocabulary's largest."""
    found: list[float] = (embeds.detach().float().norm(dim=-1).amax(1) / largest_norm(target)).tolist()
    return found
