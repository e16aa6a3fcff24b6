"""The packaged list of things: each name stands for one thing, and the concepts' things are there."""

from __future__ import annotations

import re
from collections import Counter

from robust_encoders.training.worlds.emoji.choose import HERE, read_chosen, read_names
from robust_encoders.training.worlds.emoji.concepts import CONCEPTS
from robust_encoders.training.worlds.emoji.things import Things, load_things
from robust_encoders.training.worlds.emoji.vocabulary import BACKGROUNDS, COLOURS, STYLES
from robust_encoders.training.worlds.emoji.word_lists import CONCEPT_WORDS, KINDS, NEVER

THINGS = load_things()


def test_the_base_draws_some_of_three_hundred_things_and_each_has_a_held_out_name() -> None:
    assert len(THINGS.pretrained) == 300 == len(read_chosen((HERE / "chosen.txt").read_text()))
    assert len(THINGS.things) == 64 == len(read_names((HERE / "drawn.txt").read_text()))
    assert all(thing.held_out and thing.name for thing in THINGS.pretrained)
    assert len({*THINGS.wide.names}) == 300
    assert {*THINGS.names} < {*THINGS.wide.names}


def test_no_name_stands_for_two_things() -> None:
    spoken = Counter(word for thing in THINGS.wide.things for word in thing.words("any"))
    assert [word for word, n in spoken.items() if n > 1] == []


def test_kinds_and_keywords_are_no_names() -> None:
    names = {word for thing in THINGS.wide.things for word in thing.words("any")}
    for thing in THINGS.wide.things:
        assert not {*thing.tags} & names, thing
        assert not {*thing.kinds} & names, thing
        assert not {*thing.tags} & ({*thing.kinds} | {*CONCEPT_WORDS} | NEVER), thing
        assert {*thing.kinds} <= KINDS | {*CONCEPT_WORDS}
        assert all(re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", tag) for tag in thing.tags), thing


def test_no_word_of_a_style_or_background_is_one_of_a_thing() -> None:
    labels = [word for words in (*STYLES.values(), *BACKGROUNDS.values()) for word in words]
    assert len({*labels}) == len(labels)
    assert not {*labels} & {word for thing in THINGS.wide.things for word in thing.words("any")}
    assert list(COLOURS) == list(BACKGROUNDS)


def test_members_neighbours_and_border_of_every_concept_are_things_and_apart() -> None:
    for concept in CONCEPTS.values():
        groups = (concept.members, concept.neighbours, concept.border)
        known = {"thing": THINGS.names, "style": tuple(STYLES)}[concept.label]
        assert concept.members
        assert concept.neighbours
        assert all({*group} <= {*known} for group in groups), concept
        assert len({*concept.members, *concept.neighbours, *concept.border}) == sum(map(len, groups))


def test_the_words_of_a_group_are_kinds_of_its_members_and_of_no_other_thing() -> None:
    for word, members in CONCEPT_WORDS.items():
        assert {thing.name for thing in THINGS.things if word in thing.kinds} == {*members}


def test_other_icons_are_none_of_the_things_and_measuring_ones_are_apart() -> None:
    codes = THINGS.codes
    assert {*codes} == {*THINGS.wide.codes}
    assert len({*codes}) == len(codes) == 300 + len(THINGS.others) + len(THINGS.unknown)
    assert len(THINGS.unknown) * 3 < len(THINGS.others) < len(THINGS.unknown) * 5
    names = {word for thing in THINGS.wide.things for word in thing.words("any")}
    assert not [icon for icon in (*THINGS.others, *THINGS.unknown) if icon.label in names]


def test_the_list_survives_its_file() -> None:
    assert Things.from_json(THINGS.to_json()) == THINGS
    assert (HERE / "things.json").stat().st_size < 300_000
    assert (HERE / "things.json").read_text() == THINGS.to_json()
