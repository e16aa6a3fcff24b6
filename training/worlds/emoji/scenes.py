"""Pictures of the world: an icon on a background, at a random place and size, turned and mirrored at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from .vocabulary import Colour

_CHUNK = 64
_FINER = 2  # a scene is drawn this many times as large, and then shrunk


@dataclass(frozen=True)
class Placement:
    """How differently things are placed.

    Args:
        smallest: Smallest side of an icon, as a share of the picture's.
        largest: Largest side of an icon, as a share of the picture's.
        turn: Largest angle in degrees, to both sides.
        mirrored: Share of the pictures that are mirrored.
        shade: Largest change of each channel of the background's colour, in [0, 255].
    """

    smallest: float = 0.78
    largest: float = 0.94
    turn: float = 10.0
    mirrored: float = 0.5
    shade: float = 8.0


def place(icons: Tensor, colours: Tensor, placement: Placement, side: int, generator: Generator) -> Tensor:
    """Return pictures (N, 3, side, side), uint8; equal generators give equal pictures.

    The middle of an icon moves as far as the icon stays inside the picture.

    Args:
        icons: Icons (N, 4, H, W), uint8, with colours multiplied by the opacity.
        colours: Colours (N, 3) of the backgrounds, in [0, 255].
        placement: Ranges of the random choices.
        side: Side of the pictures in pixels.
        generator: Generator of the random choices.
    """
    n = len(icons)
    draws = torch.rand((n, 5), generator=generator)
    shades = (2 * torch.rand((n, 3), generator=generator) - 1) * placement.shade
    ground = (colours + shades).clamp(0, 255)
    maps = _maps(draws, placement)
    parts = [
        _drawn(icons[start : start + _CHUNK], maps[start : start + _CHUNK], ground[start : start + _CHUNK], side)
        for start in range(0, n, _CHUNK)
    ]
    return torch.cat(parts) if parts else torch.empty((0, 3, side, side), dtype=torch.uint8)


def _maps(draws: Tensor, placement: Placement) -> Tensor:
    """Return affine maps (N, 2, 3) from places in the picture to places in the icon, both in [-1, 1]."""
    size = placement.smallest + (placement.largest - placement.smallest) * draws[:, 0]
    angle = math.radians(placement.turn) * (2 * draws[:, 1] - 1)
    shift = (2 * draws[:, 2:4] - 1) * (1 - size)[:, None]
    mirror = torch.where(draws[:, 4] < placement.mirrored, -1.0, 1.0)
    cosine, sine = angle.cos() / size, angle.sin() / size
    linear = torch.stack([torch.stack([mirror * cosine, mirror * sine], 1), torch.stack([-sine, cosine], 1)], 1)
    return torch.cat([linear, -(linear @ shift[:, :, None])], dim=2)


def _drawn(icons: Tensor, maps: Tensor, ground: Tensor, side: int) -> Tensor:
    grid = nn.functional.affine_grid(maps, [len(icons), 4, _FINER * side, _FINER * side], align_corners=False)
    fine = nn.functional.grid_sample(icons.float(), grid, align_corners=False)
    coarse = nn.functional.avg_pool2d(fine, _FINER)
    picture = coarse[:, :3] + (1 - coarse[:, 3:] / 255) * ground[:, :, None, None]
    return picture.round().clamp(0, 255).byte()


def colours_of(values: Sequence[Colour]) -> Tensor:
    """Return colours (N, 3) as numbers."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 3)
