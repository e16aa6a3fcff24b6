"""Names, keywords and groups of emoji, from emojilib and emojibase."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .icon_sets import plain_code
from .packages import Sources, read_json


@dataclass(frozen=True)
class Entry:
    """An emoji with what people call it.

    Args:
        code: Code points in hexadecimal, as ``plain_code`` writes them.
        label: Name in Unicode's CLDR, in lower case.
        group: Group, for example ``food-drink``; empty for parts of emoji.
        subgroup: Part of the group, for example ``food-fruit``.
        keywords: Keywords of both packages, in lower case, each once; the label comes first.
    """

    code: str
    label: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]

    def states(self, phrase: str) -> bool:
        """Return true if a phrase is a keyword, or several words that all stand in keywords.

        Emojibase splits keywords of several words, so "sea lion" becomes "sea" and "lion".
        """
        words = phrase.split()
        known = {word for keyword in self.keywords for word in re.split("[ -]", keyword)}
        return phrase in self.keywords or (len(words) > 1 and {*words} - {"of"} <= known)


def read_entries(folder: Path, sources: Sources) -> Mapping[str, Entry]:
    """Return all emoji by their code points, in Unicode's order, without skin tones.

    Args:
        folder: Folder of the packages' files.
        sources: Packages.
    """
    groups = read_json(folder, sources.emojibase, "meta/groups.json")
    more = read_json(folder, sources.emojilib, "dist/emoji-en-US.json")
    by_code = {plain_code("-".join(f"{ord(c):x}" for c in emoji)): words for emoji, words in more.items()}
    found = {}
    for row in read_json(folder, sources.emojibase, "en/data.json"):
        code = plain_code(row["hexcode"])
        words = map(_plain, (row["label"], *row.get("tags", ()), *by_code.get(code, ())))
        found[code] = Entry(
            code,
            _plain(row["label"]),
            groups["groups"].get(str(row.get("group")), ""),
            groups["subgroups"].get(str(row.get("subgroup")), ""),
            tuple(dict.fromkeys(words)),
        )
    return found


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", " ").replace("\u2019", "'")
