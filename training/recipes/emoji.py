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
from .closed_forms import NAMES as CLOSED_FORMS
from .emoji_variants import SHIPPED
from .recipe import Recipe, with_retained
from .shapes import caption_advunlearn, caption_esd, caption_hardened, caption_strict, distortion
from .shapes_ablation import ablated
from .shapes_closed_forms import embedded_settings
from .shapes_doco import NAMES as DOCO
from .shapes_doco import corrected
from .shapes_esd_race import attacked, attacked_in_training, negative_guidance
from .shapes_hirm import TARGETS, misdirected
from .shapes_overlays import SPM_NAMES, adapters, projection
from .shapes_pooled import shapes_pooled, shapes_pooled_fast
from .shapes_receler import small_erasers
from .shapes_s_grace import guarded
from .variants import part_of

ITERATIONS = 500
_RACE_ITERATIONS = 300  # of the ESD on the text encoder that RACE begins with
_LIKE = "striped"  # concept of the shapes world whose pooled settings are taken
# Variant to the function from retain prompts to settings.
_BY_RETAINED: Mapping[str, Callable[[tuple[str, ...]], Method]] = {
    "hardened": caption_hardened,
    "advunlearn": lambda retained: caption_advunlearn(retained, ITERATIONS),
    "esd": lambda retained: caption_esd(retained, ITERATIONS),
    **{name: partial(distortion, name) for name in ("des", "sage")},
    **{name: partial(ablated, name) for name in ("ablation", "ablation-te")},
    **{name: partial(embedded_settings, name) for name in CLOSED_FORMS},
    **{name: partial(corrected, component) for name, component in DOCO.items()},
    "esd-unet": negative_guidance,
    "advunlearn-unet": lambda retained: attacked_in_training(negative_guidance(retained)),
    "race": lambda retained: attacked(negative_guidance(retained)),
    "race-te": lambda retained: attacked(caption_esd(retained, _RACE_ITERATIONS)),
    **{name: partial(misdirected, target) for name, target in TARGETS.items()},
    **{name: partial(projection, name) for name in ("uce", "rece")},
    **{name: partial(adapters, where) for where, name in SPM_NAMES.items()},
    "pooled": lambda retained: with_retained(shapes_pooled(_LIKE).method, retained),
    "pooled-fast": lambda retained: with_retained(shapes_pooled_fast(_LIKE).method, retained),
    "receler": small_erasers,
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
