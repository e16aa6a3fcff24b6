"""Edits that leave preserved token vectors exactly as they are: SPEED and Double Projections (DP).

Both change K and V only in the directions that the preserved vectors leave free: their null space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .moments import SEEN, Moments, pseudo_inverse


def free_below(second: Tensor, threshold: float) -> Tensor:
    """Return the directions in which preserved vectors have little energy, as SPEED chooses them.

    Args:
        second: Mean of ``q q^T`` (D, D) over the preserved token vectors q.
        threshold: Bound of the eigenvalues; directions below it are free.

    Returns:
        Orthonormal columns (D, n) that span the free directions.

    Raises:
        ValueError: If no direction is free.
    """
    values, vectors = torch.linalg.eigh(second)
    return _required(vectors[:, values < threshold], "raise the threshold, or preserve fewer prompts")


def free_beyond(second: Tensor, rank: int | None = None) -> Tensor:
    """Return the directions outside those of the preserved vectors, as DP chooses them: the left null space.

    Args:
        second: Sum of ``q q^T`` (D, D) over the preserved token vectors q.
        rank: Number k of the vectors' leading singular directions that are protected. None protects all of them.

    Returns:
        Orthonormal columns (D, n) that span the free directions.

    Raises:
        ValueError: If no direction is free.
    """
    values, vectors = torch.linalg.eigh(second)
    used = int((values > SEEN * values.max().clamp(min=0)).sum())
    protected = used if rank is None else min(rank, used)
    return _required(vectors[:, : len(values) - protected], "choose a smaller rank, or preserve fewer prompts")


def _required(free: Tensor, remedy: str) -> Tensor:
    if not free.shape[1]:
        raise ValueError(
            f"expected directions that the preserved prompts leave free, found none of {len(free)}: {remedy}"
        )
    return free


def invariant_edit(
    erase: Moments, free: Tensor, invariants: Tensor, *, retain_scale: float = 1.0, lamb: float = 0.0
) -> Tensor:
    """Return SPEED's matrix M (D, D) for one set of free directions.

    SPEED (Li et al. 2026), closed form of the edit with invariant equality constraints. With T and A the means of
    ``c c^T`` and ``t c^T``, P the projection onto the free directions, K the invariants as columns and
    ``N = (T P + s I)^-1``, the edit ``W' - W`` is
    ``W (A - T) P (I - N K (K^T P N K + lamb I)^-1 K^T P) N``. Here ``P N`` is the symmetric matrix
    ``U (U^T T U + s I)^-1 U^T`` of the columns U. Without ``lamb`` the invariants stay exactly as they are.

    Args:
        erase: Moments of the token vectors to move, divided by the number of prompts.
        free: Orthonormal columns U (D, n) of the free directions.
        invariants: Token vectors (N, D) that W' must not change.
        retain_scale: Weight s of the squared size of the edit, above 0.
        lamb: Slack of the invariants, at least 0.
    """
    inner = free.T @ erase.second @ free + retain_scale * torch.eye(free.shape[1], dtype=torch.float64)
    spread = free @ torch.linalg.solve(inner, free.T)  # (D, D)
    seen = spread @ invariants.T.to(torch.float64)  # (D, N)
    held = invariants.to(torch.float64) @ seen + lamb * torch.eye(len(invariants), dtype=torch.float64)
    inverse, _ = pseudo_inverse(held)
    moved: Tensor = (erase.cross - erase.second) @ (spread - seen @ inverse @ seen.T)
    return torch.eye(len(moved), dtype=torch.float64) + moved


def onto(vectors: Tensor) -> Tensor:
    """Return the orthogonal projection (D, D) onto the span of token vectors (N, D): ``S (S^T S)^+ S^T``."""
    values, rows = torch.linalg.svd(vectors.to(torch.float64), full_matrices=False)[1:]
    basis: Tensor = rows[values > SEEN**0.5 * values.max()]  # (r, D)
    return basis.T @ basis


def double_projection(erase: Moments, free: Tensor) -> Tensor:
    """Return DP's matrix M (D, D).

    Double Projections (Zhang et al. 2026): for a token vector c with target t and the free directions U, the edit
    ``W (t - c) x^T U^T / ||x||^2`` with ``x = U^T c`` has the least norm of all that give c the output W t and change
    nothing outside U. For several vectors it is ``W (sum (t - c) x^T) (sum x x^T)^+ U^T``, the least squares over
    them, which is this package's generalisation.

    Args:
        erase: Moments of the token vectors to move, with their targets.
        free: Orthonormal columns U (D, n) of the free directions.
    """
    inverse, _ = pseudo_inverse(free.T @ erase.second @ free)
    moved = (erase.cross - erase.second) @ free @ inverse @ free.T
    return torch.eye(len(moved), dtype=torch.float64) + moved


def most_changed(vectors: Tensor, erase: Moments, weight: Tensor) -> Tensor:
    """Return the token vectors that an unconstrained edit of one matrix would change more than on average.

    SPEED's influence-based filter: with the edit ``E = W (A - T) (I + T)^-1``, vectors q with ``||E q||`` above the
    mean.

    Args:
        vectors: Token vectors (N, D).
        erase: Moments of the token vectors to move, divided by the number of prompts.
        weight: Matrix W (out, D) of one key or value layer.
    """
    eye = torch.eye(len(erase.second), dtype=torch.float64)
    edit = torch.linalg.solve(eye + erase.second, (weight @ (erase.cross - erase.second)).T).T  # (out, D)
    changes = (vectors @ edit.T).norm(dim=1)
    above = changes > changes.mean()
    return vectors[above] if bool(above.any()) else vectors  # equal changes, as of a single vector, are all kept
