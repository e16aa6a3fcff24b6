"""Distances between conditionings: as the UNet sees them, and by cosine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor
from torch.nn.functional import cosine_similarity

Space = Literal["unet", "cosine"]


class Distance(Protocol):
    """A distance between conditionings."""

    def __call__(self, found: Tensor, wanted: Tensor, gram: Tensor) -> Tensor:
        """Return the distances (B,) of ``found`` to ``wanted``, both (B, L, D); G is ``gram`` (D, D)."""
        ...


def seen_distance(found: Tensor, wanted: Tensor, gram: Tensor) -> Tensor:
    """Return the squared distance (B,) as the UNet sees it, relative to the squared length of ``wanted``.

    Text reaches the UNet only through the K and V matrices of cross-attention, whose Gram matrix is G (see
    ``GramMatrix``). The distance is the sum of ``(a - b)^T G (a - b)`` over positions, divided by that of ``b^T G b``.
    It is 0 for equal conditionings, and 1 for a conditioning that the UNet cannot tell from zero.

    Args:
        found: Conditionings (B, L, D).
        wanted: Conditionings (B, L, D).
        gram: Matrix G (D, D).
    """
    return energy(found - wanted, gram) / energy(wanted, gram)


def cosine_distance(found: Tensor, wanted: Tensor, gram: Tensor) -> Tensor:
    """Return one minus the cosine (B,), averaged over positions; ``gram`` is not used.

    Args:
        found: Conditionings (B, L, D).
        wanted: Conditionings (B, L, D).
        gram: Matrix G (D, D).
    """
    return 1 - cosine_similarity(found, wanted, dim=-1).mean(1)


def energy(values: Tensor, gram: Tensor) -> Tensor:
    """Return the squared lengths (B,) of values (B, L, D) as the UNet sees them, by the matrix ``gram`` (D, D)."""
    return ((values @ gram.to(values.dtype)) * values).sum((1, 2))


DISTANCES: Mapping[Space, Distance] = {"unet": seen_distance, "cosine": cosine_distance}
