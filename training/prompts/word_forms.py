"""The forms in which a text mentions English words and phrases: plurals, and spellings with hyphens.

A form that nobody writes, such as "photoes", finds nothing. So a doubtful ending gives all of its forms.
"""

from __future__ import annotations

import re

_GAP = r"(?:\s+|[-\u2010\u2011])"  # between the words of a phrase
_WITHIN = re.compile(rf"(?<=\w){_GAP}(?=\w)")
_LAST = re.compile(r"[a-z]+$", re.IGNORECASE)
# "glass of milk" has the plural "glasses of milk", "bow and arrow" that of both words.
_HEAD = re.compile(r"(?P<head>.+?)(?P<rest>\s(?:of|with|in|on|from)\s.+)", re.IGNORECASE)
_BOTH = re.compile(r"(?P<one>.+)(?P<link>\s(?:and|&)\s)(?P<other>.+)", re.IGNORECASE)
# Also of longer words with these endings, such as "penknife", if they have four letters or more.
_IRREGULAR = {
    "cactus": "cacti", "calf": "calves", "child": "children", "die": "dice", "elf": "elves", "foot": "feet",
    "goose": "geese", "half": "halves", "hoof": "hooves", "knife": "knives", "leaf": "leaves", "life": "lives",
    "loaf": "loaves", "louse": "lice", "mouse": "mice", "octopus": "octopi", "ox": "oxen", "person": "people",
    "potato": "potatoes", "quiz": "quizzes", "scarf": "scarves", "shelf": "shelves", "thief": "thieves",
    "tomato": "tomatoes", "tooth": "teeth", "wife": "wives", "wolf": "wolves",
}  # fmt: skip
# These only look as if they ended in such a word.
_REGULAR = re.compile(r".*(?:blouse|mongoose|behalf)")
_ARTICLE = re.compile(r"an?\s+(?=\S)", re.IGNORECASE)
# Letters to take off, and endings to put on, the usual one first.
_ENDINGS = (
    (r".*[^aeiou]y", 1, ("ies", "ys")),
    (r".*(?:hu|ger|ro|nor|sha)man", 0, ("s",)),
    (r".*man", 3, ("men", "mans")),
    (r".*is", 2, ("es", "ises")),
    (r".*(?:s|x|z|ch|sh)", 0, ("es",)),
    (r".*[^aeiou]o", 0, ("s", "es")),
    (r".*", 0, ("s",)),
)
_SHORTEST = 3  # letters of a word whose plural is regular


def plurals(phrase: str) -> tuple[str, ...]:
    """Return the plurals of a word or phrase, the usual one first; none if it is plural or ends in no Latin letter.

    The plural of "a woman" is "women". A word that ends in "s" counts as plural, except after "s", "u", "i", "a" and
    "o": "dress" gives "dresses".
    """
    if of := _HEAD.fullmatch(phrase):
        return tuple(form + of["rest"] for form in plurals(of["head"]))
    if both := _BOTH.fullmatch(phrase):
        found = zip(plurals(both["one"]), plurals(both["other"]), strict=False)
        return tuple(one + both["link"] + other for one, other in found)
    if article := _ARTICLE.match(phrase):
        return plurals(phrase[article.end() :])
    last = _LAST.search(phrase)
    return tuple(phrase[: last.start()] + form for form in _of_word(last[0])) if last else ()


def _of_word(word: str) -> tuple[str, ...]:
    lower = word.lower()
    if lower.endswith("s") and not lower.endswith(("ss", "us", "is", "as", "os")):
        return ()
    cut, endings = next((n, ends) for pattern, n, ends in _ENDINGS if re.fullmatch(pattern, lower))
    regular = tuple(word[: len(word) - cut] + ending for ending in endings) if len(word) >= _SHORTEST else ()
    ends = () if _REGULAR.fullmatch(lower) else tuple(one for one in _IRREGULAR if len(one) > _SHORTEST)
    own = (one for one in _IRREGULAR if lower == one or (one in ends and lower.endswith(one)))
    return (*(word[: len(word) - len(one)] + _IRREGULAR[one] for one in own), *regular)


def spelled_apart(phrase: str) -> str:
    """Return a regular expression for a phrase with any white space or a hyphen between its words."""
    return _GAP.join(map(re.escape, _WITHIN.split(phrase)))


def spellings(phrase: str) -> tuple[str, ...]:
    """Return a word or phrase and its plurals, each as it is, with spaces, and with hyphens between its words."""
    forms = (phrase, *plurals(phrase))
    return tuple(dict.fromkeys(text for one in forms for text in (one, *(_WITHIN.sub(gap, one) for gap in " -"))))
