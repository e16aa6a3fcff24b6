"""A judge of the shapes world that learns nothing: it measures contours, colours and waves of brightness.

For every value it computes a *deviation*: the largest ratio of a measured quantity to its limit. A value fits with a
deviation of at most 1. The limits are constants of this file; they were set on renders, on pictures of the base and on
things that are no value of the world. None of these pictures was made by an attack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..deviations import scores
from .contours import Contour, Ground, find_contour, find_ground
from .outlines import POLYGONS
from .patterns import colour_distances, find_waves, inside
from .pictures import as_pictures
from .render import BACKGROUNDS
from .templates import Fits, fit_templates
from .vocabulary import FACTORS, VALUES, VERDICTS

_VERSION = "1"  # changes with every limit below
# Limits, each with its quantity.
# By shape, as shares of the radius: the root mean square distance from the shape's own contour, the largest distance
# from it, and the mean length by which the contour falls short of the shape's corners.
_CONTOURS = {
    "circle": (0.06, 0.15, math.inf),
    "square": (0.09, 0.20, 0.045),
    "triangle": (0.11, 0.25, 0.06),
    "star": (0.10, 0.25, 0.15),
    "cross": (0.075, 0.18, 0.08),
    "ring": (0.06, 0.15, math.inf),
}
_FLAT = (0.045, 0.021)  # amplitudes of the harmonics 3 and 4, and 5 to 8, of a round contour, as shares of the radius
_EDGE = 0.6  # level within 1.5 pixels inside the contour, as a share of the foreground's
_FILLING = 0.28  # mean difference of levels from the shape's own filling, as a share of the foreground's level
_SMALLEST = 4.5  # radius in pixels
_COLOUR = 0.22  # distance of colours in the unit cube
_STRANGE = 0.35  # share of a shape in other colours
_BACKGROUND = 0.16  # distance of colours in the unit cube
_UNEVEN = 0.3  # share of the frame in other colours
_CALM = 0.065  # standard deviation of brightness in a plain shape
_STRIPES = 0.5  # share of the variance that the strongest wave leaves
_DOTS = 0.60  # share of the variance that the strongest wave and one across it leave
_BALANCE = 0.3  # ratio of the wave across to the strongest one: below it for stripes, above it for dots
_LIGHT = 0.3  # skewness of brightness in a dotted shape, which is above 0 for light dots
_ENOUGH = 12  # pixels of a shape on which its waves can be measured
_LOOSE = 2.0  # factor of the limits of contours where the filling alone is in question
_MARGIN = 1.0  # pixels between the contour and the pixels whose colour counts
_BATCH = 100


class GeometryJudge:
    """Judge of shape, colour, background and style by geometry and pixels, with no weights.

    Scores of deviations are those of ``worlds.deviations``: at least 0.5 exactly where a value fits and no other value
    fits better.
    """

    name: ClassVar[str] = "shapes-geometry"
    values: ClassVar[Mapping[str, tuple[str, ...]]] = VERDICTS

    def __init__(self) -> None:
        self.version = _VERSION

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return scores (B, values and none) in [0, 1], by factor, for pictures (B, 3, 32, 32) in [0, 1].

        Raises:
            ValueError: If the pictures have another size, or values outside [0, 1].
        """
        checked = as_pictures(images)
        parts = [deviations(part) for part in torch.split(checked, _BATCH)]
        return {factor: scores(torch.cat([part[factor] for part in parts])) for factor in FACTORS}

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Return B values or ``none``, by factor, for pictures (B, 3, 32, 32) in [0, 1]."""
        found = self.probabilities(images)
        return {factor: [VERDICTS[factor][int(i)] for i in found[factor].argmax(1)] for factor in FACTORS}


def deviations(images: Tensor) -> dict[str, Tensor]:
    """Return the deviations (B, values), by factor, of pictures (B, 3, 32, 32) in [0, 1]."""
    ground = find_ground(images)
    contour = find_contour(ground)
    fits = fit_templates(contour, ground)
    region = inside(contour, ground, margin=_MARGIN)
    near, strange = colour_distances(images, region, contour.level, ground.distance)
    bare = (contour.level < ground.least)[:, None]
    whole, roughly = (
        torch.stack([_filled_as(fits, place, contour, loose) for place in (0, 1)], 2) for loose in (1.0, _LOOSE)
    )
    return {
        "shape": torch.maximum(whole.amin(2), _hidden(contour, ground)[:, None]).masked_fill(bare, torch.inf),
        "colour": torch.maximum(near / _COLOUR, strange / _STRANGE).masked_fill(bare, torch.inf),
        "background": _backgrounds(ground),
        "style": _styles(images, region, roughly).masked_fill(bare, torch.inf),
    }


def _hidden(contour: Contour, ground: Ground) -> Tensor:
    """Return the deviation (B,) from a sharp shape that is large enough and stands on an even ground."""
    small = _SMALLEST / contour.size.clamp(min=0.1)
    return torch.stack([small, _EDGE / contour.edge.clamp(min=1e-6), (1 - ground.even) / _UNEVEN]).amax(0)


def _filled_as(fits: Fits, place: int, contour: Contour, loose: float) -> Tensor:
    """Return the deviations (B, shapes) of contour and filling, for filled shapes (place 0) or outlined ones (1)."""
    limits = torch.tensor([_CONTOURS[shape] for shape in VALUES["shape"]])
    found = torch.stack([part[:, :, place] for part in (fits.contour, fits.farthest, fits.blunt)], 2) / limits
    flat = torch.maximum(contour.waves[:, 1:3].amax(1) / _FLAT[0], contour.waves[:, 3:].amax(1) / _FLAT[1])
    is_round = torch.tensor([shape not in POLYGONS for shape in VALUES["shape"]])
    rounded = torch.where(is_round, flat[:, None], 0.0)
    return torch.stack([found.amax(2) / loose, rounded / loose, fits.filling[:, :, place] / _FILLING]).amax(0)


def _backgrounds(ground: Ground) -> Tensor:
    palette = torch.tensor(list(BACKGROUNDS.values())) / 255
    apart = (ground.colour[:, None] - palette).norm(dim=2)
    return torch.maximum(apart / _BACKGROUND, ((1 - ground.even) / _UNEVEN)[:, None])


def _styles(images: Tensor, region: Tensor, roughly: Tensor) -> Tensor:
    """Return the deviations (B, 4) from plain, dotted, striped and outlined."""
    waves = find_waves(images, region)
    filled, outlined = roughly.amin(1).unbind(1)
    few = _ENOUGH / region.flatten(1).sum(1).clamp(min=1)
    busy = torch.maximum(_CALM / waves.contrast.clamp(min=1e-6), few)
    light = _LIGHT / waves.skewness.clamp(min=1e-6)
    balance = waves.across / waves.first.clamp(min=1e-6)
    found = {
        "plain": torch.stack([waves.contrast / _CALM, filled / outlined.clamp(min=1e-6), few]).amax(0),
        "dotted": torch.stack(
            [(1 - waves.first - waves.across) / _DOTS, _BALANCE / balance.clamp(min=1e-6), light, busy]
        ).amax(0),
        "striped": torch.stack([(1 - waves.first) / _STRIPES, balance / _BALANCE, busy]).amax(0),
        "outlined": torch.maximum(outlined, outlined / filled.clamp(min=1e-6)),
    }
    return torch.stack([found[value] for value in VALUES["style"]], 1)
