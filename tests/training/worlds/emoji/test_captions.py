"""Captions: what they state, which words they use, and which wordings are kept apart."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

import numpy as np
import pytest
from tiny_emoji import tiny_things

from robust_encoders.training.worlds.emoji.articles import fitted, is_bare
from robust_encoders.training.worlds.emoji.captions import (
    EVERYDAY,
    EmojiPrompt,
    Scene,
    base_caption,
    filled,
    gaps,
    prompts,
    random_words,
    texts,
)
from robust_encoders.training.worlds.emoji.everyday_frames import PARTS, Part
from robust_encoders.training.worlds.emoji.frames import HELD_OUT, TRAINING
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.emoji.vocabulary import BACKGROUNDS, LABELS, STYLES

THINGS = load_things()
BOTH: tuple[Part, ...] = get_args(Part)
FUNCTION_WORDS = {*re.findall(r"\w+", "a an of on in at with and is for to me you i we one as from the it that")}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", re.sub(r"\{\w+\}", " ", text.lower())))


def marks(text: str) -> set[str]:
    return set(re.findall(r"[^\w\s]", re.sub(r"\{\w+\}", " ", text)))


def scene(name: str = "hot dog", style: str = "noto", background: str = "blue") -> Scene:
    return Scene(THINGS.by_name[name], style, background)


def test_there_are_many_wordings_and_all_state_a_thing() -> None:
    groups = [TRAINING, HELD_OUT, *EVERYDAY.values()]
    every = [frame for group in groups for frame in group]
    assert len({*every}) == len(every)
    assert [len(group) >= n for group, n in zip(groups, (50, 12, 30, 30), strict=True)] == [True] * 4
    for frame in every:
        found = gaps(frame)
        assert "thing" in found, frame
        assert len({*found}) == len(found), frame
        assert {*found} <= {"thing", "style", "background", "tags"}, frame
    assert not [frame for frame in (*HELD_OUT, *EVERYDAY["reported"]) if "tags" in gaps(frame)]


def test_held_out_wordings_are_new_but_their_words_are_not() -> None:
    known = {word for frame in TRAINING for word in words(frame)}
    for frame in HELD_OUT:
        assert words(frame) <= known, frame
        assert frame not in TRAINING


def test_the_two_everyday_parts_share_no_kind_and_no_distinctive_word_or_mark() -> None:
    assert not {*PARTS["seen"]} & {*PARTS["reported"]}
    seen, reported = (
        {word for frame in EVERYDAY[part] for word in words(frame)} - FUNCTION_WORDS for part in ("seen", "reported")
    )
    trained = {word for frame in TRAINING for word in words(frame)}
    assert not (seen & reported) - trained
    marked = [{mark for frame in EVERYDAY[part] for mark in marks(frame)} - {","} for part in ("seen", "reported")]
    assert not marked[0] & marked[1]


@pytest.mark.parametrize(
    ("frame", "name", "expected"),
    [
        ("a {thing} on {background}", "axe", "an axe on blue"),
        ("an emoji of a {thing}", "hat", "an emoji of a hat"),
        ("a {style} {thing}", "jeans", "noto jeans"),
        ("a {style} {thing}", "hat", "a noto hat"),
        ("draw me a {thing}", "bacon", "draw me bacon"),
        ("a lovely {style} {thing}", "jeans", "lovely noto jeans"),
        ("a {thing} logo", "jeans", "a jeans logo"),
        ("one {thing}, thanks", "jeans", "jeans, thanks"),
        ("a {background} picture with a {thing}", "owl", "a blue picture with an owl"),
    ],
)
def test_articles_fit(frame: str, name: str, expected: str) -> None:
    assert fitted(frame, {"thing": name, "style": "noto", "background": "blue"}) == expected


def test_an_article_fits_the_word_after_it() -> None:
    assert fitted("a {background} background", {"background": "azure"}) == "an azure background"
    assert fitted("an {thing}", {"thing": "cap"}) == "a cap"
    assert fitted("an {thing}", {"thing": "ufo"}) == fitted("a {thing}", {"thing": "ufo"}) == "a ufo"
    assert fitted("a {thing}", {"thing": "one-piece"}) == "a one-piece"


@pytest.mark.parametrize("name", ["jeans", "glasses", "high heels", "red wine", "bacon"])
def test_plurals_and_what_cannot_be_counted_take_no_article(name: str) -> None:
    assert is_bare(name)


@pytest.mark.parametrize("name", ["dress", "abacus", "rhinoceros", "wine glass", "hot dog", "brontosaurus"])
def test_singulars_take_one(name: str) -> None:
    assert not is_bare(name)


def test_a_caption_states_what_its_gaps_state() -> None:
    spoken = {"thing": "wiener", "style": "glossy", "background": "azure", "tags": "frankfurter"}
    made = filled("a {style} {thing} on {background}", scene(), spoken)
    assert made == EmojiPrompt("a glossy wiener on azure", {"style": "noto", "thing": "hot dog", "background": "blue"})
    assert filled("{thing}", scene(), spoken).expected == {"thing": "hot dog"}


def test_an_upper_case_wording_gives_an_upper_case_caption() -> None:
    assert filled("A {thing}", scene("axe"), {"thing": "axe"}).text == "AN AXE"


def captions(n: int = 3000) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng(0)
    drawn = []
    for i in range(n):
        made = Scene(THINGS.things[i % len(THINGS.things)], tuple(STYLES)[i % 4], tuple(BACKGROUNDS)[i % 6])
        drawn.append((made, base_caption(made, rng).text))
    return drawn


def test_the_base_learns_names_aliases_and_held_out_names_but_no_reserved_wording() -> None:
    counts: Counter[str] = Counter()
    reserved = {word for frame in EVERYDAY["reported"] for word in words(frame)}
    reserved -= {word for frame in (*TRAINING, *EVERYDAY["seen"]) for word in words(frame)} | FUNCTION_WORDS
    for made, text in captions():
        known = (*made.thing.words("any"), *made.thing.kinds)
        said = max((word for word in known if re.search(rf"\b{re.escape(word)}\b", text)), key=len, default="")
        assert said, text
        kind = "name" if said == made.thing.name else "unseen" if said == made.thing.held_out else "other"
        counts[kind] += 1
        own = {part for word in (*known, *made.thing.tags) for part in words(word)}
        assert not (words(text) - own) & reserved, text
        assert "{" not in text
    assert counts["name"] > counts["unseen"] > 300
    assert counts["other"] > 200


def test_a_share_of_captions_states_thing_style_and_background() -> None:
    rng = np.random.default_rng(0)
    stated = [
        sum({*base_caption(scene(), rng, whole).expected} == {*LABELS} for _ in range(400)) / 400
        for whole in (0.0, 0.5, 1.0)
    ]
    assert stated[0] < 0.3 < stated[1] < 0.8
    assert stated[2] == 1


def test_no_wording_says_a_held_out_name() -> None:
    frames = " ".join((*TRAINING, *EVERYDAY["seen"]))
    held_out = [thing.held_out for thing in THINGS.things]
    assert not [word for word in held_out if re.search(rf"\b{re.escape(word)}\b", frames)]


def test_no_caption_of_the_base_is_a_held_out_one() -> None:
    held_out = {prompt.text for prompt in prompts(THINGS, 3000, seed=5)}
    assert not held_out & {text for _, text in captions()}


def test_equal_seeds_give_equal_prompts_and_every_thing_has_its_turn() -> None:
    one, same, other = (prompts(THINGS, len(THINGS.names), seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert Counter(prompt.expected["thing"] for prompt in one) == Counter(THINGS.names)


def test_prompts_use_the_words_that_were_asked_for() -> None:
    for prompt in prompts(THINGS, 300, seed=1, words="unseen"):
        thing = THINGS.by_name[prompt.expected["thing"]]
        assert re.search(rf"\b{re.escape(thing.held_out)}\b", prompt.text), prompt
    held_out = {words[-1] for words in (*STYLES.values(), *BACKGROUNDS.values())}
    for prompt in prompts(THINGS, 300, seed=1):
        assert not [word for word in held_out if re.search(rf"\b{word}\b", prompt.text)]


def test_fixed_values_are_stated_and_a_style_can_be_called_by_its_held_out_word() -> None:
    made = prompts(THINGS, 40, seed=1, words="unseen", fixed={"style": ["line art", "fluent"]})
    assert {prompt.expected["style"] for prompt in made} == {"line art", "fluent"}
    assert all("ink drawn" in prompt.text or "minimal" in prompt.text for prompt in made)
    with pytest.raises(ValueError, match="expected a wording that states style, thing, found none"):
        prompts(THINGS, 1, seed=1, frames=["a {thing}"], fixed={"style": ["fluent"], "thing": ["hot dog"]})


def test_a_thing_without_an_alias_is_called_by_its_name() -> None:
    rng = np.random.default_rng(0)
    plain = Scene(tiny_things().by_name["hammer"], "noto", "blue")
    assert random_words(plain, rng, "seen")["thing"] == "hammer"
    assert "tags" not in random_words(Scene(tiny_things().by_name["hot dog"], "noto", "blue"), rng)


def test_the_texts_of_the_world_hold_every_word_of_its_captions() -> None:
    known = {word for text in texts(THINGS) for word in words(text)}
    assert not {word for _, text in captions() for word in words(text)} - known
    assert {mark for _, text in captions() for mark in marks(text)} <= {
        mark for text in texts(THINGS) for mark in marks(text)
    }
