"""Regularised least squares on the key and value matrices (K and V) of cross-attention, for UCE and RECE.

UCE edits every K and V matrix W by the same concepts. All its solutions therefore are W M with one matrix M (D, D). M
needs only sums over token vectors; it depends neither on the matrices nor on their number. RECE also needs the sum of
W^T W. All computation here is in float64 on the CPU, because some accelerators have no float64.

A token vector is the text encoder's output at one position of a prompt, a vector of width D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_encoders.overlays.projection import key_value_layers, require_square

# Largest accepted distance between a projection and the edit that it replaces, relative to the edit's size. Above it,
# no matrix on the encoder's output stands for the edit.
RESIDUAL_BOUND = 0.05
# Smallest eigenvalue of G, relative to the largest, that counts as more than rounding. Text directions below it reach
# neither K nor V.
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


@dataclass(frozen=True)
class Projected:
    """An edit of K and V matrices, as one matrix on the encoder's output.

    Args:
        matrix: Matrix M (D, D), float64.
        residual: Part of the edit that M loses, ``||W' - W M|| / ||W' - W||`` over all layers: 0 is none of it, 1 is
            all of it. Lower is better.
        seen: Number of text directions that reach K and V; in the other directions M changes nothing.
    """

    matrix: Tensor
    residual: float
    seen: int


def project_edit(unet: nn.Module, edited: Mapping[str, Tensor], *, bound: float = RESIDUAL_BOUND) -> Projected:
    """Return the projection closest to a given edit of a UNet's K and V matrices.

    ``M = G^-1 sum_l W_l^T W'_l`` minimises ``sum_l ||W'_l - W_l M||^2``. If G is singular, M is the identity in the
    directions that reach neither K nor V.

    Args:
        unet: UNet before the edit; it stays unchanged.
        edited: Edited tensors by name, ``<module>.weight``. Missing K and V matrices count as unedited. Every other
            tensor, as a whole state dict has it, must equal the UNet's own.
        bound: Largest accepted residual, see :class:`Projected`.

    Raises:
        ValueError: If an edited tensor is neither K nor V of this UNet, or if the residual is above ``bound``. The
            message names the tensors or the residual.
    """
    layers = key_value_layers(unet)
    _require_key_values(unet, layers, edited)
    width = next(iter(layers.values())).in_features
    gram, right = torch.zeros(2, width, width, dtype=torch.float64).unbind()
    size = 0.0
    for name, layer in layers.items():
        weight = layer.weight.detach().to("cpu", torch.float64)
        gram += weight.T @ weight
        if f"{name}.weight" in edited:
            change = edited[f"{name}.weight"].detach().to("cpu", torch.float64) - weight
            right += weight.T @ change
            size += float(change.square().sum())
    inverse, seen = _pseudo_inverse(gram)
    moved = inverse @ right
    # ||W' - W M||^2 = ||W' - W||^2 - 2 <W' - W, W (M - I)> + ||W (M - I)||^2, summed over layers.
    left = size - 2 * float((right * moved).sum()) + float((moved * (gram @ moved)).sum())
    residual = (max(left, 0.0) / size) ** 0.5 if size else 0.0
    if not residual <= bound:
        raise ValueError(
            f"expected an edit that one matrix on the encoder's output reproduces up to a residual of {bound:.3g}, "
            f"found a residual of {residual:.3g}: keep it as an edit of the UNet, or accept a larger bound"
        )
    matrix = torch.eye(width, dtype=torch.float64) + moved
    require_square(matrix, width)
    return Projected(matrix, residual, seen)


def _require_key_values(unet: nn.Module, layers: Mapping[str, nn.Linear], edited: Mapping[str, Tensor]) -> None:
    own = unet.state_dict()
    ours = {f"{name}.weight" for name in layers}
    problems = []
    for name, tensor in edited.items():
        if name not in own:
            problems.append(f"{name} is not in this UNet")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(own[name].shape)}")
        elif name not in ours and not torch.equal(tensor.to(own[name]), own[name]):
            problems.append(f"{name} is an edited tensor, but neither K nor V of a cross-attention")
    if not ours & edited.keys():
        problems.append("no K or V matrix of this UNet")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ValueError(f"expected an edit of only the cross-attention K and V of this UNet, found: {shown}")


def _pseudo_inverse(gram: Tensor) -> tuple[Tensor, int]:
    values, vectors = torch.linalg.eigh(gram)
    seen = values > SEEN * values.max()
    kept = vectors[:, seen]
    return (kept / values[seen]) @ kept.T, int(seen.sum())
