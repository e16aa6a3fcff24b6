"""Pictures that show no value of at least one label, from which the judge learns to answer ``none``.

A label is the place of a value, the place after the last one for ``none``, or ``UNSTATED`` where a person would
hesitate, which no training counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..pretrain.corpus import UNSTATED, Pictures
from .renders import Renders
from .scenes import Placement, colours_of, place
from .things import Things
from .vocabulary import COLOURS

_APART = 90.0  # smallest distance of an unknown background from every known one, in [0, 255] for each channel
_PIECES = 3  # a scrambled icon has this many pieces on a side
_TINY = 9  # side in pixels of an icon that is shown as a mosaic


@dataclass(frozen=True)
class Studio:
    """What pictures are made from.

    Args:
        things: Things of the world.
        renders: Rendered icons of the things and of others, in the order of ``Things.codes``.
        side: Side of the pictures in pixels.
        placement: Ranges of places, sizes and angles.
    """

    things: Things
    renders: Renders
    side: int
    placement: Placement

    def scenes(self, n: int, generator: Generator) -> Pictures:
        """Return n pictures of things of the world, with their labels; all values are equally likely."""
        labels = self.random_labels(n, len(self.things.things), generator)
        return Pictures(self.placed(self.icons(labels), _known(labels), generator), labels)

    def rejects(self, n: int, generator: Generator) -> Pictures:
        """Return n pictures that lack a value of at least one label."""
        makers = [maker for maker, weight in _MAKERS.items() for _ in range(weight)]
        counts = torch.bincount(torch.randint(len(makers), (n,), generator=generator), minlength=len(makers))
        made = [maker(self, int(count), generator) for maker, count in zip(makers, counts, strict=True)]
        order = torch.randperm(n, generator=generator)
        images, labels = torch.cat([m.images for m in made]), torch.cat([m.labels for m in made])
        return Pictures(images[order], labels[order])

    def unknown(self, n: int, generator: Generator) -> Pictures:
        """Return n pictures of icons that are no things of the world and that no training uses."""
        start = len(self.things.things) + len(self.things.strangers)
        return self.others(n, start, len(self.things.unknown), generator)

    def undrawn(self, n: int, generator: Generator) -> Pictures:
        """Return n pictures of things that only pretraining shows; none if there are no such things."""
        start = len(self.things.things) + len(self.things.others)
        number = len(self.things.strangers) - len(self.things.others)
        return self.others(n if number else 0, start, max(1, number), generator)

    def random_labels(self, n: int, icons: int, generator: Generator) -> Tensor:
        """Return random labels (n, 3) for the first ``icons`` icons; all values are equally likely."""
        sizes = (icons, len(self.renders.styles), len(COLOURS))
        return torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], dim=1)

    def icons(self, labels: Tensor, start: int = 0) -> Tensor:
        """Return the icons (n, 4, H, W) of labels (n, 3), counted from an icon on."""
        return self.renders.pictures[labels[:, 0] + start, labels[:, 1]]

    def placed(self, icons: Tensor, colours: Tensor, generator: Generator) -> Tensor:
        """Return pictures (n, 3, H, W) of icons on colours (n, 3), at random places."""
        return place(icons, colours, self.placement, self.side, generator)

    def others(self, n: int, start: int, number: int, generator: Generator) -> Pictures:
        """Return n pictures of ``number`` icons, counted from an icon on, that are no things of the world."""
        labels = self.random_labels(n, number, generator)
        images = self.placed(self.icons(labels, start), _known(labels), generator)
        return Pictures(images, self.relabelled(labels, thing=self.none("thing")))

    def none(self, label: str) -> int:
        """Return the place of ``none`` among the judge's answers."""
        return {"thing": len(self.things.things), "style": len(self.renders.styles), "background": len(COLOURS)}[label]

    def relabelled(self, labels: Tensor, **values: int) -> Tensor:
        """Return labels (n, 3) with other values for some of them."""
        changed = labels.clone()
        for i, label in enumerate(("thing", "style", "background")):
            changed[:, i] = values.get(label, changed[:, i])
        return changed


def _known(labels: Tensor) -> Tensor:
    return colours_of(list(COLOURS.values()))[labels[:, 2]]


def _other_icon(studio: Studio, n: int, generator: Generator) -> Pictures:
    return studio.others(n, len(studio.things.things), len(studio.things.strangers), generator)


def _scrambled(studio: Studio, n: int, generator: Generator) -> Pictures:
    """Return icons whose pieces lie in another order: no thing, and a style over which a person would hesitate."""
    labels = studio.random_labels(n, len(studio.things.things), generator)
    icons = studio.icons(labels)
    size = icons.shape[-1] // _PIECES
    whole = icons[:, :, : size * _PIECES, : size * _PIECES].reshape(n, 4, _PIECES, size, _PIECES, size)
    pieces = whole.permute(0, 2, 4, 1, 3, 5).reshape(n, _PIECES**2, 4, size, size)
    orders = torch.rand((n, _PIECES**2), generator=generator).argsort(1)
    mixed = pieces[torch.arange(n)[:, None], orders].reshape(n, _PIECES, _PIECES, 4, size, size)
    whole = mixed.permute(0, 3, 1, 4, 2, 5).reshape(n, 4, size * _PIECES, size * _PIECES)
    images = studio.placed(whole, _known(labels), generator)
    return Pictures(images, studio.relabelled(labels, thing=studio.none("thing"), style=UNSTATED))


def _unknown_background(studio: Studio, n: int, generator: Generator) -> Pictures:
    labels = studio.random_labels(n, len(studio.things.things), generator)
    images = studio.placed(studio.icons(labels), _apart(n, generator), generator)
    return Pictures(images, studio.relabelled(labels, background=studio.none("background")))


def _silhouette(studio: Studio, n: int, generator: Generator) -> Pictures:
    """Return icons in one colour: no style, and a thing over which a person would hesitate."""
    labels = studio.random_labels(n, len(studio.things.things), generator)
    opacity = studio.icons(labels)[:, 3:].float()
    colours = torch.rand((n, 3), generator=generator) * 160
    icons = torch.cat([opacity * colours[:, :, None, None] / 255, opacity], dim=1).round().byte()
    images = studio.placed(icons, _known(labels), generator)
    return Pictures(images, studio.relabelled(labels, thing=UNSTATED, style=studio.none("style")))


def _mosaic(studio: Studio, n: int, generator: Generator) -> Pictures:
    """Return icons in a few large fields: no style, and a thing over which a person would hesitate."""
    labels = studio.random_labels(n, len(studio.things.things), generator)
    icons = studio.icons(labels)
    small = torch.nn.functional.adaptive_avg_pool2d(icons.float(), _TINY)
    large = torch.nn.functional.interpolate(small, size=icons.shape[-1]).round().byte()
    images = studio.placed(large, _known(labels), generator)
    return Pictures(images, studio.relabelled(labels, thing=UNSTATED, style=studio.none("style")))


def _nothing(studio: Studio, n: int, generator: Generator) -> Pictures:
    labels = studio.random_labels(n, 1, generator)
    images = studio.placed(torch.zeros_like(studio.icons(labels)), _known(labels), generator)
    return Pictures(images, studio.relabelled(labels, thing=studio.none("thing"), style=studio.none("style")))


def _apart(n: int, generator: Generator) -> Tensor:
    """Return colours (n, 3) that are far from those of all backgrounds."""
    known, found = colours_of(list(COLOURS.values())), torch.empty((0, 3))
    while len(found) < n:
        drawn = torch.rand((2 * n, 3), generator=generator) * 255
        found = torch.cat([found, drawn[torch.cdist(drawn, known).amin(1) > _APART]])
    return found[:n]


_MAKERS: Mapping[Callable[[Studio, int, Generator], Pictures], int] = {
    _other_icon: 6,
    _scrambled: 2,
    _unknown_background: 1,
    _silhouette: 1,
    _mosaic: 1,
    _nothing: 1,
}
