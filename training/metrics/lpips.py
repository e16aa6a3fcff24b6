"""LPIPS: how far a picture is from the base's own for the same prompt and seed, as deep features see it.

On kept prompts it should be small, on erased ones large; their difference is what erasers are compared by (LPIPS_d).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..types import Case, Result
from .rates import Z_95

Net = Literal["alex", "vgg", "squeeze"]


class Distance(Protocol):
    """Maps two batches of pictures (B, 3, H, W) in [0, 1] to distances (B,), and names itself."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return distances (B,)."""
        ...


@dataclass(frozen=True)
class LayeredDistance:
    """The formula of LPIPS on any network (Zhang et al., CVPR 2018, equation 1).

    At every position the features of a layer are divided by their length over channels; squared differences are
    weighted by channel, summed over channels, averaged over positions, and summed over layers. As in the authors'
    code, a weight multiplies the squared difference; in the paper's equation it stands inside the square.

    Args:
        name: Name and version of the network.
        layers: Pictures (B, 3, H, W) in [0, 1] to one tensor (B, C, h, w) for each layer.
        weights: For each layer the weights (C,) of its channels; None weighs every channel with one.
    """

    name: str
    layers: Callable[[Tensor], Sequence[Tensor]]
    weights: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return distances (B,) of pictures (B, 3, H, W) in [0, 1]."""
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
        net: Its network; ``alex`` is what papers report.
        model: An ``lpips.LPIPS`` instead of the published one, which fetches its network's ImageNet weights.
    """

    net: Net = "alex"
    model: Any = None

    @property
    def name(self) -> str:
        """Name and version."""
        return f"lpips-0.1/{self.net}"

    @torch.no_grad()
    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Return distances (B,) of pictures (B, 3, H, W) in [0, 1], at least 32 pixels wide and high."""
        model = _published(self.net) if self.model is None else self.model
        found: Tensor = model(one.float(), other.float(), normalize=True)
        return found.flatten()


@cache
def _published(net: Net) -> Any:
    try:
        import lpips
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected lpips and torchvision, found no {error.name}; pip install 'robust-encoders[lpips]'"
        ) from error
    return lpips.LPIPS(net=net, verbose=False)


class PictureDistance:
    """Metric: mean distance of pictures from their references, with the normal 95 % interval of the mean.

    Lower is better on kept prompts; on erased ones see ``distance_difference``.

    Args:
        distance: What measures one pair.
        name: Of the result, for example ``lpips_kept`` or ``lpips_erased``.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def __init__(self, distance: Distance, name: str = "lpips_kept") -> None:
        self.distance = distance
        self.name = name
        self.values: list[float] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Take pictures (B, 3, H, W) in [0, 1] and the base's own for the same prompts and seeds.

        Raises:
            ValueError: If the reference is missing or of another shape.
        """
        if reference is None or reference.shape != images.shape:
            found = None if reference is None else tuple(reference.shape)
            raise ValueError(
                f"expected reference pictures {tuple(images.shape)}, found {found}; "
                "draw the base's pictures of the same prompts with the same seeds"
            )
        self.values += self.distance(images, reference).double().tolist()

    def moments(self) -> tuple[float, float]:
        """Return the mean and its standard error.

        Raises:
            ValueError: If fewer than two pairs were seen.
        """
        n = len(self.values)
        if n < 2:
            raise ValueError(f"expected at least 2 pairs of pictures for {self.name}, found {n}")
        values = torch.tensor(self.values, dtype=torch.float64)
        return float(values.mean()), float(values.std()) / math.sqrt(n)

    def compute(self) -> Result:
        """Return the mean distance.

        Raises:
            ValueError: If fewer than two pairs were seen.
        """
        mean, error = self.moments()
        return _with_interval(self.name, mean, error, len(self.values), {"distance": self.distance.name})


def distance_difference(erased: PictureDistance, kept: PictureDistance) -> Result:
    """Return the mean distance on erased prompts less that on kept ones; higher is better.

    The interval is the normal one of two independent means. ``n`` counts both sets.

    Raises:
        ValueError: If the two do not measure alike, or either saw fewer than two pairs.
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
