"""No text and no vector of the last layer comes nearer than the lower bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders import Base, Concept, Manifest
from robust_encoders.overlay import Overlay
from robust_encoders.overlays.projection import projected
from robust_encoders.training.attacks.common.seen_distance import seen_distance
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.certificate.lower_bound import FinalNorm, bound_of, lower_bound
from robust_encoders.training.evaluation.certificate.ranking import root_of

D, L = 12, 3


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(seed: int, rank: int) -> tuple[Tensor, Tensor, FinalNorm, Tensor]:
    half = random(2 * D, D, seed=seed)
    projection = random(D, rank, seed=seed + 1) @ random(rank, D, seed=seed + 2) / D
    norm = FinalNorm(random(D, seed=seed + 3).abs() + 0.5, random(D, seed=seed + 4))
    return projection, half.T @ half, norm, 2 * random(L, D, seed=seed + 5)


def onto_ball(z: Tensor) -> Tensor:
    """Return vectors (..., D) of mean 0 within the ball that a layer normalisation gives."""
    z = z - z.mean(-1, keepdim=True)
    inside: Tensor = z * (D**0.5 / z.norm(dim=-1, keepdim=True)).clamp_max(1)
    return inside


@pytest.mark.parametrize(("seed", "rank"), [(0, 4), (10, 8), (20, D)])
def test_a_search_comes_near_the_bound_and_never_below(seed: int, rank: int) -> None:
    projection, gram, norm, wanted = problem(seed, rank)
    bound = lower_bound(projection, gram, norm, wanted)
    z = onto_ball(3 * random(40, L, D, seed=seed + 6))
    step = 1 / torch.linalg.matrix_norm(root_of(gram) @ projection @ torch.diag(norm.weight), 2).square()
    for _ in range(2000):
        rest = (norm.bias + norm.weight * z) @ projection.T - wanted
        z = onto_ball(z - step * (rest @ gram @ projection) * norm.weight)
    found = seen_distance((norm.bias + norm.weight * z) @ projection.T, wanted.expand(40, L, D), gram)
    assert float(found.min()) >= bound
    assert float(found.min()) <= bound * 1.02 + 1e-3
    started = seen_distance(
        (norm.bias + norm.weight * onto_ball(random(5000, L, D, seed=9))) @ projection.T,
        wanted.expand(5000, L, D),
        gram,
    )
    assert float(started.min()) >= bound


def test_a_projection_that_removes_the_concept_has_a_large_bound_and_the_identity_none() -> None:
    _, gram, norm, _ = problem(3, 4)
    wanted = norm.bias + norm.weight * onto_ball(9 * random(L, D, seed=4))
    assert lower_bound(torch.eye(D), gram, norm, wanted) < 1e-6
    assert lower_bound(torch.zeros(D, D), gram, norm, wanted) == pytest.approx(1)


def test_the_begin_token_counts_exactly() -> None:
    projection, gram, norm, wanted = problem(5, 6)
    begin = norm.bias + norm.weight * onto_ball(9 * random(D, seed=6))
    alone = lower_bound(projection, gram, norm, wanted[:1], begin)
    assert alone == pytest.approx(float(seen_distance((projection @ begin)[None, None], wanted[None, :1], gram)))
    assert lower_bound(projection, gram, norm, wanted, begin) > lower_bound(projection, gram, norm, wanted)


def test_no_text_of_a_projected_encoder_is_below_its_bound(tiny_pipe: Any) -> None:
    base, width = Backbone.from_pipeline(tiny_pipe), tiny_pipe.text_encoder.config.hidden_size
    axis = random(width, 3, seed=1)
    matrix = (torch.eye(width) - axis @ torch.linalg.pinv(axis)).float()
    manifest = Manifest(
        concept=Concept(name="circle", kind="object"),
        form="projection",
        method={"name": "rece"},
        base=Base.from_pipeline(tiny_pipe, family="tiny", with_unet=True),
    )
    words = ("circle", "disc")
    bound = bound_of(Overlay(manifest, {"projection": matrix}, {}), base, words)
    assert bound is not None
    assert bound > 0.01
    texts = ["", *words, "a red circle", "star disc", "blue ring on white", "circle circle circle"]
    with torch.no_grad():
        conditioning, wanted = projected(base.condition(texts), matrix), base.condition(words)
    for one in wanted:
        assert float(seen_distance(conditioning, one[None], base.text_gram().float()).min()) >= bound


def test_for_other_encoders_no_bound_is_known(tiny_pipe: Any, tiny_encoder: Any) -> None:
    assert bound_of(tiny_encoder, Backbone.from_pipeline(tiny_pipe), ("circle",)) is None
