"""The stages of the base's build: autoencoder, text encoder with its image tower, UNet. The judge has its own file."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...diffusion.backbone import has_bf16
from .config import NetworkConfig, Sizes
from .corpus import Corpus, Pictures, TokenizedCorpus, random_labels
from .loop import fit
from .networks import ImageTower
from .token_rows import RowSubset
from .tokenizer import train_tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Course:
    """Training data of a stage, and the folder of its checkpoints.

    Args:
        corpus: World that gives the pictures their captions.
        pictures: Training pictures.
        sizes: Steps and batch sizes.
        folder: Folder of the checkpoints.
        seed: Seed of the stage.
    """

    corpus: Corpus
    pictures: Pictures
    sizes: Sizes
    folder: Path
    seed: int

    def autocast(self) -> AbstractContextManager[None]:
        """Return the autocast of the picture networks of this stage."""
        return _bf16(self.sizes.bf16)


def _bf16(wanted: bool = True) -> AbstractContextManager[None]:
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted and has_bf16())


def compiles(sizes: Sizes) -> bool:
    """Return whether the UNet trains compiled: as the sizes ask, if there is the C++ compiler that PyTorch needs."""
    if sizes.compiled and shutil.which(os.environ.get("CXX", "g++")) is None:
        _log.warning("no C++ compiler is found, so the UNet trains uncompiled, in more time; install g++ to compile it")
        return False
    return sizes.compiled


def new_autoencoder(config: NetworkConfig) -> AutoencoderKL:
    """Return an untrained autoencoder between pictures (3, H, W) and latents (4, h, w)."""
    levels = len(config.autoencoder_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.autoencoder_channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=config.side,
    )


def new_text_encoder(tokenizer: CLIPTokenizer, config: NetworkConfig) -> CLIPTextModel:
    """Return an untrained CLIP text encoder with four heads."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            max_position_embeddings=config.positions,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet(config: NetworkConfig) -> UNet2DConditionModel:
    """Return an untrained UNet; cross-attention only at low resolutions costs little."""
    down = ["CrossAttnDownBlock2D" if wanted else "DownBlock2D" for wanted in config.unet_attention]
    up = ["CrossAttnUpBlock2D" if wanted else "UpBlock2D" for wanted in reversed(config.unet_attention)]
    return UNet2DConditionModel(
        sample_size=config.latent_side,
        layers_per_block=1,
        block_out_channels=config.unet_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=config.text_width,
        attention_head_dim=config.unet_heads,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule, rescaled to end in pure noise, for a model that predicts velocity.

    The original schedule leaves signal at its last timestep, so a model cannot draw backgrounds far from grey from pure
    noise. On pictures this small, no white or black background could be drawn. The remedy is that of Lin et al. 2024,
    sections 3.1 to 3.3: rescale the schedule, predict velocity, and start at the last timestep.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )


def new_tokenizer(corpus: Corpus, *, seed: int) -> CLIPTokenizer:
    """Return the tokenizer of a world: its own, or one whose vocabulary is learned from captions."""
    if isinstance(corpus, TokenizedCorpus):
        return corpus.tokenizer()
    generator = Generator().manual_seed(seed)
    labels = random_labels(corpus, 20_000, generator)
    config = corpus.networks
    return train_tokenizer(corpus.captions(labels, generator), merges=config.merges, max_length=config.positions)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids (B, L) of captions, padded as the pipeline pads them."""
    ids: Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def train_autoencoder(model: AutoencoderKL, course: Course) -> float:
    """Train the autoencoder for reconstruction and return its last mean loss.

    The loss is L1 plus squared error, with a small penalty that pulls the latents to a unit Gaussian.
    """

    def loss(generator: Generator) -> Tensor:
        images = course.pictures.draw(course.sizes.autoencoder_batch, generator)[0] * 2 - 1
        with course.autocast():
            posterior = model.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            drawn = model.decode(posterior.mean + posterior.std * noise).sample
        error: Tensor = drawn.float() - images
        pull = posterior.kl().mean() / posterior.mean[0].numel()
        value: Tensor = error.abs().mean() + error.square().mean() + 1e-5 * pull
        return value

    final = fit(model, loss, course.sizes.autoencoder, course.folder, seed=course.seed, label="autoencoder")
    images = course.pictures.draw(512, Generator().manual_seed(course.seed))[0] * 2 - 1
    with torch.no_grad():
        spread = model.encode(images).latent_dist.mean.std()
    model.register_to_config(scaling_factor=round(1 / float(spread), 5))
    return final


def train_text(encoder: CLIPTextModel, tower: ImageTower, tokenizer: CLIPTokenizer, course: Course) -> float:
    """Train text encoder and image tower contrastively, and return their last mean loss.

    The loss is the symmetric cross-entropy of CLIP (Radford et al. 2021). In a world with a tokenizer of its own, the
    tokens that no caption uses keep their embeddings.
    """
    corpus = course.corpus
    rows = RowSubset.of(encoder, tokenizer, corpus.texts()) if isinstance(corpus, TokenizedCorpus) else None

    def loss(generator: Generator) -> Tensor:
        images, labels, _ = course.pictures.draw(course.sizes.text_batch, generator)
        noisy = (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        pooled = encoder(token_ids(tokenizer, course.corpus.captions(labels, generator))).pooler_output
        scale = tower.logit_scale.clamp(max=4.6).exp()
        with course.autocast():
            seen = tower.embed_images(noisy)
        logits = scale * seen.float() @ tower.embed_pooled(pooled).T  # (B, B)
        truth = torch.arange(len(logits))
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2

    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    final = fit(both, loss, course.sizes.text, course.folder, seed=course.seed, label="text encoder")
    if rows is not None:
        rows.put_back(encoder)
    return final


@torch.no_grad()
def encode_pictures(model: AutoencoderKL, pictures: Pictures) -> Tensor:
    """Return the scaled latents (N, 4, h, w) of all pictures, in half precision."""
    chunks = [
        model.encode(part.float() / 127.5 - 1).latent_dist.mean * model.config.scaling_factor
        for part in torch.split(pictures.images, 50)
    ]
    return torch.cat([chunk.half() for chunk in chunks])


def _timesteps(n: int, count: int, noisier: float, generator: Generator) -> Tensor:
    """Return n timesteps, uniform over all ``count``, but a share ``noisier`` of them over the noisier half alone."""
    t = torch.randint(count, (n,), generator=generator)
    if not noisier:
        return t
    return torch.where(torch.rand(n, generator=generator) < noisier, count // 2 + t // 2, t)


def train_unet(
    unet: UNet2DConditionModel,
    condition: Callable[[list[str]], Tensor],
    latents: Tensor,
    course: Course,
    span: tuple[int, int] | None = None,
) -> float:
    """Train the UNet to predict velocity (Salimans and Ho 2022, section 4), and return its last mean loss.

    10 % of the captions are empty, which classifier-free guidance needs. The attention is computed in separate steps:
    in bf16 on processors, PyTorch's fused attention takes most of its time backward, and 0.705 s a step of the emoji
    base became 0.507 s without it. Compiled, 0.45 s became 0.28 s on a processor with AMX.

    Args:
        unet: UNet to train.
        condition: Function that returns the conditionings (B, L, D) of captions.
        latents: Scaled latents (N, 4, h, w) of the training pictures.
        course: Training data and folder of the stage.
        span: Part of the schedule, see :func:`fit`; None runs the whole.
    """
    scheduler = new_scheduler()
    unet.set_attn_processor(AttnProcessor())
    forward = torch.compile(unet) if compiles(course.sizes) else unet

    def loss(generator: Generator) -> Tensor:
        indices = torch.randint(len(course.pictures), (course.sizes.unet_batch,), generator=generator)
        clean = latents[indices].float()
        noise = torch.randn(clean.shape, generator=generator)
        t = _timesteps(len(clean), scheduler.config.num_train_timesteps, course.sizes.noisier, generator)
        text = condition(course.corpus.captions(course.pictures.labels[indices], generator, empty=0.1))
        with _bf16():
            predicted = forward(scheduler.add_noise(clean, noise, t), t, text).sample
        error: Tensor = predicted.float() - scheduler.get_velocity(clean, noise, t)
        return error.square().mean()

    return fit(unet, loss, course.sizes.unet, course.folder, seed=course.seed, label="unet", span=span)
