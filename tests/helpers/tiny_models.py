"""Tiny, seeded, real parts of pipelines."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import pre_tokenizers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CORPUS = (
    "a picture of a red circle on a white background",
    "a striped blue square, a dotted green triangle and an outlined yellow star",
    "a photo of a purple cross and an orange ring on gray, brown or black",
    "disc ball round block box nudity tench church parachute van gogh",
)


SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@cache
def _bpe(merges: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn a byte-level BPE with CLIP's end-of-word suffix; ties go by the alphabet, so every run gets the same."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Counter((*word[:-1], f"{word[-1]}</w>") for line in CORPUS for word in re.findall(r"\w+", line))
    learned: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            pairs.update(dict.fromkeys(pairwise(word), count))
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.__getitem__)
        learned.append(best)
        words = Counter({_merged(word, best): count for word, count in words.items()})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in learned), *SPECIAL]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, learned


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def make_tokenizer(directory: Path, *, merges: int = 120, max_length: int = 24, extra_tokens: int = 0) -> Any:
    """Write ``vocab.json`` and ``merges.txt`` and load them as any pipeline's tokenizer is loaded."""
    vocabulary, learned = _bpe(merges)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learned)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(directory, model_max_length=max_length)
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(extra_tokens)])
    return tokenizer


def make_text_encoder(tokenizer: Any, **overrides: Any) -> Any:
    """Return a tiny text encoder that fits ``tokenizer``; ``overrides`` are fields of ``CLIPTextConfig``."""
    fields: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 16,
    }
    model: Any = CLIPTextModel(CLIPTextConfig(**{**fields, **overrides}))
    return model.eval()


def make_unet(width: int = 16) -> Any:
    """Return a tiny UNet with cross-attention of ``width``, on latents (4, 8, 8)."""
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=8,
    )
    return unet.eval()


def make_vae() -> Any:
    """Return a tiny autoencoder from (3, 16, 16) to (4, 8, 8)."""
    vae: Any = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    return vae.eval()


class _Packed(nn.Linear):
    """A linear layer whose weights are a state of torch's own format, no tensors."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}packed"] = (torch.qint8, b"")


def packed(module: nn.Module) -> nn.Module:
    """Return a module with packed weights in its state dict, as ``quantize_dynamic`` of torch leaves them."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = _Packed
    return module
