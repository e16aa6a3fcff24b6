"""FID and KID against NumPy and SciPy from their definitions, and on the judge's features."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from robust_encoders.training.metrics import METRICS
from robust_encoders.training.metrics.fid_kid import FrechetDistance, KernelDistance
from robust_encoders.training.protocols import Metric
from robust_encoders.training.worlds.shapes.features import JudgeFeatures
from robust_encoders.training.worlds.shapes.pictures import render_pictures

Array = NDArray[np.float64]


class Blocks:
    """Twelve features: the mean of every quarter of every channel, and their order matters."""

    name = "blocks"

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * torch.arange(1, 13)


def pictures(n: int, seed: int, tint: float = 0.0) -> Tensor:
    noise = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    shade = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed + 1))
    return (0.5 * noise + 0.5 * shade * (1 - tint)).clamp(0, 1)


def naive_fid(x: Array, y: Array) -> float:
    mean, cov = x.mean(0) - y.mean(0), [np.cov(side, rowvar=False) for side in (x, y)]
    return float(mean @ mean + np.trace(cov[0] + cov[1] - 2 * np.real(sqrtm(cov[0] @ cov[1]))))


def naive_kid(x: Array, y: Array) -> float:
    """The unbiased estimate over whole sets, term by term."""

    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def features_of(images: Tensor) -> Array:
    found: Array = Blocks()(images).double().numpy()
    return found


def test_fid_against_its_definition() -> None:
    drawn, base = pictures(60, 0, tint=0.3), pictures(60, 10)
    metric = FrechetDistance(Blocks())
    metric.update(drawn[:25], [], base[:20])
    metric.update(drawn[25:], [], base[20:])
    result = metric.compute()
    expected = naive_fid(features_of(drawn), features_of(base))
    assert expected > 0.1
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert (result.metric, result.n, result.settings) == ("fid", 60, {"features": "blocks", "n_reference": 60})


def test_kid_on_one_whole_subset_against_its_definition() -> None:
    drawn, base = pictures(30, 0, tint=0.3), pictures(30, 10)
    metric = KernelDistance(Blocks(), subsets=2, subset_size=30)
    metric.update(drawn, [], base)
    result = metric.compute()
    expected = naive_kid(features_of(drawn), features_of(base))
    assert abs(expected) > 1e-3
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert result.settings["deviation_over_subsets"] == pytest.approx(0, abs=1e-6)


def test_kid_follows_its_seed_and_leaves_the_global_generator_alone() -> None:
    drawn, base = pictures(40, 0, tint=0.3), pictures(40, 10)

    def value(seed: int) -> float:
        metric = KernelDistance(Blocks(), subsets=3, subset_size=10, seed=seed)
        metric.update(drawn, [], base)
        return float(metric.compute().value)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    values = [value(0), value(0), value(1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert values[0] == values[1] != values[2]


def test_equal_sets_are_at_no_distance_and_damaged_ones_farther_than_fresh_ones() -> None:
    first, second = (render_pictures(150, seed=seed).images.float() / 255 for seed in (1, 2))
    damaged = torch.nn.functional.avg_pool2d(second, 5, stride=1, padding=2)
    values = []
    for images in (first, second, damaged):
        metrics: list[Metric] = [FrechetDistance(JudgeFeatures()), KernelDistance(JudgeFeatures(), subsets=5)]
        for metric in metrics:
            metric.update(images, [], first)
        values.append([metric.compute().value for metric in metrics])
    (same_fid, _), (fresh_fid, fresh_kid), (damaged_fid, damaged_kid) = values
    assert same_fid == pytest.approx(0, abs=1e-3)
    assert damaged_fid > 3 * fresh_fid > 0
    assert damaged_kid > 3 * abs(fresh_kid)


def test_the_judges_features_are_what_its_head_sees() -> None:
    images = render_pictures(4, seed=3).images.float() / 255
    features = JudgeFeatures()
    layers = features.layers(images)
    assert features(images).shape == (4, 96)
    logits = features.judge.network.head(layers[-1].flatten(1))
    torch.testing.assert_close(logits, features.judge.network(images))


def test_the_registry_knows_both() -> None:
    made = [METRICS["fid"](Blocks()), METRICS["kid"](Blocks())]
    assert all(isinstance(metric, Metric) and not metric.higher_is_better for metric in made)


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="expected reference pictures"):
        FrechetDistance(Blocks()).update(pictures(2, 0), [])
    with pytest.raises(ValueError, match="at least 2 pictures on each side, found 0"):
        FrechetDistance(Blocks()).compute()
    metric = KernelDistance(Blocks(), subset_size=5)
    metric.update(pictures(4, 0), [], pictures(9, 1))
    with pytest.raises(ValueError, match="subset_size=5 pictures on each side, found 4"):
        metric.compute()
    with pytest.raises(ValueError, match="found 0 of 100"):
        KernelDistance(Blocks(), subsets=0)


def test_a_missing_library_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = FrechetDistance(Blocks())
    metric.update(pictures(4, 0), [], pictures(4, 1))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[metrics\]'` in a clone"):
        metric.compute()
