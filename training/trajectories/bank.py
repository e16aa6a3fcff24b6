"""Bank of latents and predictions of the frozen model, computed once and sampled at every training step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.utils.text_lists import require_texts

from ..diffusion.backbone import Backbone, ids_of
from ..diffusion.noise_schedule import SCHEDULE
from ..diffusion.two_encoders import TwoEncoderBackbone
from .config import BankConfig
from .rollout import Trajectory, fill, run_in_memory
from .store import BankStore, StoredTrajectory, in_memory

FORMAT = 1


@dataclass(frozen=True)
class BankBatch:
    """Training points: latents on trajectories of the frozen model and the predictions of the frozen model there.

    Args:
        latents: Latents (n, C, h, w) in float32.
        t: Timesteps (n,) of the latents.
        prompt_index: Indices (n,) of the source's prompts that the trajectories were drawn for.
        pred_null: Predictions (n, C, h, w) for the empty prompt.
        pred_cond: Predictions (n, C, h, w) for the prompt.
        pred_anchor: Predictions (n, C, h, w) for the anchor of the prompt; None if the source has no anchors.
        start: Latents (n, C, h, w) that the trajectories begin at, which are pure noise; None if they are unknown.
    """

    latents: Tensor
    t: Tensor
    prompt_index: Tensor
    pred_null: Tensor
    pred_cond: Tensor
    pred_anchor: Tensor | None = None
    start: Tensor | None = None


class PointSource(Protocol):
    """A source of training points."""

    prompts: tuple[str, ...]

    def sample(self, n: int, generator: Generator, *, prompt_index: Tensor | None = None) -> BankBatch:
        """Draw n points, for the prompts with the indices ``prompt_index`` (n,) or for uniformly drawn prompts."""
        ...


def bank_key(backbone: Backbone, settings: BankConfig) -> dict[str, Any]:
    """Return everything that a trajectory depends on, except its prompt and seed.

    Weights enter as a hash of all their bytes. A sketch (a short summary of the weights) would miss a small fused
    adapter.
    """
    schedule = {name: backbone.scheduler.config[name] for name in SCHEDULE}
    return {
        "format": FORMAT,
        "unet": content_sha256(backbone.unet.state_dict()),
        **_text_key(backbone),
        "alphas_cumprod": hashlib.sha256(backbone.alphas_cumprod.double().numpy().tobytes()).hexdigest(),
        "scheduler": schedule,
        "latent_shape": list(backbone.latent_shape),
        "precision": backbone.computes_in,
        "guidance": settings.guidance,
        "steps": settings.steps,
    }


def _text_key(backbone: Backbone) -> dict[str, Any]:
    """Return what tells the text side of a base; it does not depend on which of two encoders is to change."""
    probe = ["a photo of 3 red circles, by Van Gogh!"]
    if not isinstance(backbone, TwoEncoderBackbone):
        text = content_sha256(backbone.text_encoder.state_dict())
        return {"text_encoder": text, "probe_ids": backbone.tokenize(probe)[0].tolist()}
    return {
        "text_encoder": [content_sha256(slot.text_encoder.state_dict()) for slot in backbone.slots],
        "probe_ids": [ids_of(slot.tokenizer, probe)[0].tolist() for slot in backbone.slots],
        "picture_size": list(backbone.drawn.size),
        "zero_null": backbone.drawn.zero_null,
    }


class TrajectoryBank:
    """Every step of many DDIM runs of the frozen model, with the model's predictions there, in half precision.

    If only the text encoder is trained, everything that AdvUnlearn samples depends on the frozen base alone. So the
    bank computes it once. On disk, each prompt, anchor and seed has one file, in a folder named by a hash
    of ``bank_key``. Later runs on the same base reuse and extend the folder. An interrupted build continues where it
    stopped, and processes that build at the same time share the work.

    Args:
        prompts: Prompts, one for each value of ``prompt_index``.
        shards: Trajectories of each prompt: ``shards[i]`` belongs to ``prompts[i]``, and each trajectory has S steps.
        device: Device of the drawn batches.
    """

    def __init__(
        self, prompts: Sequence[str], shards: Sequence[Sequence[StoredTrajectory]], device: torch.device
    ) -> None:
        self.prompts = tuple(prompts)
        self.shards = tuple(tuple(group) for group in shards)
        self.device = device
        self._steps = len(self.shards[0][0]["t"])

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        backbone: Backbone,
        prompts: Sequence[str],
        settings: BankConfig,
        *,
        anchors: Sequence[str] | None = None,
        cache_dir: Path | None = None,
        progress: bool = True,
    ) -> TrajectoryBank:
        """Run the trajectories that are not in the cache yet, and open all trajectories.

        Args:
            backbone: The frozen base.
            prompts: Prompts, each with ``settings.seeds`` trajectories.
            settings: Steps, guidance, number of trajectories, and batch size.
            anchors: Anchor of each prompt, whose predictions are stored as well; None stores none.
            cache_dir: Parent folder of all banks; None keeps this bank in memory.
            progress: True to show a progress bar.

        Raises:
            TextListError: Prompts or anchors are one string.
            ValueError: There are no prompts, the numbers of anchors and prompts differ, or ``settings.seeds`` holds two
                numbers.
            BankError: The folder of this bank holds another bank or a damaged file.
        """
        require_texts("prompts", prompts)
        require_texts("anchors", anchors or ())
        if not prompts or (anchors is not None and len(anchors) != len(prompts)):
            raise ValueError(
                f"expected at least one prompt and one anchor for each, found {len(prompts)} prompts and "
                f"{'no' if anchors is None else len(anchors)} anchors"
            )
        if not isinstance(settings.seeds, int):
            raise ValueError(f"expected one number of seeds, found {settings.seeds}: use for_concept() or for_retain()")
        paired: Sequence[str | None] = [None] * len(prompts) if anchors is None else anchors
        jobs = [Trajectory(p, a, s) for p, a in zip(prompts, paired, strict=True) for s in range(settings.seeds)]
        model = backbone if settings.precision is None else backbone.sharing(precision=settings.precision)
        store = None if cache_dir is None else BankStore.open(cache_dir, bank_key(model, settings))
        made = run_in_memory(model, jobs, settings, progress) if store is None else {}
        if store is not None:
            fill(store, model, jobs, settings, progress)
        if model is not backbone:
            backbone.unet_calls += model.unet_calls
        shards = [made[job] if store is None else store.read(job.name) for job in jobs]
        groups = [shards[i : i + settings.seeds] for i in range(0, len(shards), settings.seeds)]
        return cls(prompts, groups, backbone.device)

    def sample(self, n: int, generator: Generator, *, prompt_index: Tensor | None = None) -> BankBatch:
        """Draw n points uniformly over trajectories, steps and, unless ``prompt_index`` (n,) is given, prompts."""
        index = draw(len(self.prompts), n, generator) if prompt_index is None else prompt_index.cpu()
        seeds = len(self.shards[0])
        seed, step = draw(seeds, n, generator).tolist(), draw(self._steps, n, generator).tolist()
        rows = [in_memory(self.shards[i][s]) for i, s in zip(index.tolist(), seed, strict=True)]
        drawn = {k: torch.stack([row[k][j] for row, j in zip(rows, step, strict=True)]) for k in rows[0]}
        drawn["start"] = torch.stack([row["latents"][0] for row in rows])
        return to_batch(drawn, index, self.device)

    def mean_difference(self) -> float:
        """Return the mean squared difference between the predictions with and without the prompt."""
        shards = (in_memory(shard) for group in self.shards for shard in group)
        means = [(s["pred_cond"].float() - s["pred_null"].float()).square().mean() for s in shards]
        return float(torch.stack(means).mean())


def draw(high: int, n: int, generator: Generator) -> Tensor:
    """Return n indices from 0 to ``high`` - 1, drawn uniformly."""
    return torch.randint(high, (n,), generator=generator)


def to_batch(drawn: dict[str, Tensor], index: Tensor, device: torch.device) -> BankBatch:
    """Return drawn points as a batch on ``device``, with latents and predictions in float32."""
    moved = {k: v.to(device) if k == "t" else v.to(device, torch.float32) for k, v in drawn.items()}
    return BankBatch(prompt_index=index, **moved)
