"""The stages of the base's build: autoencoder, text encoder with its image tower, UNet. The judge has its own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...diffusion.backbone import has_bf16
from .corpus import Corpus, Pictures, random_labels
from .loop import Schedule, fit
from .networks import ImageTower
from .tokenizer import train_tokenizer

MAX_LENGTH = 24
WIDTH = 96
MERGES = 244
_AUTOENCODER = Schedule(steps=1800, rate=3e-3)
_TEXT = Schedule(steps=1500, rate=1e-3)
_UNET = Schedule(steps=8000, rate=1.5e-3, decay=0.999, restart=6000)
_JUDGE = Schedule(steps=2000, rate=2e-3, restart=1200)


@dataclass(frozen=True)
class Sizes:
    """Numbers of pictures, steps and batch sizes of every stage; the defaults made the packaged base."""

    pictures: int = 40_000
    autoencoder: Schedule = _AUTOENCODER
    text: Schedule = _TEXT
    unet: Schedule = _UNET
    judge: Schedule = _JUDGE
    autoencoder_batch: int = 24
    text_batch: int = 128
    unet_batch: int = 48
    judge_batch: int = 64
    rejects: int = 30_000
    unfinished: int = 2_000


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


def new_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder between pictures (3, 32, 32) and latents (4, 16, 16)."""
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
    """Return an untrained CLIP text encoder with four layers of width 96."""
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
    """Return an untrained UNet with cross-attention only at resolution 8x8, where it costs little."""
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
    """Return a tokenizer whose vocabulary is learned from captions of the corpus."""
    generator = Generator().manual_seed(seed)
    labels = random_labels(corpus, 20_000, generator)
    return train_tokenizer(corpus.captions(labels, generator), merges=MERGES, max_length=MAX_LENGTH)


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
        posterior = model.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        error: Tensor = model.decode(posterior.mean + posterior.std * noise).sample - images
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

    The loss is the symmetric cross-entropy of CLIP (Radford et al. 2021).
    """

    def loss(generator: Generator) -> Tensor:
        images, labels, _ = course.pictures.draw(course.sizes.text_batch, generator)
        noisy = (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        pooled = encoder(token_ids(tokenizer, course.corpus.captions(labels, generator))).pooler_output
        scale = tower.logit_scale.clamp(max=4.6).exp()
        logits = scale * tower.embed_images(noisy) @ tower.embed_pooled(pooled).T  # (B, B)
        truth = torch.arange(len(logits))
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2

    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    return fit(both, loss, course.sizes.text, course.folder, seed=course.seed, label="text encoder")


@torch.no_grad()
def encode_pictures(model: AutoencoderKL, pictures: Pictures) -> Tensor:
    """Return the scaled latents (N, 4, 16, 16) of all pictures, in half precision."""
    chunks = [
        model.encode(part.float() / 127.5 - 1).latent_dist.mean * model.config.scaling_factor
        for part in torch.split(pictures.images, 250)
    ]
    return torch.cat([chunk.half() for chunk in chunks])


def train_unet(
    unet: UNet2DConditionModel, condition: Callable[[list[str]], Tensor], latents: Tensor, course: Course
) -> float:
    """Train the UNet to predict velocity (Salimans and Ho 2022, section 4), and return its last mean loss.

    10 % of the captions are empty, which classifier-free guidance needs.

    Args:
        unet: UNet to train.
        condition: Function that returns the conditionings (B, L, D) of captions.
        latents: Scaled latents (N, 4, 16, 16) of the training pictures.
        course: Training data and folder of the stage.
    """
    scheduler = new_scheduler()

    def loss(generator: Generator) -> Tensor:
        indices = torch.randint(len(course.pictures), (course.sizes.unet_batch,), generator=generator)
        clean = latents[indices].float()
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        text = condition(course.corpus.captions(course.pictures.labels[indices], generator, empty=0.1))
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            predicted = unet(scheduler.add_noise(clean, noise, t), t, text).sample
        error: Tensor = predicted.float() - scheduler.get_velocity(clean, noise, t)
        return error.square().mean()

    return fit(unet, loss, course.sizes.unet, course.folder, seed=course.seed, label="unet")
