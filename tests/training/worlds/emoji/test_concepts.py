"""The concepts of the emoji world, and what is retained beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robust_encoders import AssetsMissingError, Concept
from robust_encoders.hub import embedded
from robust_encoders.training.prompts.concept_words import anchor_prompts, mentions, naming
from robust_encoders.training.protocols import EmbeddedBase
from robust_encoders.training.worlds.emoji.concepts import CONCEPTS, emoji_concept
from robust_encoders.training.worlds.emoji.retain import RETAIN_PROMPTS
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.emoji.vocabulary import STYLES
from robust_encoders.training.worlds.emoji.world import EmojiWorld

THINGS = load_things()
WORLD: EmbeddedBase = EmojiWorld()
NAMES = (*CONCEPTS, "beer mug", "noto", "pink")


@pytest.mark.parametrize("name", NAMES)
def test_every_caption_of_a_concept_names_it_and_none_uses_a_held_out_word(name: str) -> None:
    concept = WORLD.concept(name)
    assert isinstance(concept, Concept)
    assert len(concept.prompts) > 100 or name in ("smoking", "hot dog", "beer mug", "pink")
    anchored = anchor_prompts(concept.prompts, concept)  # raises if a caption names no word of the concept
    assert not mentions(concept.words()).search(" ".join(anchored))
    private = {*emoji_concept(name).words(THINGS, held_out=True)} - {*concept.words()}
    assert private
    for word in private:
        assert not [text for text in concept.prompts if re.search(rf"\b{re.escape(word)}\b", text)]


def test_groups_are_content_and_values_are_objects_styles_and_attributes() -> None:
    kinds = {name: emoji_concept(name).kind for name in NAMES}
    assert kinds["alcohol"] == kinds["weapon"] == "content"
    assert kinds["hot dog"] == kinds["beer mug"] == "object"
    assert (kinds["line art"], kinds["pink"]) == ("style", "attribute")


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_anchor_of_a_concept_is_one_of_its_neighbours(name: str) -> None:
    assert WORLD.concept(name).anchor == ""
    assert WORLD.concept(name, anchored=True).anchor in CONCEPTS[name].neighbours


@pytest.mark.parametrize("name", NAMES)
def test_what_is_retained_names_neither_the_concept_nor_its_border(name: str) -> None:
    concept, kept = emoji_concept(name), WORLD.retain_prompts([name])
    assert len({*kept}) == len(kept) > RETAIN_PROMPTS // 2
    border = [word for thing in concept.border for word in THINGS.by_name[thing].words("any")]
    said = mentions([*concept.words(THINGS, held_out=True), *border])
    assert not [text for text in kept if said.search(text)]
    for neighbour in concept.neighbours:
        words = STYLES.get(neighbour) or (THINGS.by_name[neighbour].words("any") if concept.label == "thing" else ())
        assert not words or naming(words).search(" ".join(kept))


def test_several_concepts_are_all_left_out() -> None:
    both = WORLD.retain_prompts(["alcohol", "line art"])
    said = naming([*emoji_concept("alcohol").words(THINGS, held_out=True), "line art", "black and white"])
    assert both
    assert not [text for text in both if said.search(text)]


def test_an_unknown_concept_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="found 'alcohl'; did you mean 'alcohol'"):
        WORLD.concept("alcohl")
    with pytest.raises(ValueError, match="groups are alcohol, weapon"):
        WORLD.retain_prompts(["qqqq"])


def test_a_package_without_the_base_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        WORLD.pipeline()
