"""Which pictures the page covers, and how it says what it covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..metrics.rates import detect
from ..protocols import Detector

_BLOCKS = 8  # squares on the longer side of a covered picture


@dataclass(frozen=True)
class Screen:
    """What finds pictures that the page must not show as they are.

    Args:
        checker: Safety checker of the pipeline; None if it has none.
        extractor: Image processor of the safety checker.
        detectors: Name of a concept of the kind ``content`` to its detector.
        draws: Things that an embedded base draws, none of which needs a cover; empty for any other base.
    """

    checker: Any = None
    extractor: Any = None
    detectors: tuple[tuple[str, Detector], ...] = ()
    draws: str = ""

    def reasons(self, images: Tensor) -> list[str]:
        """Return for each picture (B, 3, H, W) in [0, 1] who found something in it; empty for a picture to show."""
        if self.draws:
            return ["" for _ in images]
        found: list[list[str]] = [[] for _ in images]
        if self.checker is not None:
            for row, flagged in zip(found, self._flags(images), strict=True):
                row += ["the safety checker"] if flagged else []
        for concept, detector in self.detectors:
            for row, flagged in zip(found, detect(detector, images), strict=True):
                row += [f"the judge of {concept}"] if flagged else []
        return [" and ".join(row) for row in found]

    @torch.no_grad()
    def _flags(self, images: Tensor) -> Sequence[bool]:
        """Return what the safety checker of Stable Diffusion says, called as diffusers' pipelines call it."""
        pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        first = next(self.checker.parameters())
        clip_input = self.extractor([Image.fromarray(one) for one in pixels], return_tensors="pt").pixel_values
        # It blackens the pictures that it is given, so it is given others.
        _, flags = self.checker(images=list(pixels.copy()), clip_input=clip_input.to(first.device, first.dtype))
        return [bool(flag) for flag in flags]

    def words(self) -> str:
        """Return in sentences what the page filters and what it does not."""
        if self.draws:
            return f"Nothing is filtered, because this base draws nothing but {self.draws}."
        parts = ["the pipeline's safety checker"] if self.checker is not None else []
        parts += [f"the judge of {concept}" for concept, _ in self.detectors]
        if not parts:
            return (
                "Nothing is filtered: this pipeline has no safety checker, and no judge of explicit content is loaded. "
                "Pictures may be explicit."
            )
        return (
            f"A picture is shown as {_BLOCKS} by {_BLOCKS} squares if {' or '.join(parts)} finds something in it. They "
            "miss some explicit pictures, and find some harmless ones. Prompts are not filtered."
        )


def covered(picture: Tensor) -> Tensor:
    """Return a picture (3, H, W) of which only the colours of a few squares are left."""
    height, width = picture.shape[-2:]
    coarse = torch.nn.functional.adaptive_avg_pool2d(picture[None].float(), _BLOCKS)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[0]
