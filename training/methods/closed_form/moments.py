"""Sums over token vectors: all that a closed form needs of its prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Smallest eigenvalue of a sum, relative to the largest, that counts as more than rounding.
SEEN = 1e-10


@dataclass(frozen=True)
class Moments:
    """Sums over pairs of a token vector c and its target t: all that the least squares needs, for any number of pairs.

    Args:
        second: Sum of ``c c^T`` (D, D), float64.
        cross: Sum of ``t c^T`` (D, D), float64; for a vector to keep, t is c.
        count: Number of pairs.
    """

    second: Tensor
    cross: Tensor
    count: int = 0

    @classmethod
    def none(cls, width: int) -> Moments:
        """Return the moments of no pairs."""
        zero = torch.zeros(width, width, dtype=torch.float64)
        return cls(zero, zero)

    @classmethod
    def of(cls, vectors: Tensor, targets: Tensor | None = None) -> Moments:
        """Return the moments of vectors (N, D) and their targets (N, D); by default each vector is its own target.

        Raises:
            ValueError: If the shapes differ, or a value is not finite.
        """
        c = vectors.detach().to("cpu", torch.float64)  # (N, D)
        t = c if targets is None else targets.detach().to("cpu", torch.float64)
        if c.dim() != 2 or t.shape != c.shape:
            raise ValueError(f"expected vectors (N, D) and as many targets, found {tuple(c.shape)}, {tuple(t.shape)}")
        second = c.T @ c
        found = cls(second, second if targets is None else t.T @ c, len(c))
        if not bool(torch.isfinite(found.cross).all() and torch.isfinite(second).all()):
            raise ValueError("expected finite conditionings, found NaN or infinity: load the text encoder in float32")
        return found

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.second + other.second, self.cross + other.cross, self.count + other.count)

    def mapped(self, matrix: Tensor) -> Moments:
        """Return the moments of the pairs T c and t, for T (D, D)."""
        return Moments(matrix @ self.second @ matrix.T, self.cross @ matrix.T, self.count)

    def scaled(self, factor: float) -> Moments:
        """Return the moments of the same pairs with a weight; the number of pairs stays."""
        return Moments(factor * self.second, factor * self.cross, self.count)


def pseudo_inverse(symmetric: Tensor) -> tuple[Tensor, int]:
    """Return the pseudo-inverse (D, D) of a positive semidefinite matrix, and its rank.

    Eigenvalues up to ``SEEN`` times the largest count as zero. A sum of zeros has rank 0 and the inverse zero.
    """
    values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    seen = values > SEEN * values.max().clamp(min=0)
    kept = vectors[:, seen]
    return (kept / values[seen]) @ kept.T, int(seen.sum())
