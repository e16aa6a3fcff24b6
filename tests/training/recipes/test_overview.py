"""Every recipe is in the overview, and none that is not."""

from __future__ import annotations

from robust_encoders.training.recipes.overview import SHIPPED, overview
from robust_encoders.training.recipes.registry import RECIPES


def names_in(text: str) -> set[str]:
    """Return the names that an overview without line breaks inside entries stands for."""
    found, bases = set(), ""
    for line in text.splitlines():
        if not line.startswith(" "):
            bases = line.removesuffix(":")
            continue
        concepts, methods = line.split(": ")
        for base in bases.split(", "):
            for concept in concepts.strip().split(", "):
                endings = ["" if method == SHIPPED else f"-{method}" for method in methods.split(", ")]
                found |= {f"{base}/{concept}{ending}" for ending in endings}
    return found


def test_concepts_with_the_same_methods_share_a_line_and_so_do_bases() -> None:
    names = [f"{base}/{end}" for base in ("sd1", "sd2") for end in ("a-uce", "b-uce", "c-esd-u", "a-esd")]
    names += ["shapes/circle", "shapes/circle-uce"]
    assert overview([*names, "sd1/b-esd", "sd2/b-esd"], width=80).splitlines() == [
        "sd1, sd2:",
        "  a, b: esd, uce",
        "  c: esd-u",
        "shapes:",
        "  circle: (shipped), uce",
    ]


def test_the_overview_of_all_recipes_names_exactly_them() -> None:
    assert names_in(overview(RECIPES, width=10_000)) == set(RECIPES)


def test_lines_are_no_longer_than_asked() -> None:
    assert max(map(len, overview(RECIPES, width=70).splitlines())) <= 70
