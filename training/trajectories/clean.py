"""Clean latents of prompts: what the frozen model draws, before the autoencoder decodes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from robust_encoders.artifact.owned_file import read_owned

from ..diffusion.backbone import Backbone
from ..progress import ProgressBar, announce, duration
from ..provenance import canonical_sha256
from .agreement import require_agreement
from .bank import bank_key
from .config import BankConfig
from .rollout import seconds_of_call, start_noise


@dataclass(frozen=True)
class Picture:
    """One picture to draw.

    Args:
        prompt: Prompt of the picture.
        seed: Number of the picture among those of its prompt, from 0; it fixes the initial noise.
    """

    prompt: str
    seed: int


@torch.no_grad()
def clean_latents(
    backbone: Backbone,
    pictures: Sequence[Picture],
    settings: BankConfig,
    *,
    negative: str = "",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Tensor:
    """Return the clean latents (N, C, h, w) of pictures by the frozen model, in float32 on the CPU.

    Args:
        backbone: The frozen base; its counter of UNet calls increases with every picture that is drawn.
        pictures: N pictures.
        settings: DDIM steps, guidance and batch size.
        negative: Negative prompt of all pictures.
        cache_dir: Parent folder of the cache, which later runs share; None keeps nothing.
        progress: True to show a progress bar.
    """
    if cache_dir is None:
        return _drawn(backbone, pictures, settings, negative, progress=progress)
    listed = [[one.prompt, one.seed] for one in pictures]
    key = canonical_sha256({**bank_key(backbone, settings), "clean": listed, "negative": negative})
    path = cache_dir / f"clean-{key[:24]}.safetensors"
    if path.is_file():
        return read_owned(path).tensors["latents"]
    made = _drawn(backbone, pictures, settings, negative, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    save_file({"latents": made}, str(aside), metadata={"format": "pt"})
    aside.replace(path)
    return made


def _drawn(
    backbone: Backbone, pictures: Sequence[Picture], settings: BankConfig, negative: str, *, progress: bool
) -> Tensor:
    parts = []
    require_agreement(backbone, pictures[0].prompt, settings.guidance)
    null = backbone.condition([negative])
    total = len(pictures) * settings.steps
    if progress:
        announce(
            f"pictures: {len(pictures):,} of {settings.steps} steps, {2 * total:,} UNet calls, about "
            f"{duration(2 * total * seconds_of_call(backbone))}"
        )
    with ProgressBar(total=total, desc="pictures", unit="step", disable=not progress) as bar:
        for start in range(0, len(pictures), settings.batch):
            batch = pictures[start : start + settings.batch]
            noise = torch.stack([start_noise(backbone, one.prompt, one.seed) for one in batch]).to(backbone.device)
            cond = backbone.condition([one.prompt for one in batch])
            latents = noise
            for step in backbone.rollout(cond, null, noise=noise, steps=settings.steps, guidance=settings.guidance):
                latents = step.next
                bar.update(len(batch))
            parts.append(latents.float().cpu())
    return torch.cat(parts)
