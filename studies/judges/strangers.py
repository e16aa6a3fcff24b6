"""Pictures that show no shape of the world, to measure judges with: none was used to train one.

The code and the parameters differ from those of ``training/worlds/shapes/rejects.py``, which trains the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from robust_encoders.training.worlds.shapes.render import (
    BACKGROUNDS,
    COLOURS,
    LARGE,
    SIZE,
    Picture,
    paint,
    random_scene,
    render,
)

Mask = NDArray[np.float64]
Maker = Callable[[np.random.Generator], Picture]
_STROKE = 9  # pixels of the large picture


def pictures(family: str, n: int, *, seed: int) -> Tensor:
    """Return n pictures (n, 3, 32, 32) in [0, 1] of a family; equal seeds give equal pictures."""
    rng = np.random.default_rng([seed, *family.encode()])
    return torch.from_numpy(np.stack([FAMILIES[family](rng) for _ in range(n)])).float() / 255


def _painted(outline: Callable[[np.random.Generator], Image.Image], rng: np.random.Generator) -> Picture:
    """Return an outline, moved and filled as a random scene's shape is."""
    scene, image = random_scene(rng), outline(rng)
    if scene.style == "outlined":
        inner = image.filter(ImageFilter.MinFilter(2 * _STROKE + 1))
        image = Image.fromarray(np.asarray(image) - np.asarray(inner))
    shift = rng.uniform(-10, 10, 2)
    image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, shift[0], 0, 1, shift[1]))
    mask = np.asarray(image, dtype=np.float64) / 255
    return paint(mask, scene.style, COLOURS[scene.colour], BACKGROUNDS[scene.background], rng)


def _polygon(n: int, rng: np.random.Generator) -> Image.Image:
    image, radius, turn = Image.new("L", (LARGE, LARGE)), rng.uniform(38, 46), rng.uniform(0, 2 * math.pi)
    turns = [turn + 2 * math.pi * i / n for i in range(n)]
    points = [(LARGE / 2 + radius * math.cos(a), LARGE / 2 + radius * math.sin(a)) for a in turns]
    ImageDraw.Draw(image).polygon(points, fill=255)
    return image


def _rounded(n: int, least: float, most: float, rng: np.random.Generator) -> Image.Image:
    """Return a triangle or a square whose corners are arcs: a smaller one, grown by the radius of the arcs."""
    radius, turn, corner = rng.uniform(40, 48), rng.uniform(0, 2 * math.pi), rng.uniform(least, most)
    inner = radius * (1 - corner)
    turns = [turn + 2 * math.pi * i / n for i in range(n)]
    points = [(LARGE / 2 + inner * math.cos(a), LARGE / 2 + inner * math.sin(a)) for a in turns]
    image = Image.new("L", (LARGE, LARGE))
    draw = ImageDraw.Draw(image)
    arc = radius * corner * (math.cos(math.pi / n) if n == 3 else 0.8)
    draw.polygon(points, fill=255)
    draw.line([*points, points[0]], fill=255, width=round(2 * arc))
    for x, y in points:
        draw.ellipse((x - arc, y - arc, x + arc, y + arc), fill=255)
    return image


def _ellipse(rng: np.random.Generator) -> Image.Image:
    image, long = Image.new("L", (LARGE, LARGE)), rng.uniform(38, 46)
    short = long * rng.uniform(0.55, 0.78)
    middle = LARGE / 2
    ImageDraw.Draw(image).ellipse((middle - long, middle - short, middle + long, middle + short), fill=255)
    return image.rotate(rng.uniform(0, 180), resample=Image.Resampling.BILINEAR)


def _half_circle(rng: np.random.Generator) -> Image.Image:
    image, radius, turn = Image.new("L", (LARGE, LARGE)), rng.uniform(38, 48), rng.uniform(0, 360)
    box = (LARGE / 2 - radius, LARGE / 2 - radius, LARGE / 2 + radius, LARGE / 2 + radius)
    ImageDraw.Draw(image).chord(box, turn, turn + rng.uniform(150, 210), fill=255)
    return image


def _blob(rng: np.random.Generator) -> Image.Image:
    """Return the union of three or four discs around the middle, with its notches smoothed."""
    image = Image.new("L", (LARGE, LARGE))
    draw, turn, n = ImageDraw.Draw(image), rng.uniform(0, 2 * math.pi), int(rng.integers(3, 5))
    for i in range(n):
        radius, away = rng.uniform(14, 24), rng.uniform(18, 28)
        x, y = (LARGE / 2 + away * f(turn + 2 * math.pi * i / n) for f in (math.cos, math.sin))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image.filter(ImageFilter.GaussianBlur(4)).point(lambda level: 255 if level > 110 else 0)


def _mixed(rng: np.random.Generator) -> Picture:
    """Return the weighted mean of pictures of two different shapes."""
    one, two = random_scene(rng), random_scene(rng)
    while two.shape == one.shape:
        two = random_scene(rng)
    share = rng.uniform(0.4, 0.6)
    mean = (1 - share) * render(one, rng).astype(np.float64) + share * render(two, rng).astype(np.float64)
    return mean.round().astype(np.uint8)


def _blurred(rng: np.random.Generator) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(render(random_scene(rng), rng).transpose(1, 2, 0)))
    return np.asarray(image.filter(ImageFilter.BoxBlur(rng.uniform(5, 8)))).transpose(2, 0, 1)


def _noise(rng: np.random.Generator) -> Picture:
    """Return uniform noise in blocks of 1, 2 or 4 pixels, in the colours of a scene's picture."""
    side = int(rng.choice([1, 2, 4]))
    source = render(random_scene(rng), rng).reshape(3, -1)
    chosen = source[:, rng.integers(0, source.shape[1], (SIZE // side) ** 2)].reshape(3, SIZE // side, -1)
    return chosen.repeat(side, 1).repeat(side, 2)


def _texture(rng: np.random.Generator) -> Picture:
    """Return a picture full of a check, of sectors or of a ramp, in two colours of the world."""
    known = np.asarray([*COLOURS.values(), *BACKGROUNDS.values()], dtype=np.float64)
    one, two = known[rng.choice(len(known), 2, replace=False)]
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2 + rng.uniform(-3, 3, (2, 1, 1))
    kind, side = int(rng.integers(3)), rng.uniform(4, 8)
    if kind == 0:
        weight = ((np.floor(rows / side) + np.floor(columns / side)) % 2).astype(np.float64)
    elif kind == 1:
        weight = (np.sin(np.arctan2(rows, columns) * int(rng.integers(3, 7))) > 0).astype(np.float64)
    else:
        weight = np.clip(0.5 + (rows + columns) / (5 * side), 0, 1)
    mixed: Picture = ((1 - weight[..., None]) * one + weight[..., None] * two).round().astype(np.uint8)
    return mixed.transpose(2, 0, 1)


FAMILIES: Mapping[str, Maker] = {
    "rounded triangle": partial(_painted, partial(_rounded, 3, 0.25, 0.5)),
    "rounded square": partial(_painted, partial(_rounded, 4, 0.35, 0.5)),
    "ellipse": partial(_painted, _ellipse),
    "blob": partial(_painted, _blob),
    "half circle": partial(_painted, _half_circle),
    **{f"{n} corners": partial(_painted, partial(_polygon, n)) for n in (5, 6, 7, 8)},
    "mixture": _mixed,
    "blur": _blurred,
    "noise": _noise,
    "texture": _texture,
}
