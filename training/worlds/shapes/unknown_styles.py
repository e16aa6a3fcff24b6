"""Fillings of a shape that are none of the known styles."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .render import LARGE, SIZE

Field = NDArray[np.float64]


def textured(colour: Field, rng: np.random.Generator) -> Field:
    """Return colours (128, 128, 3) in [0, 255]: a colour, varied by a check, a ramp, halves, waves or clouds."""
    kinds = (_check, _ramp, _halves, _rings, _clouds)
    weight = kinds[int(rng.integers(len(kinds)))](rng)[..., None]
    other = 0.3 * colour if rng.random() < 0.5 else 0.25 * colour + 0.75 * 255
    return (1 - weight) * colour + weight * other


def _grid() -> tuple[Field, Field]:
    rows, columns = np.mgrid[0:LARGE, 0:LARGE] * (SIZE / LARGE)
    return rows, columns


def _check(rng: np.random.Generator) -> Field:
    """Return a checkerboard with fields of 3 to 6 pixels."""
    (rows, columns), side, shift = _grid(), rng.uniform(3, 6), rng.uniform(0, 6, 2)
    field: Field = (np.floor((rows + shift[0]) / side) + np.floor((columns + shift[1]) / side)) % 2
    return field


def _along(rng: np.random.Generator) -> Field:
    rows, columns = _grid()
    turn = rng.uniform(0, 2 * math.pi)
    return (rows - SIZE / 2) * math.sin(turn) + (columns - SIZE / 2) * math.cos(turn)


def _ramp(rng: np.random.Generator) -> Field:
    """Return a ramp across 14 to 22 pixels."""
    return np.clip(0.5 + _along(rng) / rng.uniform(14, 22), 0, 1)


def _halves(rng: np.random.Generator) -> Field:
    return (_along(rng) > rng.uniform(-3, 3)).astype(np.float64)


def _rings(rng: np.random.Generator) -> Field:
    """Return concentric waves with a period of 4 to 7 pixels."""
    (rows, columns), centre = _grid(), SIZE / 2 + rng.uniform(-4, 4, 2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    field: Field = 0.5 + 0.5 * np.cos(distance * (2 * math.pi / rng.uniform(4, 7)))
    return field


def _clouds(rng: np.random.Generator) -> Field:
    """Return smooth noise: random waves with periods of 4 to 16 pixels."""
    rows, columns = _grid()
    waves, turns = rng.normal(size=(12, 2)), rng.uniform(0, 2 * math.pi, 12)
    steps = 2 * math.pi / rng.uniform(4, 16, 12)
    unit = waves / np.linalg.norm(waves, axis=1, keepdims=True)
    field = sum(
        np.cos(k * (u[0] * rows + u[1] * columns) + turn) for k, u, turn in zip(steps, unit, turns, strict=True)
    )
    return np.clip(0.5 + np.asarray(field) / 6, 0, 1)
