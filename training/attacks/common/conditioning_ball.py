"""A ball of conditionings in the form of pictures in [0, 1], and the model under attack as a classifier of its points.

Attack libraries expect a classifier of pictures; this module gives a diffusion model that form.
"""

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
RADIUS = 0.5  # radius of either ball in the coordinates u
_OTHERS = (0.0, -1.0, -10.0)


@dataclass(frozen=True)
class Ball:
    """A ball of conditionings in the coordinates of a picture ``u`` in [0, 1], with centre 0.5 and radius 0.5.

    The conditioning of ``u`` is ``centre + radius (2 u - 1)``. The L-infinity ball is the whole cube, and the L2 ball
    touches the sides of the cube. So clipping to [0, 1] cuts no point off either ball.

    Args:
        centre: Conditioning (L, D) at the centre.
        norm: Norm of the ball, ``linf`` or ``l2``.
        radius: Radius in that norm, in the units of the conditioning.
    """

    centre: Tensor
    norm: Norm
    radius: float

    @classmethod
    def relative(cls, centre: Tensor, norm: Norm, eps: float) -> Ball:
        """Return the ball of ``eps`` relative to the centre.

        The radius is ``eps`` times the root mean square of the centre's coordinates for ``linf``, and ``eps`` times the
        L2 norm of the centre for ``l2``. With ``l2``, the root mean square of a change of all coordinates is therefore
        at most ``eps`` times that of the centre.
        """
        length = float(centre.float().norm())
        return cls(centre, norm, eps * length / (math.sqrt(centre.numel()) if norm == "linf" else 1.0))

    def start(self) -> Tensor:
        """Return the centre as a picture (1, 1, h, w) of L times D coordinates, as close to a square as possible."""
        n = self.centre.numel()
        height = next(h for h in range(math.isqrt(n), 0, -1) if n % h == 0)
        return torch.full((1, 1, height, n // height), 0.5, device=self.centre.device)

    def inside(self, u: Tensor) -> Tensor:
        """Return the points (B, 1, h, w) of the ball that are nearest to ``u`` (B, 1, h, w)."""
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
    """The model under attack as a classifier of points in a ball, for attacks that try to change a label.

    Label 0 is the true label. Its logit is the denoising loss divided by the loss at the start; the other logits stay
    at 0, -1 and -10. So every step away from label 0, by cross entropy, margin or difference-of-logits ratio, lowers
    the loss. No loss is below 0, so the label never changes and no attack stops early. The other logits differ so that
    the gradient of the ratio does not vanish. One of them is large so that the norm of the logits, by which Jitter
    divides, stays nearly constant.

    A point outside the ball is replaced by the nearest point inside; the gradient passes unchanged.

    Args:
        target: Model under attack; its counter of UNet calls increases, backward passes included.
        ball: Ball that the attack searches.
        loss: Denoising loss for N latents (N, C, h, w).
        t: Timesteps (N,) of the latents.
        noise: Noise (N, C, h, w) added to the latents.

    Attributes:
        best: Conditioning (L, D) with the lowest loss so far.
        found: Number of points tried until ``best`` was found.
        tried: Number of points tried so far.
    """

    def __init__(self, target: Backbone, ball: Ball, loss: DenoisingLoss, t: Tensor, noise: Tensor) -> None:
        super().__init__()
        # The library reads the device from a parameter of the model.
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
        rows = together.values(conditioning.repeat_interleave(n, 0), self.t.repeat(b), self.noise.repeat(b, 1, 1, 1))
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
