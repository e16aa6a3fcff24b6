"""Training points from fresh trajectories, and the choice between them and the bank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from .backbone import Backbone
from .bank import BankBatch, BankSettings, TrajectoryBank, draw, to_batch


class Resampler:
    """Draws every point from a fresh trajectory of the frozen model, as the paper does, but batched.

    Args:
        backbone: The frozen base; its counter grows with every draw.
        prompts: One for each value of ``prompt_index``.
        settings: Steps and guidance.
        anchors: The anchor of each prompt, to predict it as well.
    """

    def __init__(
        self, backbone: Backbone, prompts: Sequence[str], settings: BankSettings, anchors: Sequence[str] | None = None
    ) -> None:
        self.prompts = tuple(prompts)
        self.anchors = anchors
        self.backbone, self.settings = backbone, settings

    @torch.no_grad()
    def sample(self, n: int, generator: Generator, *, prompt_index: Tensor | None = None) -> BankBatch:
        """Draw n points: noise, a step of the grid, and a run from the one to the other."""
        backbone, s = self.backbone, self.settings
        index = draw(len(self.prompts), n, generator) if prompt_index is None else prompt_index.cpu()
        stop = draw(s.steps, n, generator).to(backbone.device)
        noise = torch.randn((n, *backbone.latent_shape), generator=generator).to(backbone.device)
        cond = backbone.condition([self.prompts[i] for i in index.tolist()])
        order = stop.argsort(descending=True, stable=True)
        drawn = self._roll(cond[order], noise[order], stop[order])
        drawn = {name: tensor[order.argsort()] for name, tensor in drawn.items()}
        if self.anchors is not None:
            anchor = backbone.condition([self.anchors[i] for i in index.tolist()])
            drawn["pred_anchor"] = backbone.predict(drawn["latents"], drawn["t"], anchor)
        return to_batch(drawn, index, backbone.device)

    def _roll(self, cond: Tensor, noise: Tensor, stop: Tensor) -> dict[str, Tensor]:
        """Run all rows together, each leaving the batch at its own step; ``stop`` (n,) falls."""
        null, latents = self.backbone.condition([""]), noise
        grid = self.backbone.timesteps(self.settings.steps)
        parts: list[dict[str, Tensor]] = []
        for k in range(int(stop[0]) + 1):
            alive = int((stop >= k).sum())
            stay = int((stop > k).sum())
            t = grid[k].expand(alive)
            pred_null, pred_cond = self.backbone.both(latents[:alive], t, cond[:alive], null)
            row = {"latents": latents[:alive], "t": t, "pred_null": pred_null, "pred_cond": pred_cond}
            parts.append({name: tensor[stay:] for name, tensor in row.items()})
            latents = self.backbone.ddim_step(pred_null, pred_cond, grid[k], latents[:alive], self.settings.guidance)
        return {name: torch.cat([part[name] for part in reversed(parts)]) for name in parts[0]}

    def mean_difference(self) -> float:
        """Return the mean squared difference of the predictions with and without the prompt, over 64 points."""
        points = self.sample(64, Generator().manual_seed(0))
        return float((points.pred_cond.float() - points.pred_null.float()).square().mean())


def open_source(
    backbone: Backbone,
    prompts: Sequence[str],
    settings: BankSettings,
    *,
    anchors: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> TrajectoryBank | Resampler:
    """Return the point source that the settings ask for, over the first ``settings.limit`` prompts."""
    prompts = prompts[: settings.limit]
    anchors = None if anchors is None else anchors[: settings.limit]
    if settings.mode == "resample":
        return Resampler(backbone, prompts, settings, anchors)
    return TrajectoryBank.build(backbone, prompts, settings, anchors=anchors, cache_dir=cache_dir, progress=progress)
