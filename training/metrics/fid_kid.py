"""FID and KID on any features: how far the pictures of an encoder are, as a set, from the base's own.

Computed by torchmetrics from features that are given; no Inception weights and no torchvision are needed for that.
Both depend on the features, and FID on the number of pictures, too (Chong and Forsyth, CVPR 2020): figures on the
judge's features, or at different n, are not comparable with published ones on Inception's.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..types import Case, Result


class Features(Protocol):
    """Maps pictures (B, 3, H, W) in [0, 1] to features (B, F), and names itself."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, F)."""
        ...


@dataclass
class _Collected:
    """Features of the pictures under test and of the reference, batch by batch."""

    features: Features
    drawn: list[Tensor] = field(default_factory=list)
    reference: list[Tensor] = field(default_factory=list)

    def add(self, images: Tensor, reference: Tensor | None) -> None:
        if reference is None:
            raise ValueError("expected reference pictures, found none; pass the base's pictures of the same prompts")
        self.drawn.append(self.features(images).detach().double().cpu())
        self.reference.append(self.features(reference).detach().double().cpu())

    def fill(self, metric: Any) -> int:
        """Hand all features to a torchmetrics metric that takes them as they are; return how many pictures."""
        metric.update(torch.cat(self.reference), real=True)
        metric.update(torch.cat(self.drawn), real=False)
        return sum(map(len, self.drawn))

    def size(self) -> int:
        return min(sum(map(len, self.drawn)), sum(map(len, self.reference)))

    def identity(self) -> nn.Module:
        module: Any = nn.Identity()
        module.num_features = self.drawn[0].shape[1]
        taken: nn.Module = module
        return taken


def _library(module: str, name: str) -> Any:
    # By module: torchmetrics.image itself shows the two only where torch-fidelity is installed, which they do not need.
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "expected torchmetrics, found none; pip install 'robust-encoders[metrics]'"
        ) from error


class FrechetDistance:
    """Metric: FID between the pictures and their references (Heusel et al., NeurIPS 2017, equation 6).

    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` of means and unbiased covariances. With fewer pictures than features
    the covariances are singular and the value is biased upwards; it is still defined. No interval.

    Args:
        features: What the distance is taken in.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def __init__(self, features: Features) -> None:
        self.collected = _Collected(features)

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Take pictures (B, 3, H, W) in [0, 1] and the base's own (B', 3, H, W) in ``reference``.

        Raises:
            ValueError: Without a reference.
        """
        self.collected.add(images, reference)

    def compute(self) -> Result:
        """Return the distance.

        Raises:
            ValueError: If fewer than two pictures were seen on either side.
        """
        if self.collected.size() < 2:
            raise ValueError(f"expected at least 2 pictures on each side, found {self.collected.size()}")
        metric = _library("fid", "FrechetInceptionDistance")(feature=self.collected.identity()).set_dtype(torch.float64)
        n = self.collected.fill(metric)
        settings = {"features": self.collected.features.name, "n_reference": sum(map(len, self.collected.reference))}
        return Result(metric="fid", value=float(metric.compute()), n=n, settings=settings)


class KernelDistance:
    """Metric: KID between the pictures and their references (Binkowski et al., ICLR 2018, section 3).

    The unbiased squared maximum mean discrepancy under the kernel ``(x.y / F + 1)^3``, averaged over random subsets;
    it can be negative. ``settings`` holds the standard deviation over subsets, which overlap, so that it is no
    confidence interval.

    Args:
        features: What the distance is taken in.
        subsets: How many.
        subset_size: Pictures of each side in a subset.
        seed: Of their choice.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def __init__(self, features: Features, *, subsets: int = 100, subset_size: int = 100, seed: int = 0) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"expected subsets >= 1 of subset_size >= 2, found {subsets} of {subset_size}")
        self.collected = _Collected(features)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Take pictures (B, 3, H, W) in [0, 1] and the base's own (B', 3, H, W) in ``reference``.

        Raises:
            ValueError: Without a reference.
        """
        self.collected.add(images, reference)

    def compute(self) -> Result:
        """Return the mean over subsets.

        Raises:
            ValueError: If either side has fewer pictures than a subset.
        """
        if self.collected.size() < self.subset_size:
            found = self.collected.size()
            raise ValueError(
                f"expected at least subset_size={self.subset_size} pictures on each side, found {found}; "
                "draw more, or choose smaller subsets"
            )
        metric = _kernel_metric(self.collected.identity(), self.subsets, self.subset_size)
        n = self.collected.fill(metric)
        # torchmetrics draws the subsets from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mean, deviation = metric.compute()
        return Result(metric="kid", value=float(mean), n=n, settings=self._settings(float(deviation)))

    def _settings(self, deviation: float) -> dict[str, Any]:
        return {
            "features": self.collected.features.name,
            "n_reference": sum(map(len, self.collected.reference)),
            "subsets": self.subsets,
            "subset_size": self.subset_size,
            "subset_seed": self.seed,
            "deviation_over_subsets": deviation,
        }


def _kernel_metric(identity: nn.Module, subsets: int, size: int) -> Any:
    with warnings.catch_warnings():
        # That it keeps all features in memory: they are there already.
        warnings.simplefilter("ignore", UserWarning)
        return _library("kid", "KernelInceptionDistance")(feature=identity, subsets=subsets, subset_size=size)
