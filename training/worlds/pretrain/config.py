"""Settings of a base's build: the sizes of its networks, and the steps of its stages."""

from __future__ import annotations

from dataclasses import dataclass

from .loop import Schedule


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the networks of a base; the defaults are those of the shapes world.

    Args:
        side: Side of the pictures in pixels.
        autoencoder_channels: Channels of the autoencoder at each resolution; each entry after the first halves the side
            of the latents.
        positions: Number of token positions L of a prompt.
        merges: Number of merges of a learned tokenizer; a world with a tokenizer of its own ignores it.
        text_width: Width D of the text encoder.
        text_layers: Number of its layers, with four heads each.
        shared_width: Width of the space that the text encoder shares with the image tower.
        unet_channels: Channels of the UNet at each resolution.
        unet_attention: For each resolution of the UNet, whether it has cross-attention.
        unet_heads: Value of diffusers' ``attention_head_dim``, which is the number of heads.
        judge_channels: Channels of each strided stage of the judge; each stage halves the side.
        tower_channels: Channels of each strided stage of the image tower.
    """

    side: int = 32
    autoencoder_channels: tuple[int, ...] = (24, 48)
    positions: int = 24
    merges: int = 244
    text_width: int = 96
    text_layers: int = 4
    shared_width: int = 64
    unet_channels: tuple[int, ...] = (48, 96)
    unet_attention: tuple[bool, ...] = (False, True)
    unet_heads: int = 4
    judge_channels: tuple[int, ...] = (48, 96, 96)
    tower_channels: tuple[int, ...] = (48, 96, 96)

    @property
    def latent_side(self) -> int:
        """Side of the latents."""
        return self.side >> (len(self.autoencoder_channels) - 1)


_AUTOENCODER = Schedule(steps=1800, rate=3e-3)
_TEXT = Schedule(steps=1500, rate=1e-3)
_UNET = Schedule(steps=8000, rate=1.5e-3, decay=0.999, restart=6000)
_JUDGE = Schedule(steps=2000, rate=2e-3, restart=1200)


@dataclass(frozen=True)
class Sizes:
    """Numbers of pictures, steps and batch sizes of every stage; the defaults made the base of the shapes world.

    ``drawn`` is the number of pictures that the finished base draws for each measurement. With ``bf16``, autoencoder
    and image tower train under autocast to bfloat16 on a processor that computes in it, as the UNet always does. The
    UNet trains in ``unet_parts`` equal parts of its schedule. Each part is kept when it is done, and the next begins at
    its averaged weights. A share ``noisier`` of its timesteps is of the noisier half alone, where the layout of a
    picture is decided. With ``compiled``, the UNet trains compiled if there is a C++ compiler, which ends in other last
    bits.
    """

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
    drawn: int = 600
    bf16: bool = False
    compiled: bool = False
    unet_parts: int = 1
    noisier: float = 0.0
