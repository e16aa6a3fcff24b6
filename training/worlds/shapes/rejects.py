"""Pictures for the judge's training that show no value of at least one factor.

The judge learns from them to answer ``none``. Each picture has four labels: the place of a value, the place after the
last one for ``none``, or ``UNSTATED`` where a person would hesitate, which no training counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from tqdm import tqdm

from ..pretrain.corpus import UNSTATED, Pictures
from .outlines import directions, profile_points, shape_profile
from .render import (
    BACKGROUNDS,
    COLOURS,
    LARGE,
    SIZE,
    Picture,
    Scene,
    paint,
    polygon_mask,
    random_placement,
    random_scene,
    render,
    shape_mask,
    shrink,
)
from .unknown_styles import textured
from .vocabulary import FACTORS, VALUES, VERDICTS

Labels = dict[str, int]
Rejected = tuple[Picture, Labels]
_APART = 75.0  # smallest distance of an unknown colour from every known one, of 255 for each of three channels


def reject_pictures(n: int, *, seed: int) -> Pictures:
    """Draw ``n`` pictures that lack a value of at least one factor; equal seeds give equal pictures."""
    rng = np.random.default_rng(seed)
    makers = [maker for maker, weight in _MAKERS for _ in range(weight)]
    made = [makers[int(rng.integers(len(makers)))](rng) for _ in tqdm(range(n), desc="rejects", disable=n < 5000)]
    images = np.ascontiguousarray(np.stack([picture for picture, _ in made]))
    labels = [[row[factor] for factor in FACTORS] for _, row in made]
    return Pictures(torch.from_numpy(images), torch.tensor(labels).reshape(-1, len(FACTORS)))


def _labels(scene: Scene, **instead: int) -> Labels:
    return {factor: VALUES[factor].index(value) for factor, value in asdict(scene).items()} | instead


def _none(factor: str) -> int:
    return len(VERDICTS[factor]) - 1


def _unknown_shape(rng: np.random.Generator) -> Rejected:
    scene, place = random_scene(rng), random_placement(rng)
    profile = _OUTLINES[int(rng.integers(len(_OUTLINES)))](rng)
    profile = profile / math.sqrt(np.mean(profile**2))
    points = profile_points(profile, place.centre, place.radius * 0.95, rng.uniform(0, 2 * math.pi))
    mask = polygon_mask(points, outlined=scene.style == "outlined")
    picture = paint(mask, scene.style, COLOURS[scene.colour], BACKGROUNDS[scene.background], rng)
    return picture, _labels(scene, shape=_none("shape"))


def _morph(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a contour half-way between those of two shapes."""
    names = [name for name in VALUES["shape"] if name != "ring"]
    one, two = rng.choice(names, 2, replace=False)
    share = rng.uniform(0.35, 0.65)
    return (1 - share) * shape_profile(one) + share * np.roll(shape_profile(two), int(rng.integers(144)))


def _blob(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a circle that waves of random phase deform by 10 to 25 % (root mean square)."""
    waves = rng.normal(size=4) / np.array([1, 1, 1.3, 1.6])
    turns = directions()[:, None] * np.arange(2, 6) + rng.uniform(0, 2 * math.pi, 4)
    wave = (waves * np.cos(turns)).sum(1)
    contour: NDArray[np.float64] = np.clip(1 + rng.uniform(0.10, 0.25) * wave / wave.std(), 0.25, 1.8)
    return contour


def _ellipse(rng: np.random.Generator) -> NDArray[np.float64]:
    return 1 / np.hypot(np.cos(directions()), np.sin(directions()) / rng.uniform(0.45, 0.74))


def _many_corners(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a regular polygon with five to seven corners."""
    part = 2 * math.pi / int(rng.integers(5, 8))
    return 1 / np.cos(directions() % part - part / 2)


def _irregular(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a contour through three to six random points, joined by chords in polar form."""
    n = int(rng.integers(3, 7))
    turns = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) * 2 * math.pi / n
    return np.interp(directions(), turns, rng.uniform(0.45, 1.3, n), period=2 * math.pi)


def _piece(rng: np.random.Generator) -> Rejected:
    """Return a shape of which a cut has removed a third or more."""
    scene, place = random_scene(rng), random_placement(rng)
    mask, turn = shape_mask(scene, place), rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:LARGE, 0:LARGE]
    along = (columns - place.centre[0]) * math.cos(turn) + (rows - place.centre[1]) * math.sin(turn)
    mask = mask * (along < place.radius * rng.uniform(-0.25, 0.15))
    picture = paint(mask, scene.style, COLOURS[scene.colour], BACKGROUNDS[scene.background], rng)
    return picture, _labels(scene, shape=_none("shape"))


def _unknown_colour(rng: np.random.Generator) -> Rejected:
    scene = random_scene(rng)
    background = BACKGROUNDS[scene.background]
    colour = _apart(rng, [*COLOURS.values(), background])
    picture = paint(shape_mask(scene, random_placement(rng)), scene.style, colour, background, rng)
    return picture, _labels(scene, colour=_none("colour"))


def _unknown_background(rng: np.random.Generator) -> Rejected:
    scene = random_scene(rng)
    background = _apart(rng, [*BACKGROUNDS.values(), COLOURS[scene.colour]])
    picture = paint(shape_mask(scene, random_placement(rng)), scene.style, COLOURS[scene.colour], background, rng)
    return picture, _labels(scene, background=_none("background"))


def _apart(rng: np.random.Generator, known: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Draw a colour that is far from the known ones."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(np.asarray(known) - colour, axis=1).min() >= _APART:
            return colour


def _unknown_style(rng: np.random.Generator) -> Rejected:
    scene = random_scene(rng)
    whole = Scene(scene.shape, scene.colour, scene.background, "plain")
    mask = shape_mask(whole, random_placement(rng))[..., None]
    fill = textured(np.asarray(COLOURS[scene.colour], dtype=np.float64), rng)
    picture = shrink(mask * fill + (1 - mask) * np.asarray(BACKGROUNDS[scene.background]))
    return picture, _labels(scene, style=_none("style"), colour=UNSTATED)


def _mixture(rng: np.random.Generator) -> Rejected:
    """Return the weighted mean of two scenes; a factor in which they differ has no value."""
    one, two = random_scene(rng), random_scene(rng)
    share = rng.uniform(0.35, 0.65)
    mixed = (1 - share) * render(one, rng).astype(np.float64) + share * render(two, rng).astype(np.float64)
    pairs = zip(_labels(one).items(), _labels(two).values(), strict=True)
    agreed = {factor: value if value == other else _none(factor) for (factor, value), other in pairs}
    # Two circles in different places are no circle, and two patterns of one style are seldom one pattern.
    return mixed.round().astype(np.uint8), agreed | {"shape": _none("shape"), "style": UNSTATED}


def _noise(rng: np.random.Generator) -> Rejected:
    """Return a scene under noise of half the range or more."""
    scene = random_scene(rng)
    noisy = render(scene, rng) / 255 + rng.uniform(0.5, 1.2) * rng.normal(size=(3, SIZE, SIZE))
    hidden = {factor: _none(factor) for factor in ("shape", "style")} | dict.fromkeys(
        ("colour", "background"), UNSTATED
    )
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8), hidden


def _blurred(rng: np.random.Generator) -> Rejected:
    """Return a scene under a Gaussian blur of 3 to 6 pixels, which leaves an edge 8 pixels wide or more."""
    scene = random_scene(rng)
    image = Image.fromarray(np.ascontiguousarray(render(scene, rng).transpose(1, 2, 0)))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(3, 6)))).transpose(2, 0, 1)
    return blurred, _labels(scene, shape=_none("shape"), style=_none("style"), colour=UNSTATED)


def _empty(rng: np.random.Generator) -> Rejected:
    """Return a picture without a shape: one colour, two halves, or a texture."""
    known = [*COLOURS.values(), *BACKGROUNDS.values()]
    base = np.asarray(known[int(rng.integers(len(known)))], dtype=np.float64)
    fill = textured(base, rng) if rng.random() < 0.7 else np.broadcast_to(base, (LARGE, LARGE, 3))
    labels = {factor: _none(factor) for factor in ("shape", "colour", "style")} | {"background": UNSTATED}
    return shrink(fill), labels


_OUTLINES = (_morph, _morph, _blob, _blob, _ellipse, _many_corners, _irregular)
_MAKERS: tuple[tuple[Callable[[np.random.Generator], Rejected], int], ...] = (
    (_unknown_shape, 8),
    (_piece, 2),
    (_unknown_colour, 2),
    (_unknown_background, 1),
    (_unknown_style, 2),
    (_mixture, 3),
    (_noise, 1),
    (_blurred, 1),
    (_empty, 1),
)
