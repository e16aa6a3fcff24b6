"""Saved encoders of random weights, in any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.clip.text_model import _shapes

CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip
SMALL = {**CLIP_L, "vocab_size": 1024, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


def saved(folder: Path, config: dict[str, Any]) -> Path:
    """Save an encoder of random weights with a configuration; return its folder."""
    generator = torch.Generator().manual_seed(0)
    shapes = _shapes(config, projected=False)
    tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    concept = Concept(name="circle", kind="object")
    manifest = Manifest(concept=concept, method={"name": "test"}, base=Base(family="SD 1.4"))
    RobustEncoder(manifest, tensors, config).save_pretrained(folder)
    return folder
