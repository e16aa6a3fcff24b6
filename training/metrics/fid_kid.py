"""FID and KID on any features: distances between the set of an encoder's pictures and the set of the base's pictures.

torchmetrics computes both from given features; Inception weights and torchvision are not needed. Both values depend on
the features, and FID also depends on the number of pictures (Chong and Forsyth, CVPR 2020). So values on other features
or for another number of pictures are not comparable with published values on Inception features.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from robust_encoders.utils.extras import OptionalPackage, install_command

from ..types import Case, Result

TORCHMETRICS = OptionalPackage(("torchmetrics",), install_command("metrics"))


class Features(Protocol):
    """A named function from pictures (B, 3, H, W) in [0, 1] to features (B, F)."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features (B, F) of pictures (B, 3, H, W) in [0, 1]."""
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
        """Pass all features to a torchmetrics metric with an identity network; return the number of pictures."""
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
    # Import the module itself: torchmetrics.image offers both classes only if torch-fidelity is installed, which they
    # do not need.
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"expected torchmetrics, found none; {TORCHMETRICS.remedy}") from error


class FrechetDistance:
    """FID between the pictures and their references (Heusel et al., NeurIPS 2017, equation 6); lower is better.

    The value is ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` for means m and unbiased covariances C. With fewer
    pictures than features, the covariances are singular and the value is biased upwards, but it is still defined. The
    result has no interval.

    Args:
        features: Features that the distance is computed on.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    packages: ClassVar[tuple[OptionalPackage, ...]] = (TORCHMETRICS,)

    def __init__(self, features: Features) -> None:
        self.collected = _Collected(features)

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Add pictures (B, 3, H, W) in [0, 1], and the base's pictures (B', 3, H, W) as ``reference``.

        Raises:
            ValueError: If ``reference`` is missing.
        """
        self.collected.add(images, reference)

    def compute(self) -> Result:
        """Return the FID.

        Raises:
            ValueError: If fewer than two pictures or references were added.
        """
        if self.collected.size() < 2:
            raise ValueError(
                f"expected at least 2 pictures on each side, found {self.collected.size()}; "
                "add pictures and references with update()"
            )
        metric = _library("fid", "FrechetInceptionDistance")(feature=self.collected.identity()).set_dtype(torch.float64)
        n = self.collected.fill(metric)
        settings = {"features": self.collected.features.name, "n_reference": sum(map(len, self.collected.reference))}
        return Result(metric="fid", value=float(metric.compute()), n=n, settings=settings)


class KernelDistance:
    """KID between the pictures and their references (Binkowski et al., ICLR 2018, section 3); lower is better.

    The value is the unbiased squared maximum mean discrepancy under the kernel ``(x.y / F + 1)^3``, averaged over
    random subsets. It can be negative. ``settings`` of the result holds the standard deviation over subsets. Since the
    subsets overlap, this deviation is not a confidence interval.

    Args:
        features: Features that the distance is computed on.
        subsets: Number of random subsets.
        subset_size: Number of pictures of each side in a subset.
        seed: Seed of the random choice of subsets.
    """

    higher_is_better: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    packages: ClassVar[tuple[OptionalPackage, ...]] = (TORCHMETRICS,)

    def __init__(self, features: Features, *, subsets: int = 100, subset_size: int = 100, seed: int = 0) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"expected subsets >= 1 of subset_size >= 2, found {subsets} of {subset_size}")
        self.collected = _Collected(features)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Add pictures (B, 3, H, W) in [0, 1], and the base's pictures (B', 3, H, W) as ``reference``.

        Raises:
            ValueError: If ``reference`` is missing.
        """
        self.collected.add(images, reference)

    def compute(self) -> Result:
        """Return the mean KID over subsets.

        Raises:
            ValueError: If there are fewer pictures or references than ``subset_size``.
        """
        if self.collected.size() < self.subset_size:
            found = self.collected.size()
            raise ValueError(
                f"expected at least subset_size={self.subset_size} pictures on each side, found {found}; "
                "draw more pictures, or choose smaller subsets"
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
        # The library warns that it keeps all features in memory; they are in memory already.
        warnings.simplefilter("ignore", UserWarning)
        return _library("kid", "KernelInceptionDistance")(feature=identity, subsets=subsets, subset_size=size)
