"""Sizes of the networks of the emoji base, and the steps that make it."""

from __future__ import annotations

from ..pretrain.config import NetworkConfig, Sizes
from ..pretrain.loop import Schedule
from .scenes import Placement

# Of 20,000 captions the longest has 22 tokens, with start and end, and 99 % have at most 15. The other positions
# are room for the tokens that an attack adds. CLIP's 77 positions would double the cost of every text encoding.
NETWORKS = NetworkConfig(
    side=64,
    autoencoder_channels=(24, 48, 64),
    positions=32,
    text_width=96,
    text_layers=4,
    shared_width=96,
    unet_channels=(48, 128, 160),
    unet_attention=(False, True, True),
    unet_heads=4,
    judge_channels=(32, 64, 128, 192),
    tower_channels=(32, 64, 128, 192),
)
SIZES = Sizes(
    pictures=40_000,
    autoencoder=Schedule(steps=5000, rate=2e-3),
    text=Schedule(steps=6000, rate=1e-3),
    unet=Schedule(steps=20_000, rate=1.5e-3, decay=0.999, matrix_rate=2e-3),
    judge=Schedule(steps=2500, rate=2e-3, restart=1800),
    autoencoder_batch=16,
    text_batch=128,
    unet_batch=32,
    judge_batch=48,
    rejects=30_000,
    unfinished=2_000,
    drawn=300,
    bf16=True,
    compiled=True,
    unet_parts=10,
    noisier=0.5,
)
# How the things are placed that the base draws. Autoencoder and text encoder see them placed as ``Placement`` has it.
PLACEMENT = Placement(smallest=0.92, largest=0.96, turn=2.0, mirrored=0.0)
# Share of the UNet's captions that state thing, style and background. What a caption leaves open is noise in the loss.
WHOLE = 0.7
