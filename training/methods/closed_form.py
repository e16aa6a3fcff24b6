"""Regularised least squares on the K and V matrices of cross-attention, in collapsed form (UCE, RECE).

UCE edits every K and V matrix W by the same concepts, so that all of its solutions are W M with one matrix M (D, D),
which needs neither the matrices nor their number: only sums over token vectors. RECE adds the sum of W^T W. Everything
here is float64 on the CPU; not every accelerator has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_encoders.overlays.projection import key_value_layers, require_square

# Of the projection's distance to an edit, relative to the edit: above it the edit is not one of the encoder's output.
RESIDUAL_BOUND = 0.05
# Directions of the text whose share of G is below this reach no K and no V, but for rounding.
SEEN = 1e-10


@dataclass(frozen=True)
class Moments:
    """What a least squares needs to know of pairs of token vectors c and their targets t, however many there are.

    Args:
        second: Sum of ``c c^T`` (D, D), float64.
        cross: Sum of ``t c^T`` (D, D), float64; where a token is to be kept, t is c.
        count: Pairs.
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
        """Return the moments of vectors (N, D) and their targets (N, D), by default themselves.

        Raises:
            ValueError: The shapes differ, or a value is not finite.
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
        erase_scale: Of every token vector that is moved.
        preserve_scale: Of every token vector that is kept.
        lamb: Of the distance to the matrices as they were.

    Raises:
        ValueError: One is negative or not finite, or ``lamb`` is zero: the sum of few token vectors is singular.
    """

    erase_scale: float = 1.0
    preserve_scale: float = 1.0
    lamb: float = 0.5

    def __post_init__(self) -> None:
        infinite = float("inf")
        if not (0 <= self.erase_scale < infinite and 0 <= self.preserve_scale < infinite and 0 < self.lamb < infinite):
            raise ValueError(f"expected finite erase_scale >= 0, preserve_scale >= 0 and lamb > 0, found {self}")


def solve(erase: Moments, preserve: Moments, weights: RidgeConfig) -> Tensor:
    """Return M (D, D), for which W M solves UCE's ridge regression for every K and V matrix W at once.

    UCE (Gandikota et al. 2024), equation 7: the minimum over W' of
    ``a sum ||W' c - W t||^2 + p sum ||W' q - W q||^2 + lamb ||W' - W||^2`` is W M with
    ``M = (lamb I + a sum t c^T + p sum q q^T) (lamb I + a sum c c^T + p sum q q^T)^-1``.
    It is computed as ``I + a (sum (t - c) c^T) (...)^-1``, where nothing is lost by taking large sums apart.

    Args:
        erase: Of the token vectors that move, and where to.
        preserve: Of those that stay; only their second moments are used.
        weights: Of the terms.

    Raises:
        ValueError: The matrix to invert is not positive definite.
    """
    eye = torch.eye(len(erase.second), dtype=torch.float64)
    a, p = weights.erase_scale, weights.preserve_scale
    normal = weights.lamb * eye + a * erase.second + p * preserve.second
    # normal is symmetric, so that X normal^-1 is the transpose of normal^-1 X^T.
    moved = _solved(normal, a * (erase.cross - erase.second).T, "lamb")
    return eye + moved.T


def adversarial_map(gram: Tensor, matrix: Tensor, regulariser: float) -> Tensor:
    """Return T (D, D): T c is the embedding that brings c back in the edited model.

    RECE (Gong et al. 2024), equation 8, regularised towards zero: the minimum over c' of
    ``sum_l ||W_l M c' - W_l c||^2 + regulariser ||c'||^2``, which is ``(regulariser I + M^T G M)^-1 M^T G c``.

    Args:
        gram: G = ``sum_l W_l^T W_l`` (D, D) of the unedited model.
        matrix: The edit M (D, D) so far.
        regulariser: RECE's lambda.

    Raises:
        ValueError: The matrix to invert is not positive definite.
    """
    eye = torch.eye(len(gram), dtype=torch.float64)
    back = matrix.T @ gram
    return _solved(regulariser * eye + back @ matrix, back, "regulariser")


def adversarial_step(
    matrix: Tensor, erase: Moments, preserve: Moments, *, gram: Tensor, regulariser: float, weights: RidgeConfig
) -> Tensor:
    """Return what one epoch of RECE multiplies the edit M (D, D) by, from the right.

    Args:
        matrix: M so far.
        erase: Of the concepts' token vectors and where they go; those that are erased are derived from them.
        preserve: Of the token vectors that stay.
        gram: G (D, D) of the unedited model.
        regulariser: Of the derivation.
        weights: Of the solve, whose distance is to the matrices as they are now, ``W M``.
    """
    return solve(erase.mapped(adversarial_map(gram, matrix, regulariser)), preserve, weights)


def _solved(normal: Tensor, right: Tensor, raise_: str) -> Tensor:
    """Return ``normal^-1 right``."""
    factor, info = torch.linalg.cholesky_ex((normal + normal.T) / 2)
    if int(info) != 0:
        raise ValueError(f"expected a positive definite matrix to invert, found none: use a larger {raise_}")
    solution: Tensor = torch.cholesky_solve(right, factor)
    return solution


@dataclass(frozen=True)
class Projected:
    """An edit of K and V matrices as one matrix on the encoder's output.

    Args:
        matrix: M (D, D), float64.
        residual: ``||W' - W M|| / ||W' - W||`` over all layers: 0 where nothing is lost, 1 where all is.
        seen: Directions of the text that reach K and V at all; in the others M changes nothing.
    """

    matrix: Tensor
    residual: float
    seen: int


def project_edit(unet: nn.Module, edited: Mapping[str, Tensor], *, bound: float = RESIDUAL_BOUND) -> Projected:
    """Return the projection that is closest to somebody's edit of a UNet's K and V matrices.

    ``M = G^-1 sum_l W_l^T W'_l`` minimises ``sum_l ||W'_l - W_l M||^2``. Where G is singular, M is the identity in the
    directions that no K and no V sees.

    Args:
        unet: The UNet before the edit; left as it is.
        edited: ``<module>.weight`` to tensors. K and V matrices that are missing were not edited. Other tensors must
            equal the UNet's own, as in a whole state dict.
        bound: Largest residual.

    Raises:
        ValueError: Naming the tensors that are not K and V matrices of this UNet, or saying the residual, where it is
            above ``bound``.
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
            f"expected an edit that one matrix on the encoder's output can stand for, to {bound:.3g} of its size, "
            f"found a residual of {residual:.3g}: keep it as an edit of the UNet, or raise the bound knowingly"
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
            problems.append(f"{name} was edited and is neither K nor V of a cross-attention")
    if not ours & edited.keys():
        problems.append("none of its K and V matrices")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ValueError(f"expected an edit of this UNet's cross-attention K and V alone, found: {shown}")


def _pseudo_inverse(gram: Tensor) -> tuple[Tensor, int]:
    values, vectors = torch.linalg.eigh(gram)
    seen = values > SEEN * values.max()
    kept = vectors[:, seen]
    return (kept / values[seen]) @ kept.T, int(seen.sum())
