"""A judge of the emoji world that learns nothing: it looks for the icon that explains a picture best.

It compares a picture with small icons that ship with the base. For every value it computes a *deviation*: the ratio of
a measured quantity to its limit. A value fits with a deviation of at most 1.

For things and styles the quantity is the share u of the picture's difference from its ground that the best icon leaves
unexplained. A blurred picture fits as well, if it resembles one thing much more than all others: then the quantity is u
times the square of its ratio to the least share of any other thing. That is the ratio test of Lowe (2004), "Distinctive
image features from scale-invariant keypoints", section 7.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_encoders.artifact.embedded_bases import REINSTALL
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.errors import IntegrityError
from robust_encoders.hub.embedded import embedded_file

from ..deviations import scores
from .judge import answers, as_pictures
from .matching import SIDE, Pose, likely, normalised, on_ground, unexplained
from .renders import Renders
from .scenes import colours_of
from .settings import NETWORKS
from .things import Things, load_things
from .vocabulary import COLOURS, STYLE_NAMES

ICONS_NAME = "icons.safetensors"
_VERSION = "2"  # changes with every limit below
# Limits, each with its quantity. Those of things were set on 600 pictures of ``Things.others``, of which both together
# accept 3 %; ``Things.unknown`` and undrawn things only measure the judge.
_UNEXPLAINED = 0.14  # share of the picture's squared difference from its ground
_DISTINCT = 0.065  # that share, times its squared ratio to the next thing's
_LIKE = 0.5  # largest share of a picture that fits by the ratio
_BACKGROUND = 0.16  # distance of colours in the unit cube
_UNEVEN = 0.3  # share of the border in other colours
_BARE = 1e-3  # mean squared difference from the ground of a picture that shows nothing
_BORDER = 32  # the border is the side divided by this, at least one pixel
_CANDIDATES, _STEPS = 6, 3  # things, with their icons of all styles
_BATCH = 50


@dataclass(frozen=True)
class Ground:
    """The ground of B pictures.

    Args:
        colour: Median colour (B, 3) of the border.
        even: Share (B,) of the border that has this colour.
    """

    colour: Tensor
    even: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Ground:
        """Return the ground of pictures (B, 3, H, W) in [0, 1]."""
        width = max(1, images.shape[-1] // _BORDER)
        inner = torch.ones(images.shape[2:], dtype=torch.bool)
        inner[width:-width, width:-width] = False
        border = images[:, :, inner]  # (B, 3, pixels)
        colour = border.median(2).values
        return cls(colour, ((border - colour[:, :, None]).norm(dim=1) < _BACKGROUND).float().mean(1))


class IconJudge:
    """Judge of thing, style and background by comparison with icons, with no weights.

    Scores of deviations are those of ``worlds.deviations``. A style is that of the icon that fits, so it is ``none``
    where the thing is.

    Args:
        icons: Icons of the things in all styles.
        things: Things of the world, in the order of the icons.
        version: Version of the icons and limits, which results record.
        side: Side of the pictures in pixels.

    Raises:
        IntegrityError: If the icons are not those of the things.
    """

    name: ClassVar[str] = "emoji-icons"

    def __init__(self, icons: Renders, things: Things, version: str, side: int = NETWORKS.side) -> None:
        wanted = tuple(thing.code for thing in things.things)
        if (icons.codes, icons.styles) != (wanted, STYLE_NAMES):
            raise IntegrityError(
                f"expected icons of {len(wanted)} things in the styles {', '.join(STYLE_NAMES)}, found "
                f"{len(icons.codes)} icons of other things or styles; {REINSTALL}, or build your own base "
                "again by `robust-encoders emoji build --out FOLDER`"
            )
        self.icons = icons.pictures.flatten(0, 1).float() / 255
        self.version = version
        self.side = side
        self.values: Mapping[str, tuple[str, ...]] = answers(things)

    @cached_property
    def _banks(self) -> list[_Bank]:
        """All icons on each background of the world."""
        return [_Bank.of(self.icons, colour) for colour in _palette()]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return scores (B, values and none) in [0, 1], by label, for pictures (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: If the pictures have another size, or values outside [0, 1].
        """
        checked = as_pictures(images, self.side)
        parts = [self.deviations(part) for part in torch.split(checked, _BATCH)]
        return {label: scores(torch.cat([part[label] for part in parts])) for label in self.values}

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Return B values or ``none``, by label, for pictures (B, 3, H, W) in [0, 1]."""
        found = self.probabilities(images)
        return {label: [names[int(i)] for i in found[label].argmax(1)] for label, names in self.values.items()}

    def deviations(self, images: Tensor) -> dict[str, Tensor]:
        """Return the deviations (B, values), by label, of pictures (B, 3, H, W) in [0, 1]."""
        ground = Ground.of(images)
        apart = torch.cdist(ground.colour, _palette())  # (B, backgrounds)
        left = self._unexplained(images, ground.colour, apart)
        by_name = icon_deviations(left.reshape(len(images), -1, len(STYLE_NAMES)))  # (B, things, styles)
        uneven = ((1 - ground.even) / _UNEVEN)[:, None]
        return {
            "thing": by_name.amin(2),
            "style": by_name.amin(1),
            "background": torch.maximum(apart / _BACKGROUND, uneven),
        }

    def _unexplained(self, images: Tensor, ground: Tensor, apart: Tensor) -> Tensor:
        """Return the share (B, icons) that each icon leaves unexplained; infinite for those that are far off.

        Args:
            images: Pictures (B, 3, H, W).
            ground: Colours (B, 3) of the ground.
            apart: Distances (B, backgrounds) of these colours from the backgrounds of the world.
        """
        difference = _resized(images) - ground[:, :, None, None]
        found = torch.full((len(images), len(self.icons)), torch.inf)
        least, nearest = apart.min(1)
        known = least <= _BACKGROUND
        groups = [(bank, (known & (nearest == i)).nonzero()[:, 0]) for i, bank in enumerate(self._banks)]
        # The middle of an icon depends on the colour that it lies on, so another ground needs a bank of its own.
        groups += [(_Bank.of(self.icons, ground[i]), i[None]) for i in (~known).nonzero()[:, 0]]
        for bank, places in groups:
            if len(places):
                candidates = likely(difference[places], bank.vectors, bank.poses, _CANDIDATES, len(STYLE_NAMES))
                left = unexplained(difference[places], ground[places], self.icons, candidates, _STEPS)
                found[places] = found[places].scatter(1, candidates.icons, left)
        bare = difference.square().mean((1, 2, 3)) < _BARE
        return found.masked_fill(bare[:, None], torch.inf)


def icon_deviations(left: Tensor) -> Tensor:
    """Return the deviations (B, things, styles) of icons: the lower of those by their shares and by their ratios.

    Args:
        left: Shares (B, things, styles) that icons leave unexplained; infinite for icons that are far off.
    """
    by_ratio = torch.maximum(distinct(left) / _DISTINCT, left / _LIKE)
    return torch.minimum(left / _UNEXPLAINED, by_ratio)


def distinct(left: Tensor) -> Tensor:
    """Return shares that icons leave unexplained, times their squared ratios to the least share of any other thing.

    Args:
        left: Shares (B, things, styles); infinite for icons that are far off. No icon at all leaves 1.
    """
    least = left.amin(2)  # (B, things)
    nothing = torch.ones_like(least[:, :1])
    first, second = torch.cat([least, nothing, nothing], 1).topk(2, dim=1, largest=False).values.unbind(1)
    rival = torch.where(least == first[:, None], second[:, None], first[:, None])
    return left * (left / rival.clamp(min=1e-6)[:, :, None]).square()


@dataclass(frozen=True)
class _Bank:
    """Unit vectors (N, F) and poses of all icons on one ground."""

    vectors: Tensor
    poses: Pose

    @classmethod
    def of(cls, icons: Tensor, ground: Tensor) -> _Bank:
        """Return the bank of icons (N, 4, H, W) on a ground (3,)."""
        parts = on_ground(icons, ground)
        poses = Pose.of(parts)
        return cls(normalised(parts, poses), poses)


def load_icon_judge(path: Path | None = None, *, things: Things | None = None, side: int = NETWORKS.side) -> IconJudge:
    """Load the judge with the packaged icons, or with those at ``path``.

    Args:
        path: File of the icons; None takes the packaged one.
        things: Things of the icons; None takes the packaged list.
        side: Side of the pictures in pixels.

    Raises:
        AssetsMissingError: If the package was installed without the base.
        IntegrityError: If the icons are not those of the things.
    """
    return _load(path or embedded_file("emoji", ICONS_NAME), things or load_things(), side)


@cache
def _load(path: Path, things: Things, side: int) -> IconJudge:
    return IconJudge(Renders.load(path), things, f"{_VERSION}-{read_owned(path).sha256()[:12]}", side)


def _palette() -> Tensor:
    return colours_of(list(COLOURS.values())) / 255


def _resized(images: Tensor) -> Tensor:
    if images.shape[-1] >= SIDE:
        return nn.functional.adaptive_avg_pool2d(images, SIDE)
    return nn.functional.interpolate(images, size=SIDE, mode="bilinear", align_corners=False)
