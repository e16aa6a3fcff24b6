"""A ball of conditionings as pictures in [0, 1], and the model under attack as a classifier of its points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...diffusion.backbone import Backbone
from .denoising import DenoisingLoss

Norm = Literal["linf", "l2"]
RADIUS = 0.5  # of either ball in the coordinates u
_OTHERS = (0.0, -1.0, -10.0)


@dataclass(frozen=True)
class Ball:
    """A ball of conditionings in the coordinates of a picture ``u`` in [0, 1], its centre at 0.5 and its radius 0.5.

    ``conditioning = centre + radius (2 u - 1)``: the L-infinity ball is the whole cube, and the L2 ball touches its
    sides, so that clipping to [0, 1] takes nothing from either.

    Args:
        centre: Conditioning (L, D).
        norm: ``linf`` or ``l2``.
        radius: In that norm, in the units of the conditioning.
    """

    centre: Tensor
    norm: Norm
    radius: float

    @classmethod
    def relative(cls, centre: Tensor, norm: Norm, eps: float) -> Ball:
        """Return the ball of ``eps`` root mean squares of the centre per coordinate, which is the L2 norm's mean."""
        length = float(centre.float().norm())
        return cls(centre, norm, eps * length / (math.sqrt(centre.numel()) if norm == "linf" else 1.0))

    def start(self) -> Tensor:
        """Return the centre as a picture (1, 1, h, w) as near to a square as its L D coordinates allow."""
        n = self.centre.numel()
        height = next(h for h in range(math.isqrt(n), 0, -1) if n % h == 0)
        return torch.full((1, 1, height, n // height), 0.5, device=self.centre.device)

    def inside(self, u: Tensor) -> Tensor:
        """Return the nearest points of the ball to ``u`` (B, 1, h, w)."""
        if self.norm == "linf":
            return u.clamp(0, 1)
        moved = u - 0.5
        lengths = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        shrunk: Tensor = moved * (RADIUS / lengths.clamp(min=RADIUS))
        return 0.5 + shrunk

    def conditioning(self, u: Tensor) -> Tensor:
        """Return the conditionings (B, L, D) of ``u`` (B, 1, h, w)."""
        moved = self.radius * (2 * u - 1).view(-1, *self.centre.shape)
        return (self.centre.float() + moved).to(self.centre.dtype)


class DenoisingLogits(nn.Module):
    """The model under attack as a classifier of points in a ball, for attacks that leave a label.

    The logit of label 0, the true one, is the denoising loss over that of the start; the others stay at 0, -1 and -10.
    So every step away from label 0, by cross entropy, margin or difference of logits ratio, lowers the loss. No loss
    is below 0, so label 0 is never left and no attack stops early. Different others keep the ratio's gradient from
    vanishing, and a large one keeps the norm of the logits, by which Jitter divides, constant.

    A point outside of the ball stands for the nearest inside; the gradient passes unchanged.

    Args:
        target: The model under attack; its counter of UNet calls goes on, backward passes included.
        ball: Where to search.
        loss: For N latents (N, C, h, w).
        t: Their timesteps (N,).
        noise: Their noise (N, C, h, w).

    Attributes:
        best: Conditioning (L, D) of the lowest loss so far.
        found: How many points had been tried when it was found.
        tried: How many have been tried.
    """

    def __init__(self, target: Backbone, ball: Ball, loss: DenoisingLoss, t: Tensor, noise: Tensor) -> None:
        super().__init__()
        # The library asks a parameter for the device.
        self.device = nn.Parameter(torch.empty(0, device=target.device), requires_grad=False)
        self.target, self.ball, self.one, self.t, self.noise = target, ball, loss, t, noise
        self.best, self.lowest, self.found, self.tried = ball.centre, math.inf, 0, 0
        self.eval()
        with torch.no_grad():
            self.unit = float(self.loss(ball.start()))

    def loss(self, u: Tensor) -> Tensor:
        """Return the denoising loss (B,) at ``u`` (B, 1, h, w), averaged over the N latents."""
        inside = self.ball.inside(u.detach())
        conditioning = self.ball.conditioning(u + (inside - u).detach())
        b, n = len(u), len(self.t)
        together = DenoisingLoss(self.target, self.one.latents.repeat(b, 1, 1, 1))
        rows = together(conditioning.repeat_interleave(n, 0), self.t.repeat(b), self.noise.repeat(b, 1, 1, 1))
        losses = rows.view(b, n).mean(1)
        if losses.requires_grad:
            hook: Callable[..., Any] = losses.register_hook
            hook(lambda gradient: self._count_backward(b * n))
        self._remember(self.ball.conditioning(inside), losses.detach())
        return losses

    def _count_backward(self, latents: int) -> None:
        self.target.unet_calls += latents

    def _remember(self, conditioning: Tensor, losses: Tensor) -> None:
        for value, loss in zip(conditioning.detach(), losses.tolist(), strict=True):
            self.tried += 1
            if loss < self.lowest:
                self.best, self.lowest, self.found = value.clone(), loss, self.tried

    def forward(self, u: Tensor) -> Tensor:
        """Return logits (B, 4) at ``u`` (B, 1, h, w)."""
        losses = self.loss(u)
        others = losses.new_tensor(_OTHERS).expand(len(u), -1)
        return torch.cat([losses[:, None] / self.unit, others], dim=1)
