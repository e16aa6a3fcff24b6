"""Regularised least squares on K and V: UCE, RECE, and the first stages of TRCE and MACE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .moments import Moments, pseudo_inverse


@dataclass(frozen=True, kw_only=True)
class RidgeConfig:
    """Weights of the three terms of UCE's objective. Defaults are its authors'.

    Args:
        erase_scale: Weight of every token vector that is moved.
        preserve_scale: Weight of every token vector that is kept.
        lamb: Weight of the squared distance from the unedited matrices. It must be above 0, because the sums over few
            token vectors are singular.

    Raises:
        ValueError: If a weight is negative or not finite, or if ``lamb`` is zero.
    """

    erase_scale: float = 1.0
    preserve_scale: float = 1.0
    lamb: float = 0.5

    def __post_init__(self) -> None:
        infinite = float("inf")
        if not (0 <= self.erase_scale < infinite and 0 <= self.preserve_scale < infinite and 0 < self.lamb < infinite):
            raise ValueError(f"expected finite erase_scale >= 0, preserve_scale >= 0 and lamb > 0, found {self}")


def solve(erase: Moments, preserve: Moments, weights: RidgeConfig) -> Tensor:
    """Return the matrix M (D, D) such that W M solves UCE's ridge regression for every K and V matrix W.

    UCE (Gandikota et al. 2024), equation 7: the minimum over W' of
    ``a sum ||W' c - W t||^2 + p sum ||W' q - W q||^2 + lamb ||W' - W||^2`` is W M with
    ``M = (lamb I + a sum t c^T + p sum q q^T) (lamb I + a sum c c^T + p sum q q^T)^-1``.
    It is computed as ``I + a (sum (t - c) c^T) (...)^-1``, which avoids the rounding error of a difference of large
    sums.

    Args:
        erase: Moments of the token vectors to move, with their targets.
        preserve: Moments of the token vectors to keep; only ``second`` is used.
        weights: Weights of the three terms: ``a`` is ``erase_scale`` and ``p`` is ``preserve_scale``.

    Raises:
        ValueError: If the matrix to invert is not positive definite.
    """
    eye = torch.eye(len(erase.second), dtype=torch.float64)
    a, p = weights.erase_scale, weights.preserve_scale
    normal = weights.lamb * eye + a * erase.second + p * preserve.second
    # ``normal`` is symmetric, so X normal^-1 is the transpose of normal^-1 X^T.
    moved = _solved(normal, a * (erase.cross - erase.second).T, "lamb")
    return eye + moved.T


def least_change(erase: Moments, preserve: Moments, *, lamb: float = 0.0) -> Tensor:
    """Return the matrix M (D, D) of the ridge regression whose weight of the distance may be 0.

    TRCE (Chen et al. 2025) and MACE (Lu et al. 2024) solve
    ``W' = (sum W t c^T + sum W q q^T) (sum c c^T + sum q q^T)^-1`` in their first stages, without the term
    ``lamb ||W' - W||^2``. The sums must have full rank for that. If they do not, M is the limit of small ``lamb``: of
    all solutions the one that is closest to the identity. With a positive ``lamb`` it is ``solve``.

    Args:
        erase: Moments of the token vectors to move, with their targets, weighted.
        preserve: Moments of the token vectors to keep, weighted; only ``second`` is used.
        lamb: Weight of the squared distance from the unedited matrices, at least 0.

    Raises:
        ValueError: If ``lamb`` is negative or not finite.
    """
    if lamb:
        return solve(erase, preserve, RidgeConfig(lamb=lamb))
    inverse, _ = pseudo_inverse(erase.second + preserve.second)
    return torch.eye(len(inverse), dtype=torch.float64) + (erase.cross - erase.second) @ inverse


def adversarial_map(gram: Tensor, matrix: Tensor, regulariser: float) -> Tensor:
    """Return the matrix T (D, D) that maps a token vector c to the vector T c that brings c back in the edited model.

    RECE (Gong et al. 2024), equation 8, regularised towards zero: T c is the minimum over c' of
    ``sum_l ||W_l M c' - W_l c||^2 + regulariser ||c'||^2``, which is ``(regulariser I + M^T G M)^-1 M^T G c``.

    Args:
        gram: Matrix G = ``sum_l W_l^T W_l`` (D, D) of the unedited model, summed over its K and V matrices.
        matrix: Edit M (D, D) so far.
        regulariser: Weight of the penalty on the size of T c, RECE's lambda.

    Raises:
        ValueError: If the matrix to invert is not positive definite.
    """
    eye = torch.eye(len(gram), dtype=torch.float64)
    back = matrix.T @ gram
    return _solved(regulariser * eye + back @ matrix, back, "regulariser")


def adversarial_step(
    matrix: Tensor, erase: Moments, preserve: Moments, *, gram: Tensor, regulariser: float, weights: RidgeConfig
) -> Tensor:
    """Return the matrix (D, D) by which one epoch of RECE multiplies the edit M from the right.

    Args:
        matrix: Edit M (D, D) so far.
        erase: Moments of the concepts' token vectors and their targets; the vectors to erase are derived from them.
        preserve: Moments of the token vectors to keep.
        gram: Matrix G (D, D) of the unedited model, see :func:`adversarial_map`.
        regulariser: Weight of the penalty on the size of the derived vectors, RECE's lambda.
        weights: Weights of the solve; ``lamb`` weighs the distance from the current matrices ``W M``.
    """
    return solve(erase.mapped(adversarial_map(gram, matrix, regulariser)), preserve, weights)


def _solved(normal: Tensor, right: Tensor, raise_: str) -> Tensor:
    """Return ``normal^-1 right``; ``raise_`` names the setting that an error message advises to increase."""
    factor, info = torch.linalg.cholesky_ex((normal + normal.T) / 2)
    if int(info) != 0:
        raise ValueError(f"expected a positive definite matrix to invert, found one that is not: use a larger {raise_}")
    solution: Tensor = torch.cholesky_solve(right, factor)
    return solution
