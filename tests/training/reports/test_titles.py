"""What encoders are called: by the variant of their recipe, whatever the concept, or else by their method."""

from __future__ import annotations

import pytest

from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.shapes_variants import SHIPPED
from robust_encoders.training.recipes.variants import variant_of
from robust_encoders.training.reports.titles import ENCODERS, encoder_title


@pytest.mark.parametrize("concept", SHIPPED)
def test_a_shipped_encoder_is_called_what_its_recipe_makes(concept: str) -> None:
    called = [
        encoder_title(Evaluation("advunlearn", concept, (), subject={"recipe": {"name": f"shapes/{concept}{variant}"}}))
        for variant in ("", f"-{SHIPPED[concept]}", "-hardened", "-advunlearn", "-strict")
    ]
    assert called[0] == called[1]
    assert called[2:] == ["AdvUnlearn, hardened", "AdvUnlearn", "AdvUnlearn, strict"]


def test_every_variant_of_a_recipe_has_a_title_of_its_own() -> None:
    variants = {variant_of(name, "circle") for name in RECIPES if name.startswith("shapes/circle")}
    assert variants - ENCODERS.keys() == set()
    assert len({ENCODERS[variant] for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("label", "recipe", "title"),
    [
        ("spm", "shapes/circle-spm-te", "SPM on the text encoder"),
        ("spm", "sd1/nudity-spm", "SPM"),
        ("uce", "sd1/nudity", "UCE"),
        ("advunlearn", "sd1/vangogh-hardened", "AdvUnlearn, hardened"),
        ("advunlearn", "sd2/Van Gogh-esd-unet", "ESD on the UNet"),
        ("advunlearn", "sd1/garbage_truck-spm", "SPM"),
        ("uce", "sd1/vangogh", "UCE"),
        ("base", "", "base"),
        ("somebody's", "", "somebody's"),
    ],
)
def test_an_encoder_goes_by_its_variant_or_by_its_method(label: str, recipe: str, title: str) -> None:
    names = {"nudity": "nudity", "ogh": "Van Gogh", "truck": "garbage truck"}
    concept = next((name for part, name in names.items() if part in recipe), "circle")
    assert encoder_title(Evaluation(label, concept, (), subject={"recipe": {"name": recipe}})) == title
