"""Training points from fresh trajectories, and the choice between fresh trajectories and a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from .agreement import require_agreement
from .bank import BankBatch, TrajectoryBank, draw, to_batch
from .config import BankConfig

EVERYTHING = slice(None)


class FreshTrajectories:
    """A source that draws every point from a fresh trajectory, as in the papers, but batched.

    Args:
        backbone: The frozen base; its counter of UNet calls increases with every draw.
        prompts: Prompts, one for each value of ``prompt_index``.
        settings: Steps and guidance of the trajectories.
        anchors: Anchor of each prompt, which is predicted as well; None predicts no anchors.
        student: Model in training that runs the trajectories; None runs them with the frozen base. The predictions at
            the points are those of the base in either case.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        settings: BankConfig,
        anchors: Sequence[str] | None = None,
        *,
        student: Backbone | None = None,
    ) -> None:
        self.prompts = tuple(prompts)
        self.anchors = anchors
        self.backbone, self.settings, self.student = backbone, settings, student

    @torch.no_grad()
    def sample(
        self, n: int, generator: Generator, *, prompt_index: Tensor | None = None, part: slice = EVERYTHING
    ) -> BankBatch:
        """Draw n points: initial noise and a step of the grid for each, and a DDIM run from the noise to that step.

        Args:
            n: Number of points.
            generator: Source of all random draws.
            prompt_index: Indices (n,) of the prompts; None draws them uniformly.
            part: Rows to run and return. The random draws are made for all n rows, so they do not depend on it.
        """
        backbone, s = self.backbone, self.settings
        index = draw(len(self.prompts), n, generator) if prompt_index is None else prompt_index.cpu()
        index, stop = index[part], draw(s.steps, n, generator)[part].to(backbone.device)
        noise = torch.randn((n, *backbone.latent_shape), generator=generator)[part].to(backbone.device)
        texts = [self.prompts[i] for i in index.tolist()]
        order = stop.argsort(descending=True, stable=True)
        drawn = self._roll([texts[i] for i in order.tolist()], noise[order], stop[order])
        drawn = {name: tensor[order.argsort()] for name, tensor in drawn.items()}
        if self.student is not None:
            cond, null = backbone.condition(texts), backbone.null()
            drawn["pred_null"], drawn["pred_cond"] = backbone.both(drawn["latents"], drawn["t"], cond, null)
        drawn["start"] = noise
        if self.anchors is not None:
            anchor = backbone.condition([self.anchors[i] for i in index.tolist()])
            drawn["pred_anchor"] = backbone.predict(drawn["latents"], drawn["t"], anchor)
        return to_batch(drawn, index, backbone.device)

    def _roll(self, texts: Sequence[str], noise: Tensor, stop: Tensor) -> dict[str, Tensor]:
        """Run all rows together and return the points where they stop.

        Each row leaves the batch at its own step, ``stop`` (n,), which must be in descending order.
        """
        model = self.backbone if self.student is None else self.student
        before, latents = model.unet_calls, noise
        cond, null = model.condition(texts), model.null()
        grid = model.timesteps(self.settings.steps)
        parts: list[dict[str, Tensor]] = []
        for k in range(int(stop[0]) + 1):
            alive = int((stop >= k).sum())
            stay = int((stop > k).sum())
            t = grid[k].expand(alive)
            pred_null, pred_cond = model.both(latents[:alive], t, cond[:alive], null)
            row = {"latents": latents[:alive], "t": t, "pred_null": pred_null, "pred_cond": pred_cond}
            parts.append({name: tensor[stay:] for name, tensor in row.items()})
            latents = model.ddim_step(pred_null, pred_cond, grid[k], latents[:alive], self.settings.guidance)
        if model is not self.backbone:
            self.backbone.unet_calls += model.unet_calls - before
        return {name: torch.cat([part[name] for part in reversed(parts)]) for name in parts[0]}

    def mean_difference(self) -> float:
        """Return the mean squared difference between the predictions with and without the prompt, over 64 points."""
        points = self.sample(64, Generator().manual_seed(0))
        return float((points.pred_cond.float() - points.pred_null.float()).square().mean())


def open_source(
    backbone: Backbone,
    prompts: Sequence[str],
    settings: BankConfig,
    *,
    anchors: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
    shard: Shard | None = None,
    student: Backbone | None = None,
) -> TrajectoryBank | FreshTrajectories:
    """Return the point source of ``settings.mode``, over the first ``settings.limit`` prompts.

    Several processes with a common ``cache_dir`` divide the missing trajectories of the bank among them. With a
    ``student``, the model in training, every point lies on a fresh trajectory of that model, whatever the mode.
    """
    shard = shard or Shard()
    prompts = prompts[: settings.limit]
    anchors = None if anchors is None else anchors[: settings.limit]
    if settings.mode == "fresh" or student is not None:
        require_agreement(backbone, prompts[0], settings.guidance)
        return FreshTrajectories(backbone, prompts, settings, anchors, student=student)

    def build(rows: slice = EVERYTHING) -> TrajectoryBank:
        chosen = None if anchors is None else anchors[rows]
        return TrajectoryBank.build(
            backbone, prompts[rows], settings, anchors=chosen, cache_dir=cache_dir, progress=progress and shard.main
        )

    if shard.count > 1 and cache_dir is not None:
        if prompts[own := shard.part(len(prompts))]:
            build(own)
        shard.wait()
    return build()


def sample_part(
    source: TrajectoryBank | FreshTrajectories, prompt_index: Tensor, generator: Generator, part: slice
) -> BankBatch:
    """Draw a point for each prompt of all processes, and return the rows ``part``.

    Every process makes the same random draws for all n prompts ``prompt_index`` (n,), so the parts fit together.
    """
    n = len(prompt_index)
    if isinstance(source, FreshTrajectories):
        return source.sample(n, generator, prompt_index=prompt_index, part=part)
    drawn = source.sample(n, generator, prompt_index=prompt_index)
    rows: dict[str, Any] = {}
    for field in fields(drawn):
        value = getattr(drawn, field.name)
        rows[field.name] = None if value is None else value[part]
    return BankBatch(**rows)
