"""The stages of the base's build: autoencoder, text encoder with its image tower, UNet, judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .fit import Schedule, fit
from .networks import ImageTower, JudgeNet
from .pictures import Pictures, captions_of
from .tokenizer import train_tokenizer
from .vocabulary import FACTORS

MAX_LENGTH = 24
WIDTH = 96
MERGES = 244
_AUTOENCODER = Schedule(steps=1800, rate=3e-3)
_TEXT = Schedule(steps=1500, rate=1e-3)
_UNET = Schedule(steps=5000, rate=1.5e-3, decay=0.999)
_JUDGE = Schedule(steps=1500, rate=2e-3)


@dataclass(frozen=True)
class Sizes:
    """Steps and batches of every stage; the defaults made the packaged base."""

    pictures: int = 40_000
    autoencoder: Schedule = _AUTOENCODER
    text: Schedule = _TEXT
    unet: Schedule = _UNET
    judge: Schedule = _JUDGE
    autoencoder_batch: int = 24
    text_batch: int = 128
    unet_batch: int = 48
    judge_batch: int = 96


def new_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder of 32x32 pictures to 4x16x16 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text encoder of four layers, width 96."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_unet() -> UNet2DConditionModel:
    """Return an untrained UNet with cross-attention at 8x8, where it is cheap."""
    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(48, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion 1's noise schedule with DDIM steps."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_tokenizer(*, seed: int) -> CLIPTokenizer:
    """Learn the vocabulary from captions alone."""
    generator = Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(n, (20_000,), generator=generator) for n in (6, 8, 4, 4)], dim=1)
    return train_tokenizer(captions_of(labels, generator), merges=MERGES, max_length=MAX_LENGTH)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return ids (B, L), padded as the pipeline pads them."""
    ids: Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def train_autoencoder(model: AutoencoderKL, pictures: Pictures, sizes: Sizes, folder: Path, *, seed: int) -> float:
    """Train for reconstruction, L1 plus squared error, with a slight pull of the latents to a unit Gaussian."""

    def loss(generator: Generator) -> Tensor:
        images = pictures.draw(sizes.autoencoder_batch, generator)[0] * 2 - 1
        posterior = model.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        error = model.decode(posterior.mean + posterior.std * noise).sample - images
        return error.abs().mean() + error.square().mean() + 1e-5 * posterior.kl().mean() / posterior.mean[0].numel()

    final = fit(model, loss, sizes.autoencoder, folder, seed=seed, label="autoencoder")
    images = pictures.draw(512, Generator().manual_seed(seed))[0] * 2 - 1
    with torch.no_grad():
        spread = model.encode(images).latent_dist.mean.std()
    model.register_to_config(scaling_factor=round(1 / float(spread), 5))
    return final


def train_text(
    encoder: CLIPTextModel, tower: ImageTower, tokenizer: CLIPTokenizer, pictures: Pictures, sizes: Sizes,
    folder: Path, *, seed: int,
) -> float:  # fmt: skip
    """Train text encoder and image tower contrastively (Radford et al. 2021, the symmetric cross-entropy)."""

    def loss(generator: Generator) -> Tensor:
        images, labels, _ = pictures.draw(sizes.text_batch, generator)
        noisy = (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        pooled = encoder(token_ids(tokenizer, captions_of(labels, generator))).pooler_output
        scale = tower.logit_scale.clamp(max=4.6).exp()
        logits = scale * tower.embed_images(noisy) @ tower.embed_pooled(pooled).T  # (B, B)
        truth = torch.arange(len(logits))
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2

    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    return fit(both, loss, sizes.text, folder, seed=seed, label="text encoder")


@torch.no_grad()
def encode_pictures(model: AutoencoderKL, pictures: Pictures) -> Tensor:
    """Return scaled latents (N, 4, 16, 16) in half precision of all pictures."""
    chunks = [
        model.encode(part.float() / 127.5 - 1).latent_dist.mean * model.config.scaling_factor
        for part in pictures.images.split(250)
    ]
    return torch.cat([chunk.half() for chunk in chunks])


def train_unet(
    unet: UNet2DConditionModel, condition: Callable[[list[str]], Tensor], latents: Tensor, pictures: Pictures,
    sizes: Sizes, folder: Path, *, seed: int,
) -> float:  # fmt: skip
    """Train noise prediction with 10 % empty captions, weighted by min-SNR (Hang et al. 2023, gamma 5)."""
    scheduler = new_scheduler()
    ratio = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = ratio.clamp(max=5) / ratio

    def loss(generator: Generator) -> Tensor:
        indices = torch.randint(len(pictures), (sizes.unet_batch,), generator=generator)
        clean = latents[indices].float()
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        text = condition(captions_of(pictures.labels[indices], generator, empty=0.1))
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(scheduler.add_noise(clean, noise, t), t, text).sample
        return ((predicted.float() - noise).square().mean((1, 2, 3)) * weights[t]).mean()

    return fit(unet, loss, sizes.unet, folder, seed=seed, label="unet")


def train_judge(
    judge: JudgeNet, autoencoder: AutoencoderKL, pictures: Pictures, sizes: Sizes, folder: Path, *, seed: int
) -> float:
    """Train the four classifiers on renders: a third plain, a third with noise, a third decoded from noisy latents."""

    def loss(generator: Generator) -> Tensor:
        images, labels, _ = pictures.draw(sizes.judge_batch, generator)
        plain, noisy, coded = images.chunk(3)
        noisy = noisy + 0.1 * torch.rand((), generator=generator) * torch.randn(noisy.shape, generator=generator)
        with torch.no_grad():
            latents = autoencoder.encode(coded * 2 - 1).latent_dist.mean
            strength = 0.25 * torch.rand((len(coded), 1, 1, 1), generator=generator) * latents.std()
            latents = latents + strength * torch.randn(latents.shape, generator=generator)
            coded = autoencoder.decode(latents).sample / 2 + 0.5
        logits = judge.logits(torch.cat([plain, noisy, coded]).clamp(0, 1))
        losses = [nn.functional.cross_entropy(logits[factor], labels[:, i]) for i, factor in enumerate(FACTORS)]
        return torch.stack(losses).sum()

    return fit(judge, loss, sizes.judge, folder, seed=seed, label="judge")
