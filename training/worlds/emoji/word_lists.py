"""Words of the emoji world that are chosen by hand: kinds of things, words of concepts, and keywords left out."""

from __future__ import annotations

from collections.abc import Mapping

# Keywords that say what a thing is. A caption may use one in place of the name, and then any thing of that kind fits.
KINDS: frozenset[str] = frozenset(
    {
        "animal", "bird", "fish", "insect", "reptile", "mammal", "dinosaur", "pet", "flower", "plant", "tree",
        "fruit", "vegetable", "food", "dessert", "snack", "seafood", "drink", "beverage", "weapon", "vehicle", "boat",
        "tool", "tools", "clothing", "clothes", "shoe", "shoes", "bag", "instrument", "game", "toy", "furniture",
        "medicine", "building", "stationery", "container", "citrus", "berry", "meat",
    }
)  # fmt: skip
_ALCOHOL = (
    "beer mug", "clinking beer mugs", "wine glass", "cocktail glass", "tropical drink", "tumbler glass", "sake",
    "champagne",
)  # fmt: skip
# Words of the concepts that are groups of things, with the canonical names of the members.
CONCEPT_WORDS: Mapping[str, tuple[str, ...]] = {
    "alcohol": _ALCOHOL,
    "booze": _ALCOHOL,
    "weapon": ("water pistol", "dagger", "crossed swords", "bomb", "bow and arrow"),
    "smoking": ("cigarette",),
    "swimwear": ("swimsuit", "bikini", "briefs"),
}
# Kinds that the packages do not name.
OWN_KINDS: Mapping[str, tuple[str, ...]] = {
    "couch": ("furniture",),
    "bathtub": ("furniture",),
}
# Things of which some keywords are not fit for a caption; none of theirs is used.
NO_TAGS: frozenset[str] = frozenset({"donkey", "rooster", "eggplant", "cigarette", "bomb"})
# Keywords that describe no picture, or that could be a colour of the background.
NEVER: frozenset[str] = frozenset(
    {
        "th", "mr", "yum", "yummy", "tbt", "yolo", "nature", "photo", "assets", "activity", "entertainment", "fun",
        "play", "human", "person", "people", "man", "woman", "girl", "boy", "female", "male", "men", "women", "lady",
        "mans", "womans", "body", "face", "head", "symbol", "sign", "object", "communication", "order", "red",
        "green", "blue", "yellow", "orange", "purple", "pink", "white", "black", "brown", "grey", "gray", "golden",
        "gold", "silver", "adorbs", "shipit", "cupertino", "roflcopter", "litaf", "cha", "cos", "rom", "drug",
        "drugs", "noto", "twemoji", "fluent", "emoji",
    }
)  # fmt: skip
