"""Lower bounds on the distance of any text from the concept, where a linear constraint gives one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust_encoders.overlays.projection import PROJECTION_TENSOR

from ...diffusion.backbone import Backbone
from .ranking import root_of

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

# Widening of the ball of normalised vectors, because the encoder itself rounds.
_ROUNDING = 1e-4
_STEPS = 200
# Stands for the largest squared singular value of a projection that is 0, whose logarithm does not exist.
_SMALLEST = 1e-200


@dataclass(frozen=True)
class FinalNorm:
    """The last layer of a text encoder: a normalised vector times ``weight`` plus ``bias``.

    Args:
        weight: Factors (D,).
        bias: Summands (D,).
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, backbone: Backbone) -> FinalNorm:
        """Return the last layer of a base's text encoder."""
        encoder = backbone.text_encoder
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        return cls(norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double())


def lower_bound(
    projection: Tensor, gram: Tensor, norm: FinalNorm, wanted: Tensor, begin: Tensor | None = None
) -> float:
    """Return a lower bound on the distance of any projected conditioning from a wanted one, as the UNet sees it.

    It bounds ``seen_distance`` for every text, and for every sequence of embeddings, whatever the layers before the
    last one do. The derivation:

    1. The encoder ends in a layer normalisation, so its output at a position is ``c = b + g * z`` with the layer's
       weight g and bias b. The vector z has mean 0, and ``|z|^2 <= D``, because the variance is divided by itself plus
       a small constant.
    2. The projection M makes ``M c`` of it. With ``G = R^T R``, the squared distance to the wanted w is
       ``|B z - r|^2``, where ``B = R M diag(g) P``, ``r = R (w - M b)``, and P removes the mean.
    3. The smallest value over the ball ``|z|^2 <= D`` is at least the value of its dual for any ``lambda >= 0``:
       ``min_z |B z - r|^2 + lambda (|z|^2 - D)``. With the singular values s of B, and p the parts of r along its left
       singular vectors, this is ``sum_i p_i^2 lambda / (s_i^2 + lambda) - lambda D``. The part of r outside the range
       of B, where s is 0, is kept whole. The dual is concave; a bisection finds its largest value. A step that is not
       exact only makes the bound smaller, never wrong.
    4. Positions are independent, so their bounds add up. A causal encoder gives every text the same output at the begin
       token, so that position counts exactly. The sum is divided by ``w^T G w``, as in ``seen_distance``.

    A projection that can be inverted often has the bound 0: some vector of the ball may lie where the wanted one is.

    Args:
        projection: Matrix M (D, D).
        gram: Matrix G (D, D).
        norm: Last layer of the base's text encoder.
        wanted: Conditioning (L, D) of the concept by the base.
        begin: Output (D,) of the base's encoder at the begin token; None bounds that position like any other.

    Returns:
        The bound, at least 0. It holds in exact arithmetic, and 0.01 % of rounding in the encoder are allowed for.
    """
    exact, root = projection.cpu().double(), root_of(gram.cpu())
    target = wanted.cpu().double()
    width = len(exact)
    centre = torch.eye(width, dtype=torch.float64) - 1 / width
    left, singular, _ = torch.linalg.svd(root @ exact @ torch.diag(norm.weight.double()) @ centre)
    parts = ((target - exact @ norm.bias.double()) @ root.T @ left).square()  # (L, D)
    bounds = _largest_dual(parts, singular.square(), width * (1 + _ROUNDING))  # (L,)
    if begin is not None:
        bounds[0] = ((exact @ begin.cpu().double() - target[0]) @ root.T).square().sum()
    return float(bounds.sum() / (target @ root.T).square().sum())


def _largest_dual(parts: Tensor, squares: Tensor, radius: float) -> Tensor:
    """Return the largest value (L,) of the dual, which is at least 0.

    Args:
        parts: Squared parts (L, D) of r along the left singular vectors.
        squares: Squared singular values (D,).
        radius: Squared radius of the ball.
    """
    scale = squares.max().clamp_min(_SMALLEST)
    low = (scale * 1e-18).log().expand(len(parts)).clone()
    # At the optimum, lambda is at most the root of sum_i p_i^2 s_i^2 / radius, where the slope is negative.
    high = ((parts @ squares).div(radius).sqrt().clamp_min(scale * 1e-18)).log()
    for _ in range(_STEPS):
        middle = (low + high) / 2
        rising = (parts * squares / (squares + middle.exp()[:, None]).square()).sum(1) > radius
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    factor = low.exp()[:, None]
    dual = (parts * factor / (squares + factor)).sum(1) - low.exp() * radius
    return dual.clamp_min(0)


@torch.no_grad()
def bound_of(encoder: LoadedArtifact, base: Backbone, words: Sequence[str]) -> float | None:
    """Return the lower bound on the distance of any text from a concept's words; None if no bound is known.

    A bound is known for projections, see ``lower_bound``. Of several words the smallest bound counts.

    Args:
        encoder: Encoder.
        base: Base without the encoder.
        words: Words of the concept.
    """
    if encoder.manifest.form != "projection":
        return None
    norm, gram = FinalNorm.of(base), base.text_gram()
    matrix, begin = encoder.tensors[PROJECTION_TENSOR], base.null()[0, 0]
    return min(lower_bound(matrix, gram, norm, wanted, begin) for wanted in base.condition(words))
