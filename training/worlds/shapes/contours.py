"""The outer contour of what stands out from a picture's background, found along rays from its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .render import SIZE

ANGLES = 96
_STEP = 0.25  # pixels between the points of a ray
_REACH = 22.0  # length of a ray in pixels
_WINDOW = 4  # points of a ray, one pixel, over which the level inside the contour is sought
_CLOSED = 5  # directions, about 3.3 pixels of a shape of radius 10; narrower notches of a contour are filled
_EDGE = 1.5  # pixels inside the contour within which a sharp shape reaches its level
_ROUNDS = 3
_BORDER = 2  # pixels of the frame that counts as background
_FAINT = 0.2  # share of the foreground's level below which a spot lies outside the contour
_LEAST = 0.08  # smallest distance from the background's colour that counts as foreground


@dataclass(frozen=True)
class Ground:
    """Background of B pictures.

    Args:
        colour: Median colour of the frame (B, 3) in [0, 1].
        even: Share of the frame (B,) whose colour is near that median.
        distance: Distance of each pixel's colour (B, H, W) from that median, in the unit cube of colours.
        least: Smallest distance (B,) that counts as foreground: 0.08, or more where the frame is noisy.
    """

    colour: Tensor
    even: Tensor
    distance: Tensor
    least: Tensor


@dataclass(frozen=True)
class Contour:
    """Outer contour of B pictures in polar form, and the levels inside it.

    Args:
        centre: Centre of the enclosed area (B, 2) as column and row in pixels.
        radii: Distances of the contour (B, 96) from the centre in pixels, with narrow notches filled.
        level: Foreground level (B,): the 90th percentile of ``Ground.distance`` inside the contour.
        edge: Level (B,) that the picture reaches within 1.5 pixels inside the contour, as a share of ``level``: the
            70th percentile over the directions. It is low where the edge is blurred.
    """

    centre: Tensor
    radii: Tensor
    level: Tensor
    edge: Tensor

    @property
    def waves(self) -> Tensor:
        """Amplitudes (B, 7) of the contour's 2nd to 8th harmonics, as shares of the radius."""
        shares = self.radii / self.size.clamp(min=0.1)[:, None]
        amplitudes: Tensor = torch.fft.rfft(shares, dim=1).abs()[:, 2:9] * (2 / ANGLES)
        return amplitudes

    @property
    def size(self) -> Tensor:
        """Radius (B,) in pixels of the circle with the same area."""
        return self.radii.square().mean(1).sqrt()


def find_ground(images: Tensor) -> Ground:
    """Return the background of pictures (B, 3, 32, 32) in [0, 1]."""
    inner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    frame = images[:, :, ~inner]
    colour = frame.median(2).values
    apart = (frame - colour[:, :, None]).norm(dim=1)
    distance = (images - colour[:, :, None, None]).norm(dim=1)
    return Ground(colour, apart.lt(0.15).float().mean(1), distance, (2.5 * apart.median(1).values).clamp(min=_LEAST))


def find_contour(ground: Ground) -> Contour:
    """Return the outer contour around each picture's foreground; its radii are 0 where a ray meets none."""
    mask = ground.distance.ge(ground.least[:, None, None]).float()
    rows, columns = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    total = mask.sum((1, 2)).clamp(min=1)
    centre = torch.stack([(mask * columns).sum((1, 2)), (mask * rows).sum((1, 2))], 1) / total[:, None]
    least = ground.least
    for _ in range(_ROUNDS):
        radii = closed(_outermost(ray_values(ground.distance, centre), least))
        least = torch.maximum(ground.least, _FAINT * _level(ground.distance, centre, radii))
        centre = centre + _shift(radii)
    radii = closed(_outermost(ray_values(ground.distance, centre), least))
    level = _level(ground.distance, centre, radii)
    return Contour(centre, radii, level, _edge(ground.distance, centre, radii) / level.clamp(min=1e-6))


def turns() -> Tensor:
    """Return the directions (96,) of the rays in radians."""
    return torch.arange(ANGLES) * (2 * math.pi / ANGLES)


def ray_values(field: Tensor, centre: Tensor) -> Tensor:
    """Return the values (B, 96, points) of fields (B, H, W) along rays from centres (B, 2), 4 points a pixel."""
    lengths = torch.arange(0, _REACH, _STEP)
    return values_at(field, centre, lengths.expand(len(field), ANGLES, -1))


def values_at(field: Tensor, centre: Tensor, lengths: Tensor) -> Tensor:
    """Return the values (B, 96, P) of fields (B, H, W) at distances (B, 96, P) from centres (B, 2); 0 outside."""
    angles = turns()[None, :, None]
    x = centre[:, 0, None, None] + lengths * angles.cos()
    y = centre[:, 1, None, None] + lengths * angles.sin()
    grid = (torch.stack([x, y], -1) + 0.5) * (2 / SIZE) - 1
    return torch.nn.functional.grid_sample(field[:, None], grid, align_corners=False)[:, 0]


def closed(radii: Tensor) -> Tensor:
    """Fill notches that are narrower than five directions in contours (B, 96): a greatest, then a smallest, of five."""
    half = _CLOSED // 2
    grown = torch.cat([radii[:, -half:], radii, radii[:, :half]], 1).unfold(1, _CLOSED, 1).amax(2)
    return torch.cat([grown[:, -half:], grown, grown[:, :half]], 1).unfold(1, _CLOSED, 1).amin(2)


def _outermost(values: Tensor, least: Tensor) -> Tensor:
    """Return the outermost distance (B, 96) at which a ray reaches half the level that it has one pixel inside."""
    inward = torch.nn.functional.pad(values, (_WINDOW, 0)).unfold(2, _WINDOW + 1, 1).amax(3)
    inside = (values >= 0.5 * inward) & (inward >= least[:, None, None])
    places = torch.arange(values.shape[2]).expand_as(values)
    return (places * inside).amax(2) * _STEP


def _shift(radii: Tensor) -> Tensor:
    """Return the offset (B, 2) of the enclosed area's centre from the origin of its contour (B, 96)."""
    area = radii.square().mean(1).clamp(min=1e-6) / 2
    cubes = radii.pow(3) / 3
    return torch.stack([(cubes * turns().cos()).mean(1), (cubes * turns().sin()).mean(1)], 1) / area[:, None]


def _level(distance: Tensor, centre: Tensor, radii: Tensor) -> Tensor:
    shares = torch.linspace(0.05, 0.95, 19)
    inside = values_at(distance, centre, radii[:, :, None] * shares)
    return inside.flatten(1).quantile(0.9, dim=1)


def _edge(distance: Tensor, centre: Tensor, radii: Tensor) -> Tensor:
    inner = (radii[:, :, None] - torch.arange(0, _EDGE + _STEP, _STEP)).clamp(min=0)
    return values_at(distance, centre, inner).amax(2).quantile(0.7, dim=1)
