"""A ball of conditionings as pictures, and the denoising loss as the logits of a classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from attack_helpers import make_target
from torch import Tensor

from robust_encoders.training.attacks.common.conditioning_ball import Ball, DenoisingLogits, Norm
from robust_encoders.training.attacks.common.denoising import DenoisingLoss
from robust_encoders.training.diffusion.target import TargetModel

NORMS: tuple[Norm, ...] = ("linf", "l2")


@pytest.fixture
def target(tiny_pipe: Any) -> TargetModel:
    return make_target(tiny_pipe)


def make_logits(target: TargetModel, norm: Norm = "linf") -> DenoisingLogits:
    rng = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, *target.latent_shape, generator=rng) for _ in range(2))
    with torch.no_grad():
        ball = Ball.relative(target.condition(["a red circle"])[0], norm, 0.5)
    loss = DenoisingLoss(target, latents)
    return DenoisingLogits(target, ball, loss, torch.tensor([1, 400, 900]), noise)


def random_points(logits: DenoisingLogits, n: int, spread: float) -> Tensor:
    start = logits.ball.start()
    points: Tensor = start + spread * torch.randn((n, *start.shape[1:]), generator=torch.Generator().manual_seed(2))
    return points


def test_one_linf_step_is_the_sign_of_the_gradient(target: TargetModel) -> None:
    """A naive reference: FGSM by hand on the same points of time and noise."""
    logits = make_logits(target)
    centre = logits.ball.centre.clone().requires_grad_()
    rows = [
        logits.one.target.predict(noisy[None], t[None], centre[None]) - wanted[None]
        for noisy, wanted, t in zip(
            target.add_noise(logits.one.latents, logits.noise, logits.t), logits.noise, logits.t, strict=True
        )
    ]
    loss = torch.stack([row.square().mean() for row in rows]).mean()
    (gradient,) = torch.autograd.grad(loss, centre)
    with torch.no_grad():
        torch.testing.assert_close(logits.loss(logits.ball.start()), loss[None])
    found = torchattacks.FGSM(logits, eps=0.5)(logits.ball.start(), torch.zeros(1, dtype=torch.long))
    expected = logits.ball.centre - logits.ball.radius * gradient.sign()
    torch.testing.assert_close(logits.ball.conditioning(found)[0], expected)


def test_only_label_0_depends_on_the_loss_and_every_objective_of_the_library_rises_as_it_falls(
    target: TargetModel,
) -> None:
    logits = make_logits(target)
    points = random_points(logits, 6, 0.3)
    with torch.no_grad():
        rows, losses = logits(points), logits.loss(points)
    assert rows.shape == (6, 4)
    torch.testing.assert_close(rows[:, 0] * logits.unit, losses)
    assert (rows[:, 1:] == rows[:1, 1:]).all()
    assert (rows.argmax(1) == 0).all(), "no loss leaves the label, so no attack stops early"
    torch.testing.assert_close(logits(logits.ball.start())[0, 0], torch.tensor(1.0))
    order, label = losses.argsort(descending=True), torch.zeros(6, dtype=torch.long)
    made: dict[str, Tensor] = {
        "cross entropy": torch.nn.functional.cross_entropy(rows, label, reduction="none"),
        "margin": -(rows[:, 0] - rows[:, 1:].max(1).values),
        "ratio": torchattacks.APGD(logits).dlr_loss(rows, label),
        "targeted ratio": torchattacks.APGDT(logits).dlr_loss_targeted(rows, label, label + 1),
    }
    for name, objective in made.items():
        assert (objective[order].diff() > 0).all(), name


@pytest.mark.parametrize("norm", NORMS)
def test_the_balls_coordinates(norm: Norm) -> None:
    centre = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    ball = Ball.relative(centre, norm, 0.25)
    start = ball.start()
    assert start.shape == (1, 1, 16, 24)
    assert torch.equal(ball.conditioning(start)[0], centre)
    rng = torch.Generator().manual_seed(1)
    near = ball.inside(start + 0.01 * torch.randn(5, 1, 16, 24, generator=rng))
    torch.testing.assert_close(ball.inside(near), near)
    far = ball.inside(start + 10 * torch.randn(5, 1, 16, 24, generator=rng))
    assert (far >= 0).all()
    assert (far <= 1).all()
    moved = (ball.conditioning(far) - centre).flatten(1)
    lengths = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    rms = float(centre.square().mean().sqrt())
    expected = 0.25 * (rms if norm == "linf" else float(centre.norm()))
    torch.testing.assert_close(lengths, torch.full((5,), expected))


def test_a_point_outside_stands_for_the_nearest_inside_and_its_gradient_passes(target: TargetModel) -> None:
    logits = make_logits(target, "l2")
    far = random_points(logits, 2, 1.0).requires_grad_()
    near = logits.ball.inside(far).detach().requires_grad_()
    found, expected = logits.loss(far), logits.loss(near)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), u)[0] for loss, u in ((found, far), (expected, near))))
