"""Fixtures shared by all tests: tiny, seeded, real pipelines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.layouts import nested_state

CORPUS = (
    "a picture of a red circle on a white background",
    "a striped blue square, a dotted green triangle and an outlined yellow star",
    "a photo of a purple cross and an orange ring on gray, brown or black",
    "disc ball round block box nudity tench church parachute van gogh",
)
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what the package notes for itself out of the user's cache folder; return where it is."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(folder))
    return folder


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


@pytest.fixture
def textless_unet() -> Any:
    """Return a UNet without cross-attention."""
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )


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


PipelineMaker = Callable[..., Any]


@pytest.fixture
def make_pipe(tmp_path: Path) -> PipelineMaker:
    """Return a maker of tiny random ``StableDiffusionPipeline``s, the same one for the same arguments.

    Overrides: ``seed``, ``width``, ``layers``, ``heads``, ``positions``, ``prediction_type``, ``merges`` (size of the
    vocabulary), ``extra_tokens`` (added to the tokenizer only), ``unet_width`` (default ``width``), and any field of
    ``CLIPTextConfig``.
    """

    def make(
        *,
        seed: int = 0,
        width: int = 16,
        layers: int = 2,
        heads: int = 2,
        positions: int = 24,
        prediction_type: str = "epsilon",
        merges: int = 120,
        extra_tokens: int = 0,
        unet_width: int | None = None,
        **text_config: Any,
    ) -> Any:
        folder = tmp_path / f"tokenizer-{merges}-{positions}-{extra_tokens}"
        tokenizer = make_tokenizer(folder, merges=merges, max_length=positions, extra_tokens=extra_tokens)
        shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text_encoder = make_text_encoder(tokenizer, **{**shape, **text_config})
            unet = make_unet(unet_width or width)
            vae = make_vae()
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        )
        pipe: Any = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def tiny_pipe(make_pipe: PipelineMaker) -> Any:
    """Return ``make_pipe()``."""
    return make_pipe()


def _encoder_for(pipe: Any, *, seed: int = 1, name: str = "circle", **fields: Any) -> RobustEncoder:
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.cpu() for name, tensor in nested_state(pipe.text_encoder).items()}
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in state.items()
    }
    described: dict[str, Any] = {
        "concept": Concept(name=name, kind="object"),
        "method": {"name": "test", "seed": seed},
        "base": Base.from_pipeline(pipe, family="tiny", ids=("org/tiny",), with_unet=True),
        "versions": {"torch": torch.__version__},
        "license": "apache-2.0",
    }
    return RobustEncoder(Manifest(**{**described, **fields}), tensors, pipe.text_encoder.config.to_dict())


@pytest.fixture
def make_encoder() -> Callable[..., RobustEncoder]:
    """Return a maker of robust encoders for a pipeline: its text encoder, every tensor changed a little.

    ``make_encoder(pipe, seed=1, name="circle", **fields)``; ``fields`` are fields of the manifest.
    """
    return _encoder_for


@pytest.fixture
def tiny_encoder(tiny_pipe: Any) -> RobustEncoder:
    """Return a robust encoder for ``tiny_pipe``."""
    return _encoder_for(tiny_pipe)


@pytest.fixture
def config_folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A folder with the tiny encoder's config.json and no weights yet."""
    source = tmp_path / "source"
    source.mkdir()
    config = {**tiny_pipe.text_encoder.config.to_dict(), "dtype": "float32"}
    (source / "config.json").write_text(json.dumps(config, default=str))
    return source
