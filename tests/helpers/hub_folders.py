"""Tiny random models in folders, saved and loaded as published ones are, and what else an evaluation reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SIDE = 32


def vit_folder(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """A classifier of the kind that judges styles, on pictures of 16 x 16."""
    config: Any = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    processor: Any = ViTImageProcessor(size={"height": 16, "width": 16})
    return _saved(folder, ViTForImageClassification, config, processor, seed)


def resnet_folder(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """A classifier of the kind that judges objects, with ResNet-50's own preprocessing at a smaller size."""
    config: Any = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    processor: Any = ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875, resample=3)
    return _saved(folder, ResNetForImageClassification, config, processor, seed)


def clip_folder(folder: Path, tokenizer: Any, *, seed: int = 0) -> Path:
    """A CLIP model with ``tokenizer``, on pictures of 32 x 32."""
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shared,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shared, "image_size": SIDE, "patch_size": 8}
    config: Any = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    processor: Any = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    tokenizer.save_pretrained(folder)
    return _saved(folder, CLIPModel, config, processor, seed)


def _saved(folder: Path, kind: Any, config: Any, processor: Any, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            # Fresh weights are so small that all pictures look alike.
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(n: int, *, side: int = 40, seed: int = 0) -> torch.Tensor:
    """Pictures (n, 3, side, side + 8) in [0, 1], of byte values, so that rounding changes nothing."""
    noise = torch.rand(n, 3, side, side + 8, generator=torch.Generator().manual_seed(seed))
    tint = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed + 1))
    return ((noise + tint) / 2 * 255).round() / 255


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
