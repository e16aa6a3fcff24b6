"""Scenes: equal seeds give equal pictures, things stay inside, and line art stays legible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_emoji import icon_sets, tiny_things
from torch import Generator, Tensor

from robust_encoders.training.worlds.emoji.renders import Renders, cached_renders
from robust_encoders.training.worlds.emoji.scenes import Placement, colours_of, place
from robust_encoders.training.worlds.emoji.vocabulary import COLOURS

STILL = Placement(smallest=1.0, largest=1.0, turn=0.0, mirrored=0.0, shade=0.0)


def icon(side: int = 8) -> Tensor:
    """Return a red icon (1, 4, side, side) that covers its left half."""
    made = torch.zeros((1, 4, side, side), dtype=torch.uint8)
    made[:, [0, 3], :, : side // 2] = 255
    return made


def drawn(placement: Placement, seed: int = 0, n: int = 1, side: int = 8) -> Tensor:
    colours = torch.full((n, 3), 100.0)
    return place(icon().expand(n, -1, -1, -1), colours, placement, side, Generator().manual_seed(seed))


def test_an_icon_that_fills_the_picture_lies_where_it_was_drawn() -> None:
    picture = drawn(STILL)[0]
    assert picture[:, 4, 2].tolist() == [255, 0, 0]
    assert {*picture[:, :, 5:].flatten().tolist()} == {100}


def test_a_mirrored_icon_lies_on_the_other_side() -> None:
    mirrored = drawn(Placement(1.0, 1.0, 0.0, mirrored=1.0, shade=0.0))
    assert torch.equal(mirrored, drawn(STILL).flip(3))


def test_equal_seeds_give_equal_pictures_whatever_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    one = drawn(Placement(), seed=1, n=150)
    try:
        torch.set_num_threads(threads + 1)
        same = drawn(Placement(), seed=1, n=150)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, same)
    assert not torch.equal(one, drawn(Placement(), seed=2, n=150))
    assert len({tuple(picture.flatten().tolist()) for picture in one}) > 140


def test_a_turned_icon_stays_inside_the_picture() -> None:
    whole = torch.full((1, 4, 32, 32), 255, dtype=torch.uint8)
    small = Placement(smallest=0.4, largest=0.6, turn=10.0, shade=0.0)
    pictures = place(whole.expand(200, -1, -1, -1), torch.zeros((200, 3)), small, 32, Generator().manual_seed(0))
    shares = pictures.float().mean((1, 2, 3)) / 255
    assert 0.4**2 - 0.01 < float(shares.min()) < float(shares.max()) < 0.6**2 + 0.01


@pytest.mark.parametrize("side", [32, 48, 64])
def test_the_size_of_the_pictures_is_a_choice(side: int) -> None:
    assert drawn(Placement(), n=3, side=side).shape == (3, 3, side, side)


def test_no_pictures_are_an_empty_tensor() -> None:
    assert place(icon()[:0], torch.zeros((0, 3)), STILL, 8, Generator()).shape == (0, 3, 8, 8)


def test_black_ink_is_legible_on_every_background() -> None:
    # Contrast as the Web Content Accessibility Guidelines define it; they ask 3 for pictures.
    linear = colours_of(list(COLOURS.values())).div(255).pow(2.2)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((((luminance + 0.05) / 0.05) > 6).all())


def test_backgrounds_are_far_apart() -> None:
    colours = colours_of(list(COLOURS.values()))
    distances = torch.cdist(colours, colours) + 1000 * torch.eye(len(colours))
    assert float(distances.min()) > 70


def test_renders_are_made_once_and_again_for_other_icons(tmp_path: Path) -> None:
    codes, path = tiny_things().codes, tmp_path / "work" / "icons.safetensors"
    made = cached_renders(path, icon_sets(), codes, 12)
    assert made.pictures.shape == (len(codes), 4, 4, 12, 12)
    before = path.stat().st_mtime_ns
    again = cached_renders(path, icon_sets(), codes, 12)
    assert torch.equal(made.pictures, again.pictures)
    assert path.stat().st_mtime_ns == before
    assert cached_renders(path, icon_sets(), codes[:2], 12).codes == codes[:2]
    assert Renders.load(path).codes == codes[:2]
    assert cached_renders(path, icon_sets(), codes[:2], 16).pictures.shape[-1] == 16
