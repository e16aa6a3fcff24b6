"""Outlines of shapes in polar form: the distance from the centre to the contour, by direction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .render import Polygon, corners

POLYGONS = ("square", "triangle", "star", "cross")
ANGLES = 144
_EDGE_POINTS = 200

Profile = NDArray[np.float64]


def directions(n: int = ANGLES) -> Profile:
    """Return n angles (n,) in radians, evenly spaced from 0."""
    return np.linspace(0, 2 * math.pi, n, endpoint=False)


def polygon_profile(points: Polygon, n: int = ANGLES) -> Profile:
    """Return the radii (n,) of a polygon's contour around the origin, which every edge must face."""
    closed = np.asarray([*points, points[0]], dtype=np.float64)
    steps = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)[None, :, None]
    edge = (closed[:-1, None] * (1 - steps) + closed[1:, None] * steps).reshape(-1, 2)
    turn = np.arctan2(edge[:, 1], edge[:, 0])
    order = np.argsort(turn)
    radii: Profile = np.interp(directions(n), turn[order], np.hypot(*edge.T)[order], period=2 * math.pi)
    return radii


def shape_profile(shape: str, n: int = ANGLES) -> Profile:
    """Return the radii (n,) of a shape's outer contour as the renderer draws it at radius 1; a ring's is a circle."""
    return polygon_profile(corners(shape), n) if shape in POLYGONS else np.ones(n)


def profile_points(profile: Profile, centre: tuple[float, float], radius: float, angle: float) -> Polygon:
    """Return the points of a contour with the given radii, scaled, turned and moved."""
    turns = directions(len(profile)) + angle
    x, y = profile * np.cos(turns) * radius + centre[0], profile * np.sin(turns) * radius + centre[1]
    return list(zip(x.tolist(), y.tolist(), strict=True))
