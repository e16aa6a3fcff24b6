"""CLIP score on the shapes world: the cosine of picture and caption in the base's contrastive space; higher is better.

See Hessel et al., "CLIPScore" (EMNLP 2021); its rescaling is left out. The frozen base encoder encodes all captions,
even if another encoder drew the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.hub.embedded import shapes_folder

from ..pretrain.networks import ImageTower


@dataclass(frozen=True)
class ClipScorer:
    """The image tower, with the frozen tokenizer and text encoder that it was trained with."""

    tower: ImageTower
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel

    @torch.no_grad()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosines (B,) of pictures (B, 3, 32, 32) in [0, 1] and their captions."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
        )
        pooled = self.text_encoder(tokens.input_ids).pooler_output  # (B, D)
        cosines: Tensor = (self.tower.embed_images(images.float().cpu()) * self.tower.embed_pooled(pooled)).sum(1)
        return cosines


def load_clip_scorer(folder: Path | None = None) -> ClipScorer:
    """Load the packaged image tower and the base's text encoder, or those in ``folder``.

    Raises:
        FileNotFoundError: If the package was installed without its assets.
    """
    return _load(folder or shapes_folder())


@cache
def _load(folder: Path) -> ClipScorer:
    tower = ImageTower()
    tower.load_state_dict(read_owned(folder / "image_tower.safetensors").tensors)
    base = folder / "base"
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    return ClipScorer(tower.eval(), CLIPTokenizer.from_pretrained(base / "tokenizer"), text_encoder.eval())


def clip_score(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the cosines (B,) of pictures (B, 3, 32, 32) in [0, 1] and their captions, by the packaged scorer."""
    return load_clip_scorer()(images, texts)
