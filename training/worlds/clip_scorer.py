"""CLIP score on an embedded base: the cosine of picture and caption in its contrastive space; higher is better.

See Hessel et al., "CLIPScore" (EMNLP 2021); its rescaling is left out. The frozen base encoder encodes all captions,
even if another encoder drew the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from robust_encoders.artifact.owned_file import read_owned

from .pretrain.networks import ImageTower

_BATCH = 100


@dataclass(frozen=True)
class ClipScorer:
    """The image tower of a base, with the frozen tokenizer and text encoder that it was trained with."""

    tower: ImageTower
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel

    @classmethod
    def read(cls, folder: Path, tower: ImageTower) -> ClipScorer:
        """Return the scorer with the weights in a folder of assets; ``tower`` receives those of the image tower."""
        tower.load_state_dict(read_owned(folder / "image_tower.safetensors").tensors)
        base = folder / "base"
        text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
        return cls(tower.eval(), CLIPTokenizer.from_pretrained(base / "tokenizer"), text_encoder.eval())

    @torch.no_grad()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosines (B,) of pictures (B, 3, H, W) in [0, 1] and their captions; long captions are cut off."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        pooled = self.text_encoder(tokens.input_ids).pooler_output  # (B, D)
        seen = torch.cat([self.tower.embed_images(part) for part in torch.split(images.float().cpu(), _BATCH)])
        cosines: Tensor = (seen * self.tower.embed_pooled(pooled)).sum(1)
        return cosines
