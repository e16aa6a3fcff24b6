"""Icons in Iconify's format: aliases, hidden icons, ink, measures and turns."""

from __future__ import annotations

from typing import Any

import pytest

from robust_encoders.training.worlds.emoji.icon_sets import IconSet, plain_code
from robust_encoders.training.worlds.emoji.renders import rendered

HALF = '<path d="M0 0h8v4h-8z" fill="currentColor"/>'  # the upper half


def made(aliases: dict[str, Any] | None = None, **icon: Any) -> IconSet:
    data = {"icons": {"half": {"body": HALF, **icon}}, "aliases": aliases or {}, "width": 8, "height": 8}
    return IconSet(data, {"1": "half", "2": "other", "3": "far"})


def halves(icons: IconSet, code: str) -> tuple[bool, bool, bool, bool]:
    """Return whether the upper, lower, left and right half of an icon is covered."""
    opacity = rendered(icons.svg(code), 16)[3].float() / 255
    return tuple(bool(part.mean() > 0.9) for part in (opacity[:8], opacity[8:], opacity[:, :8], opacity[:, 8:]))  # type: ignore[return-value]


def test_an_icon_is_drawn_in_the_given_ink() -> None:
    pixels = rendered(made().svg("1", ink="#ff0000"), 16)
    assert pixels[:, 2, 2].tolist() == [255, 0, 0, 255]
    assert pixels[:, 14, 2].tolist() == [0, 0, 0, 0]
    assert "#000000" in made().svg("1")


def test_an_alias_shows_the_icon_that_it_names_with_all_turns_on_the_way() -> None:
    aliases = {"other": {"parent": "half", "vFlip": True}, "far": {"parent": "other", "rotate": 1}}
    icons = made(aliases)
    assert halves(icons, "1") == (True, False, False, False)
    assert halves(icons, "2") == (False, True, False, False)
    assert halves(icons, "3") == (False, False, True, False)  # the lower half, turned to the right


def test_a_mirrored_alias_is_mirrored_from_left_to_right() -> None:
    data = {"icons": {"left": {"body": '<path d="M0 0h4v8h-4z"/>'}}, "width": 8, "height": 8}
    mirrored = IconSet({**data, "aliases": {"right": {"parent": "left", "hFlip": True}}}, {"1": "right"})
    assert halves(mirrored, "1") == (False, False, False, True)


def test_hidden_and_missing_icons_are_in_no_set() -> None:
    assert "1" in made()
    assert "1" not in made(hidden=True)
    assert "2" not in made({"other": {"parent": "half", "hidden": True}})
    assert "2" not in made({"other": {"parent": "nowhere"}})
    assert "2" not in made({"other": {"parent": "far"}, "far": {"parent": "other"}})  # aliases that go in a circle
    assert "9" not in made()
    with pytest.raises(KeyError):
        made(hidden=True).svg("1")


def test_measures_come_from_the_alias_then_the_icon_then_the_set_then_the_format() -> None:
    assert 'viewBox="0.0 0.0 8.0 8.0"' in made().svg("1")
    assert 'viewBox="-2.0 0.0 12.0 8.0"' in made(left=-2, width=12).svg("1")
    bare = IconSet({"icons": {"half": {"body": HALF}}}, {"1": "half"})
    assert 'viewBox="0.0 0.0 16.0 16.0"' in bare.svg("1")


def test_a_wide_icon_keeps_its_shape_in_a_square() -> None:
    wide = IconSet({"icons": {"a": {"body": '<path d="M0 0h16v8h-16z"/>', "width": 16, "height": 8}}}, {"1": "a"})
    opacity = rendered(wide.svg("1"), 16)[3]
    assert opacity.shape == (16, 16)
    assert (opacity > 0).sum() == 128
    assert bool((opacity[4:12] > 0).all())


def test_code_points_are_compared_without_the_one_that_asks_for_a_picture() -> None:
    assert plain_code("2694-FE0F") == "2694"
    assert plain_code("1F408-200D-2B1B") == "1f408-200d-2b1b"
