"""How well contour and filling fit those of each shape, filled and outlined, as the renderer draws it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .contours import ANGLES, Contour, Ground, find_contour, find_ground, values_at
from .render import LARGE, Placement, Scene, shape_mask, shrink
from .vocabulary import VALUES

_RADIUS = 41.0  # radius of the templates in the renderer's fourfold pixels: the middle of its range
_SHARES = torch.linspace(0.05, 0.90, 18)  # distances from the centre, as shares of the contour's, of the filling
_ALIKE = 3  # neighbouring directions over which the largest distance is averaged
_TIP = 0.94  # share of the largest radius above which a contour is at a corner
_SHAPES = VALUES["shape"]


@dataclass(frozen=True)
class Fits:
    """Fit of B pictures to each shape, filled (place 0) and outlined (place 1); 0 is a perfect fit.

    Args:
        contour: Root mean square distance (B, 6, 2) between contours, as a share of the radius.
        farthest: Largest distance (B, 6, 2) between contours, as a share of the radius.
        filling: Mean difference (B, 6, 2) of levels inside the contour, as a share of the foreground's level.
        blunt: Mean length (B, 6, 2) by which the contour falls short of the shape's corners, as a share of the radius;
            0 for round shapes.
    """

    contour: Tensor
    farthest: Tensor
    filling: Tensor
    blunt: Tensor


@dataclass(frozen=True)
class _Template:
    """Contour (96,) of radius 1, cosines (96,) of its slope, and levels (96, 18) of its filling."""

    radii: Tensor
    slope: Tensor
    levels: Tensor


def fit_templates(contour: Contour, ground: Ground) -> Fits:
    """Return how well pictures fit each shape, over all rotations."""
    radii = contour.radii / contour.size.clamp(min=0.1)[:, None]
    found = values_at(ground.distance, contour.centre, contour.radii[:, :, None] * _SHARES)
    soft = (found / contour.level.clamp(min=1e-6)[:, None, None]).clamp(0, 1)
    solid = found.ge(ground.least[:, None, None]).float()
    # Stripes and dots can be close to the background's colour, so a filled shape need only differ from it.
    fits = [
        [_fit(template, radii, levels) for template, levels in zip(_templates(shape), (solid, soft), strict=True)]
        for shape in _SHAPES
    ]
    return Fits(*(torch.stack([torch.stack([f[part] for f in row], 1) for row in fits], 1) for part in range(4)))


def _fit(template: _Template, radii: Tensor, levels: Tensor) -> tuple[Tensor, ...]:
    """Return how contours (B, 96) and levels (B, 96, 18) differ from a template at the best rotation; see ``Fits``."""
    turned = torch.stack([template.radii.roll(shift) for shift in range(ANGLES)])
    slopes = torch.stack([template.slope.roll(shift) for shift in range(ANGLES)])
    lengths = turned / slopes  # length of the contour in one direction, up to a constant
    away = (radii[:, None] - turned) * slopes
    spread = ((away.square() * lengths).sum(2) / lengths.sum(1)).sqrt()
    best = spread.argmin(1)
    chosen = away[torch.arange(len(radii)), best]
    near = torch.stack([chosen.roll(shift, 1) for shift in range(_ALIKE)]).mean(0)
    expected = torch.stack([template.levels.roll(shift, 0) for shift in range(ANGLES)])[best]
    tips = turned[best].ge(_TIP * template.radii.amax()).float()
    short = ((_widened(turned[best]) - _widened(radii)) * tips).sum(1) / tips.sum(1)
    is_round = template.radii.amin() > _TIP * template.radii.amax()
    blunt = torch.zeros_like(short) if is_round else short
    return spread.amin(1), near.abs().amax(1), (levels - expected).abs().mean((1, 2)), blunt


def _widened(radii: Tensor) -> Tensor:
    """Return the largest of three neighbouring radii (B, 96), since a sharp corner can lie between two directions."""
    return torch.stack([radii.roll(1, 1), radii, radii.roll(-1, 1)]).amax(0)


@cache
def _templates(shape: str) -> tuple[_Template, _Template]:
    """Return the templates of a shape, filled and outlined, measured on pictures that the renderer draws."""
    return _measured(shape, "plain"), _measured(shape, "outlined")


def _measured(shape: str, style: str) -> _Template:
    place = Placement((LARGE / 2, LARGE / 2), _RADIUS, 0.0)
    mask = shape_mask(Scene(shape, "red", "white", style), place)
    image = torch.from_numpy(shrink(mask[..., None].repeat(3, 2) * 255)).float()[None] / 255
    ground = find_ground(image)
    contour = find_contour(ground)
    radii = (contour.radii / contour.size[:, None])[0]
    change = (radii.roll(-1) - radii.roll(1)) / (4 * torch.pi / ANGLES)
    levels = values_at(ground.distance, contour.centre, contour.radii[:, :, None] * _SHARES)[0]
    return _Template(radii, radii / torch.hypot(radii, change), (levels / contour.level).clamp(0, 1))
