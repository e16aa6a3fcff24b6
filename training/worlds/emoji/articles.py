"""Articles before the names of things."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Names that take no "a": what cannot be counted, and names of single things.
_BARE: frozenset[str] = frozenset(
    {
        "bacon", "barbecue", "bbq", "bread", "champagne", "bubbly", "beer", "ale", "coffee", "espresso", "latte",
        "matcha", "oolong", "tea", "milk", "sake", "whiskey", "whisky", "bourbon", "scotch", "rum", "wine", "soup",
        "stew", "porridge", "oatmeal", "cereal", "pho", "ramen", "pasta", "spaghetti", "sushi", "sashimi", "paella",
        "edamame", "lettuce", "kale", "romaine", "ginger", "cheese", "swiss", "maize", "lavender", "clover",
        "tobacco", "fire", "wood", "timber", "lumber", "rope", "sunshine", "saturn", "earth", "denim", "underwear",
        "karate", "judo", "taekwondo", "billiards", "snooker", "bowling", "badminton", "pingpong", "shampoo",
        "sunscreen", "moisturizer", "dna", "luggage", "shawarma", "pepperoni", "coral", "corn", "smoke", "dice",
        "trousers", "jeans", "food", "seafood", "clothing", "furniture", "medicine", "stationery", "meat",
        "alcohol", "booze", "swimwear", "smoking", "bathers", "sandals", "red wine", "rice wine", "bok choy",
        "ping pong", "table tennis", "ice hockey", "formula one",
    }
)  # fmt: skip
# An article, words between it and the name, and the gap of the name; not the article of "a {thing} icon".
_ARTICLE = re.compile(
    r"\b(?:an?|one) (?P<between>(?:(?:\{style\}|nice|pretty|lovely|big) )*)\{thing\}(?! (?:logo|icon|emoji))"
)
# Words that begin with the letter of a vowel, but with another sound.
_NO_VOWEL = "one|uni|use|ufo|eu|ewe"


def is_bare(name: str) -> bool:
    """Return true if a name takes no indefinite article: it is plural, or cannot be counted."""
    last = name.split()[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is", "os"))
    return plural or name in _BARE


def fitted(frame: str, words: Mapping[str, str]) -> str:
    """Fill a wording, and correct its articles.

    Args:
        frame: Wording with gaps.
        words: Word for each gap.
    """
    bare = "thing" in words and is_bare(words["thing"])
    text = (_ARTICLE.sub(r"\g<between>{thing}", frame) if bare else frame).format(**words)
    text = re.sub(rf"\ban (?=[^aeiou\W]|{_NO_VOWEL})", "a ", text)
    return re.sub(rf"\ba (?=[aeiou])(?!{_NO_VOWEL})", "an ", text)
