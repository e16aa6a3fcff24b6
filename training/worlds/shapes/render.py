"""The renderer, which draws a scene as a picture with random place, size, angle and shade of colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .vocabulary import FACTORS, VALUES

SIZE = 32
_SCALE = 4
LARGE = SIZE * _SCALE  # side of the picture that is drawn and then shrunk
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 25, 30),
    "green": (25, 150, 45),
    "blue": (30, 60, 215),
    "yellow": (245, 220, 20),
    "purple": (125, 25, 165),
    "orange": (250, 130, 10),
    "pink": (250, 130, 190),
    "cyan": (10, 205, 215),
}
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "brown": (100, 62, 28),
}
_STROKE = 2.2 * _SCALE
_STAR_INNER = 0.45
_CROSS_ARM = 0.34
_RING_HOLE = 0.5

Polygon = list[tuple[float, float]]
Picture = NDArray[np.uint8]
Colour = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """The content of a picture: the canonical value of each factor."""

    shape: str
    colour: str
    background: str
    style: str


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene; its four values are uniform and independent."""
    return Scene(**{factor: str(rng.choice(VALUES[factor])) for factor in FACTORS})


@dataclass(frozen=True)
class Placement:
    """Place of a shape in the picture that is fourfold as large: centre and radius in its pixels, angle in radians."""

    centre: tuple[float, float]
    radius: float
    angle: float


def random_placement(rng: np.random.Generator) -> Placement:
    """Draw the place of a shape: the centre within 3 pixels of the middle, the radius from 9 to 11.5 pixels."""
    centre = LARGE / 2 + rng.uniform(-3, 3, 2) * _SCALE
    radius = rng.uniform(9.0, 11.5) * _SCALE
    return Placement((float(centre[0]), float(centre[1])), radius, math.radians(rng.uniform(-12, 12)))


def render(scene: Scene, rng: np.random.Generator) -> Picture:
    """Draw ``scene`` as a picture (3, 32, 32), uint8, antialiased by fourfold supersampling."""
    mask = shape_mask(scene, random_placement(rng))
    return paint(mask, scene.style, COLOURS[scene.colour], BACKGROUNDS[scene.background], rng)


def paint(
    mask: NDArray[np.float64], style: str, colour: Colour, background: Colour, rng: np.random.Generator
) -> Picture:
    """Fill a mask in a style, and return the picture (3, 32, 32), uint8; both colours are shifted a little at random.

    Args:
        mask: Share of each pixel (128, 128) that the shape covers, in [0, 1].
        style: Style of the filling. An outline is a matter of the mask, and has a plain filling.
        colour: Colour of the shape as red, green and blue in [0, 255].
        background: Colour of the background as red, green and blue in [0, 255].
        rng: Generator of shifts and of the pattern's phase.
    """
    fill = _fill(style, _jitter(colour, rng), rng)
    return shrink(mask[..., None] * fill + (1 - mask[..., None]) * _jitter(background, rng))


def shrink(large: NDArray[np.float64]) -> Picture:
    """Return a picture (3, 32, 32), uint8, of one (128, 128, 3) in [0, 255], by the mean of blocks of 4 x 4 pixels."""
    small = large.reshape(SIZE, _SCALE, SIZE, _SCALE, 3).mean((1, 3))
    picture: Picture = small.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return picture


def _jitter(colour: Colour, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.clip(np.asarray(colour) + rng.uniform(-10, 10, 3), 0, 255)


def corners(shape: str, radius: float = 1.0, angle: float = 0.0) -> Polygon:
    """Return the corners of a polygonal shape around the origin."""
    if shape == "cross":
        arm = _CROSS_ARM
        corner = [(arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm)]
        points = corner + [(-x, -y) for x, y in corner]
    elif shape == "star":
        radii = (1.12, 1.12 * _STAR_INNER)
        turns = [(radii[i % 2], math.pi * (i / 5 - 0.5)) for i in range(10)]
        points = [(r * math.cos(a), r * math.sin(a)) for r, a in turns]
    elif shape == "triangle":
        points = [(1.1 * math.cos(a), 1.1 * math.sin(a)) for a in (math.pi * (2 * i / 3 - 0.5) for i in range(3))]
    else:
        points = [(0.85, 0.85), (-0.85, 0.85), (-0.85, -0.85), (0.85, -0.85)]
    c, s = math.cos(angle) * radius, math.sin(angle) * radius
    return [(x * c - y * s, x * s + y * c) for x, y in points]


def shape_mask(scene: Scene, place: Placement) -> NDArray[np.float64]:
    """Return the share of each pixel (128, 128) that a scene's shape covers, in [0, 1]."""
    if scene.shape in ("circle", "ring"):
        image = Image.new("L", (LARGE, LARGE))
        _draw_round(ImageDraw.Draw(image), scene, place.centre, place.radius)
        return np.asarray(image, dtype=np.float64) / 255
    points = [(place.centre[0] + x, place.centre[1] + y) for x, y in corners(scene.shape, place.radius, place.angle)]
    return polygon_mask(points, outlined=scene.style == "outlined")


def polygon_mask(points: Polygon, *, outlined: bool) -> NDArray[np.float64]:
    """Return the share of each pixel (128, 128) that a polygon or its outline covers, in [0, 1]."""
    image = Image.new("L", (LARGE, LARGE))
    draw = ImageDraw.Draw(image)
    if outlined:
        draw.line([*points, points[0], points[1]], fill=255, width=round(_STROKE), joint="curve")
    else:
        draw.polygon(points, fill=255)
    return np.asarray(image, dtype=np.float64) / 255


def _draw_round(draw: ImageDraw.ImageDraw, scene: Scene, centre: tuple[float, float], radius: float) -> None:
    def box(r: float) -> tuple[float, float, float, float]:
        return centre[0] - r, centre[1] - r, centre[0] + r, centre[1] + r

    radii = [radius, radius * _RING_HOLE] if scene.shape == "ring" else [radius]
    if scene.style == "outlined":
        for r in radii:
            draw.ellipse(box(r), outline=255, width=round(_STROKE))
    else:
        for r, value in zip(radii, (255, 0)[: len(radii)], strict=True):
            draw.ellipse(box(r), fill=value)


def _fill(style: str, colour: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the colours (H, W, 3) inside the shape: one colour, light dots on it, or dark stripes across it."""
    rows, columns = np.mgrid[0:LARGE, 0:LARGE] / _SCALE
    phase = rng.uniform(0, 6, 2)
    if style == "striped":
        weight, other = ((rows + columns) / math.sqrt(2) + phase[0]) % 5 < 2.2, 0.3 * colour
    elif style == "dotted":
        distance = np.hypot((rows + phase[0]) % 5 - 2.5, (columns + phase[1]) % 5 - 2.5)
        weight, other = distance < 1.35, 0.25 * colour + 0.75 * 255
    else:
        weight, other = np.zeros_like(rows, dtype=bool), colour
    return np.where(weight[..., None], other, colour)
