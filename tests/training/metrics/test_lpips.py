"""LPIPS: the formula against the library's figures on random weights and against loops; the metric, its difference."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.training.metrics import METRICS
from robust_encoders.training.metrics.lpips import (
    LayeredDistance,
    LpipsDistance,
    PictureDistance,
    _published,
    distance_difference,
)
from robust_encoders.training.protocols import Metric
from robust_encoders.training.worlds.shapes.features import JudgeFeatures
from robust_encoders.training.worlds.shapes.pictures import render_pictures


@pytest.fixture(scope="module")
def lpips() -> Iterator[Any]:
    """The library, on a torchvision whose compiled operators may not fit this build of torch: it needs none of them."""
    operators: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own
    if not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes, Tensor scores, float iou) -> Tensor")
    apart = str(Path(sys.prefix) / "torchvision")
    sys.path.append(apart)
    try:
        import lpips
    finally:
        sys.path.remove(apart)
    yield lpips
    # transformers imports torchvision wherever it finds it: later tests must not find half of one.
    for name in [name for name in sys.modules if name.split(".")[0] in ("lpips", "torchvision")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model(lpips: Any) -> Any:
    """The published weights of the channels on a random AlexNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


def pictures(n: int, seed: int, size: int = 64) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def layers_of(model: Any) -> LayeredDistance:
    def layers(images: Tensor) -> list[Tensor]:
        return list(model.net(model.scaling_layer(2 * images - 1)))

    weights = tuple(linear.model[-1].weight.flatten() for linear in model.lins)
    return LayeredDistance("random", layers, weights)


def test_the_formula_gives_the_librarys_figures(model: Any) -> None:
    one, other = pictures(3, 0), pictures(3, 1)
    expected = model(one, other, normalize=True).flatten()
    assert expected.min() > 1e-3
    torch.testing.assert_close(layers_of(model)(one, other), expected)
    torch.testing.assert_close(LpipsDistance(model=model)(one, other), expected)


def naive_distance(ours: list[Tensor], theirs: list[Tensor], weights: list[Tensor]) -> float:
    total = 0.0
    for a, b, w in zip(ours, theirs, weights, strict=True):
        channels, height, width = a.shape
        for y in range(height):
            for x in range(width):
                long_a = math.sqrt(sum(float(a[c, y, x]) ** 2 for c in range(channels)))
                long_b = math.sqrt(sum(float(b[c, y, x]) ** 2 for c in range(channels)))
                for c in range(channels):
                    gap = float(a[c, y, x]) / long_a - float(b[c, y, x]) / long_b
                    total += float(w[c]) * gap**2 / (height * width)
    return total


def test_the_formula_against_loops() -> None:
    pools = (2, 4)
    weights = (torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.1, 0.2, 3.0]))
    distance = LayeredDistance(
        "pools", lambda x: [torch.nn.functional.adaptive_avg_pool2d(x, p) for p in pools], weights
    )
    one, other = pictures(2, 2, 8), pictures(2, 3, 8)
    for i, value in enumerate(distance(one, other)):
        ours, theirs = ([layer[i] for layer in distance.layers(side)] for side in (one, other))
        assert float(value) == pytest.approx(naive_distance(ours, theirs, list(weights)), rel=1e-5)


def test_on_shapes_a_damaged_picture_is_nearer_than_another_scene() -> None:
    features = JudgeFeatures()
    distance = LayeredDistance(features.name, features.layers)
    images = render_pictures(20, seed=1).images.float() / 255
    noisy = (images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    near, far = distance(images, noisy), distance(images, images.roll(1, 0))
    torch.testing.assert_close(distance(images, images), torch.zeros(20))
    assert (near < far).all()
    torch.testing.assert_close(distance(images, noisy), distance(noisy, images))


class MeanGap:
    """Distance of mean brightness."""

    name = "gap"

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).mean((1, 2, 3)).abs()


def measured(values: list[float], name: str = "lpips_kept") -> PictureDistance:
    metric = PictureDistance(MeanGap(), name)
    for value in values:
        metric.update(torch.full((1, 3, 2, 2), value), [], torch.zeros(1, 3, 2, 2))
    return metric


def test_the_metric_is_the_mean_with_its_interval() -> None:
    result = measured([0.25, 0.5, 0.75]).compute()
    half = 1.959964 * 0.25 / math.sqrt(3)
    assert (result.metric, result.value, result.n) == ("lpips_kept", 0.5, 3)
    assert result.interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert result.settings == {"distance": "gap"}


def test_the_difference_is_erased_less_kept() -> None:
    erased, kept = measured([0.5, 0.75, 1.0, 0.75], "lpips_erased"), measured([0.25, 0.5])
    result = distance_difference(erased, kept)
    spread = math.sqrt(0.125 / 3 / 4 + 0.03125 / 2)
    assert result.value == pytest.approx(0.375)
    assert result.interval == pytest.approx((0.375 - 1.959964 * spread, 0.375 + 1.959964 * spread), abs=1e-6)
    assert result.settings == {"distance": "gap", "n_erased": 4, "n_kept": 2}


def test_the_registry_knows_it() -> None:
    assert isinstance(METRICS["picture_distance"](MeanGap()), Metric)


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected reference pictures \(2, 3, 4, 4\), found None"):
        PictureDistance(MeanGap()).update(torch.zeros(2, 3, 4, 4), [])
    with pytest.raises(ValueError, match=r"found \(1, 3, 4, 4\)"):
        PictureDistance(MeanGap()).update(torch.zeros(2, 3, 4, 4), [], torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="at least 2 pairs of pictures for lpips_kept, found 1"):
        measured([0.5]).compute()
    other = PictureDistance(LpipsDistance())
    with pytest.raises(ValueError, match=r"found gap and lpips-0\.1/alex"):
        distance_difference(measured([0.5, 0.6]), other)


def test_a_missing_library_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModuleNotFoundError, match=r"no lpips; run `pip install '\.\[lpips\]'` in a clone"):
        _published("squeeze")
