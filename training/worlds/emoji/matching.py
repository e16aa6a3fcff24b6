"""Matching of a picture with icons over place, size, angle and mirror, without anything learned.

All comparisons are made on differences from the ground. If an icon with opacity a and colours c, multiplied by a, lies
on a ground g, then the picture minus g is c - a g. Coordinates run from -1 to 1 over a picture or icon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIDE = 32  # side in pixels at which pictures and icons are compared
_COARSE = 16  # side of the normalised pictures of the first comparison
_REACH = 2.1  # half a side of a normalised picture, in root mean square radii of what it shows
_FAINT = 0.01  # squared difference from the ground below which a pixel counts as ground
_TURNS = (-8.0, 0.0, 8.0)  # angles of the first comparison in degrees
_STEP = 0.02  # difference by which the derivatives of the second comparison are taken
_LARGEST = 0.15  # largest change in one step of the log size, the angle in radians, and each coordinate
_DAMPING, _LESS, _MORE = 1e-2, 0.3, 10.0


@dataclass(frozen=True)
class Pose:
    """Place and size of what differs from the ground, for N pictures.

    Args:
        x: First coordinate of its middle.
        y: Second coordinate of its middle.
        radius: Root mean square distance from the middle.
    """

    x: Tensor
    y: Tensor
    radius: Tensor

    @classmethod
    def of(cls, difference: Tensor) -> Pose:
        """Return the pose of pictures (N, 3, H, W) minus their ground: the moments of the squared difference."""
        weight = (difference.square().sum(1) - _FAINT).clamp(min=0) + 1e-9
        steps = (torch.arange(difference.shape[-1]) + 0.5) / difference.shape[-1] * 2 - 1
        total = weight.sum((1, 2))
        x, y = (weight.sum(1) * steps).sum(1) / total, (weight.sum(2) * steps).sum(1) / total
        apart = (steps - x[:, None, None]).square() + (steps[:, None] - y[:, None, None]).square()
        return cls(x, y, ((weight * apart).sum((1, 2)) / total).sqrt())

    def __getitem__(self, places: Tensor) -> Pose:
        return Pose(self.x[places], self.y[places], self.radius[places])


@dataclass(frozen=True)
class Candidates:
    """Icons that a picture may show, C for each of B pictures, with their places in it.

    Args:
        icons: Indices of the icons (B, C).
        maps: Parameters (B, C, 4) of the map from the picture to the icon: logarithm of the size, angle in radians, and
            the two coordinates that the middle of the picture is mapped to.
        mirrors: 1, or -1 for a mirrored icon, (B, C).
    """

    icons: Tensor
    maps: Tensor
    mirrors: Tensor


def on_ground(icons: Tensor, ground: Tensor) -> Tensor:
    """Return icons (N, 4, H, W), as colours times opacity and opacity, on a ground (3,) or (N, 3), minus the ground."""
    return icons[:, :3] - icons[:, 3:] * ground.reshape(-1, 3, 1, 1)


def normalised(difference: Tensor, pose: Pose, *, turn: float = 0.0, mirror: float = 1.0) -> Tensor:
    """Return unit vectors (N, F) of differences from the ground (N, 3, H, W), moved to one place and size.

    Args:
        difference: Pictures or icons minus their ground.
        pose: Their poses.
        turn: Angle in degrees by which they are turned.
        mirror: -1 to mirror them.
    """
    ones = torch.ones_like(pose.radius)
    # The map leads from the result to the picture, so the result is the mirrored and then turned picture.
    linear = _turn(pose.radius * _REACH, ones * math.radians(turn), ones) * torch.tensor([mirror, 1.0])
    maps = torch.cat([linear, torch.stack([pose.x, pose.y], 1)[:, :, None]], 2)
    return nn.functional.normalize(_warped(difference, maps, _COARSE).flatten(1), dim=1)


def likely(difference: Tensor, bank: Tensor, poses: Pose, n: int, styles: int = 1) -> Candidates:
    """Return the icons of the n things with the highest correlation with each picture, at their places in it.

    Args:
        difference: Pictures (B, 3, H, W) minus their ground.
        bank: Unit vectors (N, F) of the icons on the same ground.
        poses: Poses of the icons.
        n: Largest number of things; there are C = n S candidates.
        styles: Number S of icons of each thing, which follow each other.
    """
    pose = Pose.of(difference)
    views = [(turn, mirror) for mirror in (1.0, -1.0) for turn in _TURNS]
    found = [normalised(difference, pose, turn=turn, mirror=mirror) @ bank.T for turn, mirror in views]
    best, view = torch.stack(found).max(0)  # (B, N)
    by_thing = best.reshape(len(best), -1, styles).amax(2)  # (B, things)
    things = by_thing.topk(min(n, by_thing.shape[1]), 1).indices
    icons = (things[:, :, None] * styles + torch.arange(styles)).flatten(1)
    turns, mirrors = torch.tensor(views)[view.gather(1, icons)].unbind(2)
    size, angle = poses[icons].radius / pose.radius[:, None], -turns * math.pi / 180
    linear = _turn(size, angle, mirrors)
    middle = torch.stack([pose.x, pose.y], 1)[:, None, :, None]
    place = torch.stack([poses[icons].x, poses[icons].y], 2) - (linear @ middle)[..., 0]
    return Candidates(icons, torch.cat([size.log()[..., None], angle[..., None], place], 2), mirrors)


def _turn(size: Tensor, angle: Tensor, mirror: Tensor) -> Tensor:
    """Return linear maps (..., 2, 2) that turn, resize, and then mirror."""
    cosine, sine = angle.cos() * size, angle.sin() * size
    return torch.stack([torch.stack([mirror * cosine, -mirror * sine], -1), torch.stack([sine, cosine], -1)], -2)


def _warped(pictures: Tensor, maps: Tensor, side: int) -> Tensor:
    grid = nn.functional.affine_grid(maps, [*pictures.shape[:2], side, side], align_corners=False)
    return nn.functional.grid_sample(pictures, grid, align_corners=False)


def unexplained(difference: Tensor, ground: Tensor, icons: Tensor, found: Candidates, steps: int) -> Tensor:
    """Return the share (B, C) of a picture's difference from the ground that each candidate leaves unexplained.

    The places of the candidates are first improved by Levenberg-Marquardt steps on the squared error, as in Lucas and
    Kanade, "An iterative image registration technique" (IJCAI 1981). A step that does not help is taken back.

    Args:
        difference: Pictures (B, 3, S, S) minus their ground, S = ``SIDE``.
        ground: Colours (B, 3) of the ground.
        icons: All icons (N, 4, H, W).
        found: Candidates.
        steps: Number of steps.
    """
    n = found.icons.shape[1]
    fit = _Fit(icons[found.icons.flatten()], ground.repeat_interleave(n, 0), found.mirrors.flatten())
    wanted = difference.repeat_interleave(n, 0).flatten(1)
    maps, drawn = found.maps.flatten(0, 1), fit.drawn(found.maps.flatten(0, 1))
    error, damping = (wanted - drawn).square().sum(1), torch.full((len(maps),), _DAMPING)
    for _ in range(steps):
        new = maps + fit.step(maps, drawn, wanted - drawn, damping)
        new_drawn = fit.drawn(new)
        new_error = (wanted - new_drawn).square().sum(1)
        better = new_error < error
        maps, drawn = torch.where(better[:, None], new, maps), torch.where(better[:, None], new_drawn, drawn)
        error = torch.minimum(error, new_error)
        damping = damping * torch.where(better, _LESS, _MORE)
    return (error / wanted.square().sum(1).clamp(min=1e-6)).reshape(-1, n)


@dataclass(frozen=True)
class _Fit:
    """Icons (M, 4, H, W) on grounds (M, 3), with mirrors (M,), to be drawn at places."""

    icons: Tensor
    grounds: Tensor
    mirrors: Tensor

    def drawn(self, maps: Tensor) -> Tensor:
        """Return the icons, drawn at places (M, 4), minus the ground, as vectors (M, F)."""
        linear = _turn(maps[:, 0].exp(), maps[:, 1], self.mirrors)
        whole = torch.cat([linear, maps[:, 2:, None]], 2)
        return on_ground(_warped(self.icons, whole, SIDE), self.grounds).flatten(1)

    def step(self, maps: Tensor, drawn: Tensor, wrong: Tensor, damping: Tensor) -> Tensor:
        """Return changes (M, 4) of the places; derivatives are differences."""
        shifts = torch.eye(4) * _STEP
        slopes = torch.stack([(self.drawn(maps + shift) - drawn) / _STEP for shift in shifts], 2)  # (M, F, 4)
        square = slopes.transpose(1, 2) @ slopes
        square = square + torch.diag_embed(square.diagonal(dim1=1, dim2=2) * damping[:, None] + 1e-6)
        change = torch.linalg.solve(square, slopes.transpose(1, 2) @ wrong[:, :, None])[:, :, 0]
        clamped: Tensor = change.clamp(-_LARGEST, _LARGEST)
        return clamped
