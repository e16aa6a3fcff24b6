"""Recipes for the emoji world: every method that has a recipe for the shapes world, with that recipe's settings.

None of these settings was chosen on this base. A concept keeps its anchor in all recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

from robust_encoders.concepts import Concept

from ..protocols import Method
from ..worlds.emoji.concept_prompts import PromptsAround
from ..worlds.emoji.concepts import CONCEPTS, emoji_concept
from ..worlds.emoji.retain import retain_prompts
from ..worlds.emoji.things import load_things
from . import (
    shapes_ablation,
    shapes_closed_forms,
    shapes_doco,
    shapes_esd_race,
    shapes_hirm,
    shapes_overlays,
    shapes_receler,
)
from .emoji_variants import SHIPPED
from .recipe import Recipe, with_retained
from .shapes import caption_advunlearn, caption_esd, caption_hardened, caption_strict, distortion
from .shapes_concepts import Settings
from .shapes_pooled import shapes_pooled, shapes_pooled_fast
from .shapes_s_grace import guarded
from .variants import part_of

ITERATIONS = 500
_LIKE = "striped"  # concept of the shapes world whose pooled settings are taken
# Variant to the function from retain prompts to settings.
_BY_RETAINED: Mapping[str, Settings] = {
    "hardened": caption_hardened,
    "advunlearn": lambda retained: caption_advunlearn(retained, ITERATIONS),
    "esd": lambda retained: caption_esd(retained, ITERATIONS),
    **{name: partial(distortion, name) for name in ("des", "sage")},
    **shapes_ablation.VARIANTS,
    **shapes_closed_forms.VARIANTS,
    **shapes_doco.VARIANTS,
    **shapes_esd_race.VARIANTS,
    **shapes_hirm.VARIANTS,
    **shapes_overlays.PROJECTIONS,
    **shapes_overlays.ADAPTERS,
    "pooled": lambda retained: with_retained(shapes_pooled(_LIKE).method, retained),
    "pooled-fast": lambda retained: with_retained(shapes_pooled_fast(_LIKE).method, retained),
    **shapes_receler.VARIANTS,
}


def emoji_recipe(name: str, variant: str) -> Recipe:
    """Return the recipe of a method for a concept of the emoji world.

    Args:
        name: Name of the concept.
        variant: Variant of the method, for example ``advunlearn``, as in the names of the recipes.

    Raises:
        ValueError: If the world has no such concept.
    """
    concept, retained = _erased(name), _retained(name)
    if variant == "s-grace":
        method: Method = guarded(retained, concept.prompts)
    elif variant == "strict":
        method = caption_strict(retained, _alternatives(name))
    else:
        method = _BY_RETAINED[variant](retained)
    return Recipe(name=f"emoji/{part_of(name)}-{variant}", concept=concept, method=method, base="emoji")


def emoji_shipped(name: str) -> Recipe:
    """Return the recipe of the shipped encoder of a concept, under the shipped name."""
    part = part_of(name)
    return replace(emoji_recipe(name, SHIPPED[part]), name=f"emoji/{part}")


def variants(name: str) -> tuple[str, ...]:
    """Return the variants of a concept; terms on outliers need a thing, because every caption of this world names one.

    Args:
        name: Name in ``CONCEPTS``.
    """
    strict = ("strict",) if CONCEPTS[name].label == "thing" else ()
    return (*_BY_RETAINED, *strict, "s-grace")


@cache
def _erased(name: str) -> Concept:
    return emoji_concept(name).concept(load_things(), anchored=True)


@cache
def _retained(name: str) -> tuple[str, ...]:
    return retain_prompts([name])


@cache
def _alternatives(name: str) -> tuple[str, ...]:
    """Return the words that training may use for other things than the concept and its border."""
    around = PromptsAround(emoji_concept(name))
    names = (around.things.by_name[other].words("any")[:-1] for other in around.others)
    return tuple(dict.fromkeys(word for words in names for word in words))


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **{f"emoji/{part_of(name)}": partial(emoji_shipped, name) for name in CONCEPTS if part_of(name) in SHIPPED},
    **{
        f"emoji/{part_of(name)}-{variant}": partial(emoji_recipe, name, variant)
        for name in CONCEPTS
        for variant in variants(name)
    },
}
