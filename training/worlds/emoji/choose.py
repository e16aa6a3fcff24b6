"""Make the list of things from ``chosen.txt``, ``drawn.txt`` and the packages: ``python -m ...emoji.choose FOLDER``.

It writes ``things.json`` and ``NOTICE`` beside this file. The same packages give the same bytes. With ``--check`` it
writes nothing, and fails if the files differ from what it would write.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_encoders.errors import IntegrityError
from robust_encoders.utils.home import expanded

from .icon_sets import IconSet
from .keywords import Entry, read_entries
from .notice import notice
from .packages import SOURCES, Sources, require_packages
from .things import Icon, Thing, Things
from .word_lists import CONCEPT_WORDS, KINDS, NEVER, NO_TAGS, OWN_KINDS

HERE = Path(__file__).parent
_LEFT_OUT = ("", "component", "flags", "people-body")  # groups of emoji that the judge never sees
_EVERY = 5  # every fifth icon that is no thing only measures the judge
_TAG = re.compile(r"[a-z]{3,}(?:[ -][a-z]{2,})*")


@dataclass(frozen=True)
class Chosen:
    """A line of ``chosen.txt``.

    Args:
        icon: Name of the icon in Noto's set.
        name: Canonical name; empty for the label.
        aliases: Further names.
        held_out: Held-out name.
        mark: Mark of the held-out name: empty, ``+``, ``!`` or ``~``.
    """

    icon: str
    name: str
    aliases: tuple[str, ...]
    held_out: str
    mark: str

    @classmethod
    def parse(cls, line: str) -> Chosen:
        """Return the choice that a line states."""
        icon, name, aliases, held_out = (part.strip() for part in line.split("|"))
        mark = held_out[0] if held_out[0] in "+!~" else ""
        names = tuple(alias.strip() for alias in aliases.split(",") if alias.strip())
        return cls(icon, name, names, held_out.removeprefix(mark), mark)


def read_chosen(text: str) -> list[Chosen]:
    """Return the choices of a text; lines that are empty or begin with ``#`` do not count."""
    return [Chosen.parse(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def choose(
    chosen: Sequence[Chosen], entries: Mapping[str, Entry], sets: Mapping[str, IconSet], drawn: Sequence[str] = ()
) -> Things:
    """Return the chosen things with their words, and the icons that are none of them.

    Args:
        chosen: Choices.
        entries: Keywords by code points.
        sets: Icon sets by drawing style, with ``noto`` among them.
        drawn: Canonical names of the things that the base draws; empty for all.

    Raises:
        ValueError: If a set lacks an icon, if a name breaks a rule of ``chosen.txt``, or if a drawn thing is not
            chosen; the message names all.
    """
    common = {code: entry for code, entry in entries.items() if all(code in icons for icons in sets.values())}
    codes = {name: code for code, name in sets["noto"].names.items()}
    if lost := [one.icon for one in chosen if codes.get(one.icon) not in common]:
        raise ValueError(f"expected icons that all sets have, found {', '.join(lost)}; take them out of chosen.txt")
    found = {codes[one.icon]: one for one in chosen}
    if problems := [*_problems(found, common)]:
        raise ValueError("expected names that keep the rules of chosen.txt, found " + "; ".join(problems))
    names = {word for code, one in found.items() for word in _names(one, common[code])}
    things = tuple(_thing(one, common[code], names) for code, one in found.items())
    free = [Icon(e.label, code) for code, e in common.items() if code not in found and _unlike(e, things, names)]
    return Things(
        things,
        tuple(icon for i, icon in enumerate(free) if i % _EVERY),
        tuple(icon for i, icon in enumerate(free) if not i % _EVERY),
    ).drawing(drawn)


def _names(one: Chosen, entry: Entry) -> tuple[str, ...]:
    return (one.name or entry.label, *one.aliases, one.held_out)


def _problems(found: Mapping[str, Chosen], entries: Mapping[str, Entry]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for code, one in found.items():
        for word in _names(one, entries[code]):
            if word in owner:
                yield f"{word!r} for {owner[word]} and {one.icon}"
            owner[word] = one.icon
            own = one.mark == "+" and word == one.held_out
            if not own and not entries[code].states(word):
                yield f"{word!r} for {one.icon}, which is no keyword of it"
        yield from _held_out_problems(code, one, found, entries)


def _held_out_problems(
    code: str, one: Chosen, found: Mapping[str, Chosen], entries: Mapping[str, Entry]
) -> Iterator[str]:
    others = [other.icon for c, other in found.items() if c != code and entries[c].states(one.held_out)]
    if others and one.mark != "!":
        yield f"the held-out {one.held_out!r} for {one.icon}, which is a keyword of {', '.join(others)} too"
    names = _names(one, entries[code])[:-1]
    alike = [name for name in names if _says(one.held_out, name) or _says(name, one.held_out)]
    if alike and one.mark != "~":
        yield f"the held-out {one.held_out!r} for {one.icon}, which holds {alike[0]!r} or lies in it"


def _says(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _thing(one: Chosen, entry: Entry, names: set[str]) -> Thing:
    name, *others = _names(one, entry)
    concepts = {word for word, members in CONCEPT_WORDS.items() if name in members}
    mine = {*name.split(), *(part for other in others for part in other.split())}
    tags = [
        word
        for word in entry.keywords
        if word != entry.label
        and _TAG.fullmatch(word)
        and not {word} & (names | mine | NEVER | {*CONCEPT_WORDS} | {*KINDS})
    ]
    kinds = [word for word in entry.keywords if word in KINDS and word not in names]
    kinds = [word for word in (*kinds, *OWN_KINDS.get(name, ())) if word not in CONCEPT_WORDS]
    return Thing(
        name,
        entry.code,
        tuple(others[:-1]),
        others[-1],
        tuple(dict.fromkeys((*sorted(concepts), *kinds))),
        () if name in NO_TAGS else tuple(tags),
        entry.subgroup,
    )


def _unlike(entry: Entry, things: Sequence[Thing], names: set[str]) -> bool:
    """Return true if nobody would call an icon by a name of a thing."""
    if entry.group in _LEFT_OUT:
        return False
    return not ({*entry.keywords} & names) and not any(_says(entry.label, thing.name) for thing in things)


def made(
    folder: Path, sources: Sources = SOURCES, chosen: str | None = None, drawn: str | None = None
) -> dict[str, str]:
    """Return the texts of ``things.json`` and ``NOTICE`` as packages give them.

    Args:
        folder: Folder of the packages' files.
        sources: Packages.
        chosen: Text of the choices; None takes ``chosen.txt``.
        drawn: Names of the things that the base draws, a line each; None takes ``drawn.txt``.

    Raises:
        IntegrityError: If a package is missing or another one.
        ValueError: If the choices do not fit the packages; see ``choose``.
    """
    require_packages(folder, sources.packages)
    sets = {style: IconSet.read(folder, package) for style, package in sources.icon_sets.items()}
    lines, names = _text("chosen.txt", chosen), _text("drawn.txt", drawn)
    things = choose(read_chosen(lines), read_entries(folder, sources), sets, read_names(names))
    return {"things.json": things.to_json(), "NOTICE": notice(folder, sources)}


def read_names(text: str) -> list[str]:
    """Return the names of a text, one a line; lines that are empty or begin with ``#`` do not count."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _text(name: str, given: str | None) -> str:
    return (HERE / name).read_text(encoding="utf-8") if given is None else given


def require_current(folder: Path) -> None:
    """Check that the files beside this module are those that the packages in a folder give.

    Raises:
        IntegrityError: If one differs.
    """
    stale = [name for name, text in made(folder).items() if (HERE / name).read_text(encoding="utf-8") != text]
    if stale:
        raise IntegrityError(
            f"expected {' and '.join(stale)} as chosen.txt, drawn.txt and the packages give them, found others; run "
            f"the module {__package__}.choose on {folder}, which writes them"
        )


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=expanded, help="folder of the packages")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the files differ")
    chosen = parser.parse_args()
    if chosen.check:
        require_current(chosen.folder)
        return
    for name, text in made(chosen.folder).items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
