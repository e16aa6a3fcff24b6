"""LPIPS: distance in deep features between a picture and the base's picture for the same prompt and seed.

It should be small on retain prompts and large on prompts of the erased concept. Erasers are compared by the difference
of the two (LPIPS_d; higher is better).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from robust_encoders.utils.extras import install_command

from ..types import Case, Result
from .rates import Z_95

Net = Literal["alex", "vgg", "squeeze"]


class Distance(Protocol):
    """A named function from two batches of pictures (B, 3, H, W) in [0, 1] to distances (B,)."""

    @property
    def name(self) -> str:
        """Name and version of the distance."""
        ...

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (B,) between the pictures of both batches, pair by pair."""
        ...


@dataclass(frozen=True)
class LayeredDistance:
    """The formula of LPIPS on any network (Zhang et al., CVPR 2018, equation 1).

    The features of a layer are normalised over channels at every position. Squared differences are weighted by channel,
    summed over channels, averaged over positions, and summed over layers. As in the authors' code, a weight multiplies
    the squared difference; in the paper's equation it stands inside the square.

    Args:
        name: Name and version of the network.
        layers: Function from pictures (B, 3, H, W) in [0, 1] to the features (B, C, h, w) of each layer.
        weights: Weights (C,) of the channels, one tensor per layer; None gives every channel the weight 1.
    """

    name: str
    layers: Callable[[Tensor], Sequence[Tensor]]
    weights: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (B,) between two batches of pictures (B, 3, H, W) in [0, 1]."""
        pairs = list(zip(self.layers(one), self.layers(other), strict=True))
        weights = self.weights or tuple(torch.ones(a.shape[1]) for a, _ in pairs)
        parts: list[Tensor] = [
            ((_unit(a) - _unit(b)).square() * w.view(1, -1, 1, 1)).sum(1).mean((1, 2))
            for (a, b), w in zip(pairs, weights, strict=True)
        ]
        total: Tensor = torch.stack(parts).sum(0)
        return total


def _unit(features: Tensor) -> Tensor:
    return torch.div(features, features.square().sum(1, keepdim=True).sqrt() + 1e-10)


@dataclass(frozen=True)
class LpipsDistance:
    """LPIPS with the authors' library and weights.

    Args:
        net: Network that computes the features; papers report ``alex``.
        model: An ``lpips.LPIPS`` to use. None builds the published one, which downloads ImageNet weights.
    """

    net: Net = "alex"
    model: Any = None

    @property
    def name(self) -> str:
        """Name and version of the distance."""
        return f"lpips-0.1/{self.net}"

    @torch.no_grad()
    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (B,) between pictures (B, 3, H, W) in [0, 1], at least 32 pixels wide and high."""
        model = _published(self.net) if self.model is None else self.model
        found: Tensor = model(one.float(), other.float(), normalize=True)
        return found.flatten()


@cache
def _published(net: Net) -> Any:
    try:
        import lpips
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected lpips and torchvision, found no {error.name}; {install_command('lpips')}"
        ) from error
    return lpips.LPIPS(net=net, verbose=False)


class PictureDistance:
    """Mean distance of pictures from their references, with the 95 % interval of the mean.

    On retain prompts, lower is better. On prompts of the erased concept, see ``distance_difference``.

    Args:
        distance: Distance between the two pictures of a pair.
        name: Name of the result, for example ``lpips_kept`` or ``lpips_erased``.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def __init__(self, distance: Distance, name: str = "lpips_kept") -> None:
        self.distance = distance
        self.name = name
        self.values: list[float] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Add pictures (B, 3, H, W) in [0, 1], and the base's pictures for the same prompts and seeds as ``reference``.

        Raises:
            ValueError: If ``reference`` is missing or has another shape.
        """
        if reference is None or reference.shape != images.shape:
            found = None if reference is None else tuple(reference.shape)
            raise ValueError(
                f"expected reference pictures {tuple(images.shape)}, found {found}; "
                "draw the base's pictures of the same prompts with the same seeds"
            )
        self.values += self.distance(images, reference).double().tolist()

    def moments(self) -> tuple[float, float]:
        """Return the mean distance and its standard error.

        Raises:
            ValueError: If fewer than two pairs were added.
        """
        n = len(self.values)
        if n < 2:
            raise ValueError(f"expected at least 2 pairs of pictures for {self.name}, found {n}")
        values = torch.tensor(self.values, dtype=torch.float64)
        return float(values.mean()), float(values.std()) / math.sqrt(n)

    def compute(self) -> Result:
        """Return the mean distance with its 95 % interval under a normal distribution.

        Raises:
            ValueError: If fewer than two pairs were added.
        """
        mean, error = self.moments()
        return _with_interval(self.name, mean, error, len(self.values), {"distance": self.distance.name})


def distance_difference(erased: PictureDistance, kept: PictureDistance) -> Result:
    """Return the mean distance on erased prompts minus the mean distance on retain prompts; higher is better.

    The 95 % interval assumes two independent, normally distributed means. ``n`` counts the pairs of both sets.

    Raises:
        ValueError: If the two metrics use different distances, or either has fewer than two pairs.
    """
    if erased.distance.name != kept.distance.name:
        raise ValueError(f"expected one distance for both, found {erased.distance.name} and {kept.distance.name}")
    (high, one), (low, other) = erased.moments(), kept.moments()
    settings = {"distance": kept.distance.name, "n_erased": len(erased.values), "n_kept": len(kept.values)}
    n = len(erased.values) + len(kept.values)
    return _with_interval("lpips_difference", high - low, math.hypot(one, other), n, settings)


def _with_interval(metric: str, value: float, error: float, n: int, settings: dict[str, Any]) -> Result:
    interval = (value - Z_95 * error, value + Z_95 * error)
    return Result(metric=metric, value=value, n=n, interval=interval, settings=settings)
