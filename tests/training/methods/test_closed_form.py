"""The collapsed forms against what they stand for: a ridge regression for every K and V matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.overlays.projection import fused, key_value_layers
from robust_encoders.training.diffusion.cross_attention import GramMatrix
from robust_encoders.training.methods.closed_form import (
    Moments,
    RidgeConfig,
    adversarial_map,
    adversarial_step,
    project_edit,
    solve,
)

WEIGHTS = [
    RidgeConfig(),
    RidgeConfig(lamb=0.1, preserve_scale=0.1),
    RidgeConfig(lamb=1e-3, erase_scale=3.0, preserve_scale=0.0),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices(unet: Any) -> list[Tensor]:
    return [layer.weight.detach().double() for layer in key_value_layers(unet).values()]


def ridge(w: Tensor, pairs: list[tuple[Tensor, Tensor]], kept: Tensor, weights: RidgeConfig) -> Tensor:
    """The ridge regression of one matrix, target by target, as the authors write it: v = W t."""
    left = weights.lamb * w
    right = weights.lamb * torch.eye(w.shape[1], dtype=torch.float64)
    for c, t in pairs:
        left = left + weights.erase_scale * torch.outer(w @ t, c)
        right = right + weights.erase_scale * torch.outer(c, c)
    for q in kept:
        left = left + weights.preserve_scale * torch.outer(w @ q, q)
        right = right + weights.preserve_scale * torch.outer(q, q)
    edited: Tensor = left @ torch.inverse(right)
    return edited


@pytest.mark.parametrize("weights", WEIGHTS)
def test_uce_is_the_ridge_regression_of_every_matrix(tiny_pipe: Any, weights: RidgeConfig) -> None:
    c, t, kept = random(5, 16), random(5, 16, seed=1), random(40, 16, seed=2)
    matrix = solve(Moments.of(c, t), Moments.of(kept), weights)
    for w in matrices(tiny_pipe.unet):
        naive = ridge(w, list(zip(c, t, strict=True)), kept, weights)
        torch.testing.assert_close(w @ matrix, naive, rtol=1e-9, atol=1e-9)


def test_the_solution_is_the_minimum() -> None:
    c, t, kept = random(3, 8), random(3, 8, seed=1), random(6, 8, seed=2)
    weights, w = RidgeConfig(erase_scale=2.0, preserve_scale=0.3, lamb=0.7), random(5, 8, seed=3)

    def objective(edited: Tensor) -> float:
        erased = (c @ edited.T - t @ w.T).square().sum()
        preserved = (kept @ (edited - w).T).square().sum()
        return float(2.0 * erased + 0.3 * preserved + 0.7 * (edited - w).square().sum())

    best = w @ solve(Moments.of(c, t), Moments.of(kept), weights)
    for seed in range(5):
        step = 1e-3 * random(5, 8, seed=10 + seed)
        assert objective(best) < min(objective(best + step), objective(best - step))


def test_nothing_to_erase_changes_nothing_and_neither_does_what_stays_where_it_is() -> None:
    kept = Moments.of(random(4, 8))
    eye = torch.eye(8, dtype=torch.float64)
    assert torch.equal(solve(Moments.none(8), kept, RidgeConfig()), eye)
    torch.testing.assert_close(solve(Moments.of(random(4, 8), random(4, 8)), kept, RidgeConfig()), eye)


def test_a_heavy_weight_moves_concepts_all_the_way_and_keeps_what_is_preserved() -> None:
    c, t, kept = random(2, 16), random(2, 16, seed=1), random(3, 16, seed=2)
    matrix = solve(Moments.of(c, t), Moments.of(kept), RidgeConfig(erase_scale=1e8, preserve_scale=1e8))
    torch.testing.assert_close(c @ matrix.T, t, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kept @ matrix.T, kept, rtol=1e-6, atol=1e-6)


def test_moments_do_not_depend_on_how_they_are_batched() -> None:
    c, t = random(50, 8), random(50, 8, seed=1)
    whole = Moments.of(c, t)
    parts = Moments.none(8)
    for i in range(0, 50, 7):
        parts += Moments.of(c[i : i + 7], t[i : i + 7])
    torch.testing.assert_close(parts.second, whole.second)
    torch.testing.assert_close(parts.cross, whole.cross)
    assert parts.count == whole.count == 50
    linear = random(8, 8, seed=3)
    mapped, naive = whole.mapped(linear), Moments.of(c @ linear.T, t)
    torch.testing.assert_close(mapped.second, naive.second)
    torch.testing.assert_close(mapped.cross, naive.cross)


def test_moments_refuse_other_shapes_and_infinite_values() -> None:
    with pytest.raises(ValueError, match=r"expected vectors \(N, D\) and as many targets"):
        Moments.of(random(3, 8), random(2, 8))
    with pytest.raises(ValueError, match=r"found \(2, 3, 8\)"):
        Moments.of(random(2, 3, 8))
    with pytest.raises(ValueError, match="expected finite conditionings"):
        Moments.of(torch.full((1, 4), float("inf")))


@pytest.mark.parametrize("fields", [{"lamb": 0.0}, {"lamb": float("nan")}, {"erase_scale": -1.0}])
def test_weights_without_a_solution_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected finite erase_scale >= 0, preserve_scale >= 0 and lamb > 0"):
        RidgeConfig(**fields)


@pytest.mark.parametrize("regulariser", [1e-3, 0.1, 10.0])
def test_the_derived_embedding_is_the_papers_sum_over_layers(tiny_pipe: Any, regulariser: float) -> None:
    old = matrices(tiny_pipe.unet)
    matrix = torch.eye(16, dtype=torch.float64) + 0.3 * random(16, 16)
    new = [w @ matrix for w in old]
    concept = random(7, 16, seed=1)
    left = regulariser * torch.eye(16, dtype=torch.float64) + sum(w.T @ w for w in new)
    right: Any = sum(w.T @ o for w, o in zip(new, old, strict=True))
    naive = concept @ (torch.inverse(left) @ right).T
    found = concept @ adversarial_map(GramMatrix.of(tiny_pipe.unet).gram, matrix, regulariser).T
    torch.testing.assert_close(found, naive, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("regulariser", [1e-3, 0.1])
def test_epochs_of_rece_are_those_of_every_matrix_on_its_own(tiny_pipe: Any, regulariser: float) -> None:
    old, gram = matrices(tiny_pipe.unet), GramMatrix.of(tiny_pipe.unet).gram
    c, t, kept, weights = random(9, 16), random(9, 16, seed=1), random(30, 16, seed=2), RidgeConfig(lamb=0.1)
    matrix = solve(Moments.of(c, t), Moments.of(kept), RidgeConfig())
    new = [ridge(w, list(zip(c, t, strict=True)), kept, RidgeConfig()) for w in old]
    for _ in range(3):
        left = regulariser * torch.eye(16, dtype=torch.float64) + sum(w.T @ w for w in new)
        right: Any = sum(w.T @ o for w, o in zip(new, old, strict=True))
        derived = c @ (torch.inverse(left) @ right).T
        new = [ridge(w, list(zip(derived, t, strict=True)), kept, weights) for w in new]
        matrix = matrix @ adversarial_step(
            matrix, Moments.of(c, t), Moments.of(kept), gram=gram, regulariser=regulariser, weights=weights
        )
        for w, expected in zip(old, new, strict=True):
            torch.testing.assert_close(w @ matrix, expected, rtol=1e-9, atol=1e-9)


def test_the_derived_embedding_brings_the_concept_back(tiny_pipe: Any) -> None:
    gram = GramMatrix.of(tiny_pipe.unet).gram
    c, t = random(1, 16), random(1, 16, seed=1)
    matrix = solve(Moments.of(c, t), Moments.none(16), RidgeConfig())
    derived = c @ adversarial_map(gram, matrix, 1e-9).T
    assert float((derived @ matrix.T - c).norm()) < 1e-4 * float((c @ matrix.T - c).norm())


def test_what_cannot_be_inverted_is_refused() -> None:
    broken = -torch.eye(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="use a larger regulariser"):
        adversarial_map(broken, torch.eye(4, dtype=torch.float64), 0.1)
    with pytest.raises(ValueError, match="use a larger lamb"):
        solve(Moments(broken, broken), Moments.none(4), RidgeConfig())


def test_an_edit_that_is_a_projection_is_found_without_residual(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet.double()
    matrix = torch.eye(16, dtype=torch.float64) + 0.2 * random(16, 16)
    found = project_edit(unet, fused(unet, matrix))
    torch.testing.assert_close(found.matrix, matrix, rtol=1e-8, atol=1e-8)
    assert found.residual < 1e-6
    assert found.seen == 16
    whole = project_edit(unet, {**unet.state_dict(), **fused(unet, matrix)})
    assert torch.equal(whole.matrix, found.matrix)


def test_no_edit_is_the_identity(tiny_pipe: Any) -> None:
    found = project_edit(tiny_pipe.unet, tiny_pipe.unet.state_dict())
    torch.testing.assert_close(found.matrix, torch.eye(16, dtype=torch.float64))
    assert found.residual == 0


def naive_residual(unet: Any, edited: dict[str, Tensor], matrix: Tensor) -> float:
    left = size = 0.0
    for name, layer in key_value_layers(unet).items():
        w = layer.weight.detach().double()
        new = edited.get(f"{name}.weight", w).double()
        left += float((new - w @ matrix).square().sum())
        size += float((new - w).square().sum())
    return float((left / size) ** 0.5)


def test_an_edit_that_is_none_is_refused_with_its_residual(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet
    edited = {
        f"{name}.weight": layer.weight.detach() + 0.1 * random(*layer.weight.shape, seed=i).float()
        for i, (name, layer) in enumerate(key_value_layers(unet).items())
    }
    with pytest.raises(ValueError, match=r"up to a residual of 0.05, found a residual of 0\.\d+: keep it as an edit"):
        project_edit(unet, edited)
    found = project_edit(unet, edited, bound=1.0)
    assert found.residual > 0.5
    assert found.residual == pytest.approx(naive_residual(unet, edited, found.matrix), rel=1e-6)
    for seed in range(3):
        worse = found.matrix + 1e-2 * random(16, 16, seed=seed)
        assert naive_residual(unet, edited, worse) > found.residual


def test_an_edit_of_k_alone_is_refused(tiny_pipe: Any) -> None:
    edited = fused(tiny_pipe.unet, torch.eye(16) + 0.2 * random(16, 16).float())
    keys = {name: tensor for name, tensor in edited.items() if "to_k" in name}
    with pytest.raises(ValueError, match="found a residual of"):
        project_edit(tiny_pipe.unet, keys)
    found = project_edit(tiny_pipe.unet, keys, bound=1.0)
    assert found.residual == pytest.approx(naive_residual(tiny_pipe.unet, keys, found.matrix), rel=1e-6)


def test_directions_that_the_unet_does_not_see_stay_as_they_are(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet.double()
    with torch.no_grad():
        for layer in key_value_layers(unet).values():
            layer.weight[:, 3] = 0
    matrix = torch.eye(16, dtype=torch.float64) + 0.2 * random(16, 16)
    found = project_edit(unet, fused(unet, matrix))
    assert found.seen == 15
    assert found.residual < 1e-6
    torch.testing.assert_close(found.matrix[3], torch.eye(16, dtype=torch.float64)[3])
    for tensor, expected in zip(fused(unet, found.matrix).values(), fused(unet, matrix).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-8, atol=1e-8)


def test_tensors_that_are_no_k_and_v_of_this_unet_are_refused(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet
    edited = fused(unet, torch.eye(16))
    name = next(iter(edited))
    query = name.replace("to_k", "to_q")
    for wrong, message in (
        ({**edited, "other.weight": torch.zeros(1)}, "other.weight is not in this UNet"),
        ({**edited, name: torch.zeros(2, 2)}, r"has shape \(2, 2\) instead of"),
        ({**edited, query: unet.state_dict()[query] + 1}, "is an edited tensor, but neither K nor V"),
        ({}, "no K or V matrix of this UNet"),
        ({f"a{i}": torch.zeros(1) for i in range(6)}, "and 3 more"),
    ):
        with pytest.raises(ValueError, match=message):
            project_edit(unet, wrong)
    assert project_edit(unet, {**edited, query: unet.state_dict()[query]}).residual == 0
