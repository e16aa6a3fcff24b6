"""What fills a shape: its colours, and the waves of its brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .contours import Contour, Ground, turns
from .render import COLOURS, SIZE

_FREQUENCIES = torch.arange(0.14, 0.29, 0.02)  # cycles a pixel; the world's stripes and dots have 0.2
_TURNS = 24  # directions of the waves, over half a turn
_PURE = 0.3  # share of the pixels that must be at least as near to a colour as its distance says
_DARK, _LIGHT = 0.3, 0.25  # the renderer's stripes keep 0.3 of a colour, and its dots 0.25 of it with white


def inside(contour: Contour, ground: Ground, *, margin: float) -> Tensor:
    """Return which pixels (B, H, W) lie at least ``margin`` pixels inside the contour and touch no background."""
    rows, columns = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    x = columns - contour.centre[:, 0, None, None]
    y = rows - contour.centre[:, 1, None, None]
    place = (torch.atan2(y, x) / (2 * math.pi) * len(turns())).round().long() % len(turns())
    limit = contour.radii.gather(1, place.flatten(1)).view_as(x)
    bare = ground.distance.lt(ground.least[:, None, None]).float()
    beside_bare = torch.nn.functional.max_pool2d(bare[:, None], 3, 1, 1)[:, 0].bool()
    return (torch.hypot(x, y) <= limit - margin) & ~beside_bare


def colour_distances(images: Tensor, region: Tensor, level: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far regions are from each colour of the world.

    Args:
        images: Pictures (B, 3, H, W) in [0, 1].
        region: Pixels (B, H, W) of the shape.
        level: Foreground level (B,).
        distance: Distance of each pixel's colour (B, H, W) from the background's.

    Returns:
        The distance (B, colours), in the unit cube of colours, that 30 % of the region's pixels keep from the colour;
        and the share (B, colours) of the region that is neither near the colour nor between it and its dark stripes,
        its light dots or the background.
    """
    bold = region & distance.ge(0.5 * level[:, None, None])
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2)
    palette = torch.tensor(list(COLOURS.values())) / 255
    apart = (pixels[:, :, None] - palette).norm(dim=3)
    near = _quantile(apart, bold.flatten(1), _PURE)
    stripes = _to_segment(pixels, palette, _DARK * palette)
    dots = _to_segment(pixels, palette, _LIGHT * palette + 1 - _LIGHT)
    strange = torch.minimum(stripes, dots).gt(0.22)
    counts = bold.flatten(1).sum(1).clamp(min=1)
    return near, (strange & bold.flatten(1)[:, :, None]).sum(1) / counts[:, None]


def _to_segment(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return distances (B, N, colours) of pixels (B, N, 3) from the segments between two colours (colours, 3) each."""
    along = end - start
    share = ((pixels[:, :, None] - start) * along).sum(3) / along.square().sum(1)
    distances: Tensor = (pixels[:, :, None] - (start + share.clamp(0, 1)[..., None] * along)).norm(dim=3)
    return distances


def _quantile(values: Tensor, region: Tensor, share: float) -> Tensor:
    """Return the quantile (B, C) of values (B, N, C) over a region (B, N); infinite where the region is empty."""
    ordered = values.masked_fill(~region[:, :, None], math.inf).sort(1).values
    place = (region.sum(1) * share).long()
    return ordered.gather(1, place[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


@dataclass(frozen=True)
class Waves:
    """Waves of brightness in regions of B pictures.

    Args:
        contrast: Standard deviation of the brightness (B,), in [0, 1].
        first: Share of the brightness's variance (B,) that the strongest wave explains.
        across: The same of the strongest wave at more than 60 degrees to it (B,).
        skewness: Skewness of the brightness (B,); above 0 for light dots.
    """

    contrast: Tensor
    first: Tensor
    across: Tensor
    skewness: Tensor


def find_waves(images: Tensor, region: Tensor) -> Waves:
    """Return the waves of brightness in regions (B, H, W) of pictures (B, 3, H, W)."""
    weight = region.flatten(1).float()
    count = weight.sum(1, keepdim=True).clamp(min=1)
    grey = images.mean(1).flatten(1)
    grey = (grey - (grey * weight).sum(1, keepdim=True) / count) * weight
    energy = grey.square().sum(1).clamp(min=1e-9)
    rows, columns = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    angles = torch.arange(_TURNS) * (math.pi / _TURNS)
    along = angles.cos()[:, None] * columns.flatten() + angles.sin()[:, None] * rows.flatten()
    phase = 2 * math.pi * _FREQUENCIES[:, None, None] * along
    power = torch.stack([(grey @ part.flatten(0, 1).T).square() for part in (phase.cos(), phase.sin())]).sum(0)
    shares = 2 * power / (count * energy[:, None])
    by_turn = shares.view(-1, len(_FREQUENCIES), _TURNS).amax(1)
    best = by_turn.argmax(1)
    gap = (torch.arange(_TURNS) - best[:, None]) % _TURNS
    far = (gap > _TURNS / 3) & (gap < _TURNS * 2 / 3)
    deviation = (energy / count[:, 0]).sqrt()
    skewness = grey.pow(3).sum(1) / count[:, 0] / deviation.pow(3)
    return Waves(deviation, by_turn.amax(1), (by_turn * far).amax(1), skewness)
