"""RACE's inner attack: in its ball and range, at every step, against a naive restatement."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders.training.attacks.embedding_pgd import EmbeddingPGD


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def start() -> Tensor:
    return torch.randn(2, 4, 8, generator=generator(1))


def loss(x: Tensor) -> Tensor:
    """Squared distance (B,) from 3, which lies outside of every ball here."""
    return (x - 3).square().flatten(1).sum(1)


def restated(clean: Tensor, *, eps: float, steps: int) -> Tensor:
    x = clean + torch.empty_like(clean).copy_(2 * torch.rand(clean.shape, generator=generator()) - 1) * eps
    for _ in range(steps):
        x = x - eps / 4 * torch.sign(2 * (x - 3))
        x = torch.minimum(torch.maximum(x, clean - eps), clean + eps)
        for row, centre in zip(x, clean, strict=True):
            row.clamp_(float(centre.min()), float(centre.max()))
    return x


def test_the_defaults_are_the_papers() -> None:
    attack = EmbeddingPGD()
    assert (attack.eps, attack.steps, attack.rate) == (0.1, 10, 0.25)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_it_equals_a_restatement_with_as_many_steps_as_it_is_told(steps: int) -> None:
    # The authors' code always takes 10 steps, whatever its option says.
    found = EmbeddingPGD(eps=0.2, steps=steps)(loss, start(), generator=generator())
    assert torch.allclose(found, restated(start(), eps=0.2, steps=steps), atol=1e-6)


@pytest.mark.parametrize("eps", [0.01, 0.5])
def test_every_point_lies_in_the_ball_and_in_the_range_of_the_clean_embedding(eps: float) -> None:
    clean = start()
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return loss(x)

    found = EmbeddingPGD(eps=eps)(watched, clean, generator=generator())
    for point in (*seen, found):
        assert ((point - clean).abs() <= eps * (1 + 1e-5)).all()
    low, high = clean.flatten(1).min(1).values, clean.flatten(1).max(1).values
    for point in (*seen[1:], found):
        assert (point.flatten(1).min(1).values >= low).all()
        assert (point.flatten(1).max(1).values <= high).all()
    assert float((seen[0] - clean).abs().max()) > 0.9 * eps, "it begins at a random point, not at the centre"
    assert torch.equal(clean, start())


def test_rows_are_attacked_apart() -> None:
    both = EmbeddingPGD()(loss, start(), generator=generator())
    alone = EmbeddingPGD()(loss, start()[:1], generator=generator())
    assert torch.allclose(both[:1], alone)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"eps": 0.0}, {"rate": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected steps >= 1, eps > 0 and rate > 0"):
        EmbeddingPGD(**settings)  # type: ignore[arg-type]  # one dictionary for fields of several types
