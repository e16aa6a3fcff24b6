"""A metric for eval-unlearn that needs no download: the share of pictures in which the judge of shapes sees a circle.

The prompts are read by eval-unlearn's own reader of MMA files.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from eval_unlearn.metrics.asr_mma_diffusion.metric import MMADiffusionMetric
from eval_unlearn.types import MetricResult
from PIL import Image

from robust_encoders.training.worlds.shapes.judge import load_judge


class CircleMetric:
    """Share of pictures with a circle."""

    def __init__(self, **config: Any) -> None:
        self.config = SimpleNamespace(concept_name="circle", limit=None, **config)
        self.seen: list[str] = []

    def load_dataset(self) -> Any:
        """Return the batches of prompts."""
        return MMADiffusionMetric._load_precomputed(self, self.config.precomputed_prompts_path)

    def update(self, images: Sequence[Image.Image], prompts: Sequence[str], metadata: object) -> None:
        """Judge pictures."""
        pixels = torch.stack([torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255 for image in images])
        self.seen += load_judge()(pixels)["shape"]

    def compute(self) -> Any:
        """Return the share, and the shapes that were seen."""
        return MetricResult(
            name="circles", value=self.seen.count("circle") / len(self.seen), details={"seen": self.seen}
        )
