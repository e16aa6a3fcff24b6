"""Words of the emoji world that are chosen by hand: kinds of things, words of concepts, and keywords that are left out."""

from __future__ import annotations

from collections.abc import Mapping

# Keywords that say what a thing is. A caption may use one in place of the name, and then any thing of that kind fits.
KINDS: frozenset[str] = frozenset(
    "animal bird fish insect reptile mammal dinosaur pet flower plant tree fruit vegetable food dessert snack seafood "
    "drink beverage weapon vehicle boat tool tools clothing clothes shoe shoes bag instrument game toy furniture "
    "medicine building stationery container citrus berry meat".split()
)
# Words of the concepts that are groups of things, with the canonical names of the members.
CONCEPT_WORDS: Mapping[str, tuple[str, ...]] = {
    "alcohol": (
        "beer mug", "clinking beer mugs", "wine glass", "cocktail glass", "tropical drink", "tumbler glass", "sake",
        "champagne",
    ),
    "booze": (
        "beer mug", "clinking beer mugs", "wine glass", "cocktail glass", "tropical drink", "tumbler glass", "sake",
        "champagne",
    ),
    "weapon": ("water pistol", "dagger", "crossed swords", "bomb", "bow and arrow"),
    "smoking": ("cigarette",),
    "swimwear": ("swimsuit", "bikini", "briefs"),
}  # fmt: skip
# Kinds that the packages do not name.
OWN_KINDS: Mapping[str, tuple[str, ...]] = {
    "couch": ("furniture",),
    "bathtub": ("furniture",),
}
# Keywords that are no description of a picture, or not fit for one.
NEVER: frozenset[str] = frozenset(
    "ass butt bottom phallic joint kills terrorism molester cock gay lesbian lgbt queer trans adorbs shipit cupertino "
    "th mr yum yummy tbt yolo nature photo assets activity entertainment fun play body human person people man woman "
    "girl boy female male men women lady mans womans body face head symbol sign object communication order red green "
    "blue yellow orange purple pink white black brown grey gray golden gold silver roflcopter litaf cha cos rom drug drugs noto twemoji fluent emoji".split()
)
