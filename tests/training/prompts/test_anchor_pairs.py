"""Pairs of prompts with the anchor and with the concept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from robust_encoders import Concept
from robust_encoders.training.prompts.anchor_pairs import anchor_pairs
from robust_encoders.training.prompts.concept_words import naming

CAT = Concept(name="grumpy cat", kind="object", anchor="cat")


def test_an_anchor_inside_the_concept_is_replaced_once_and_never_doubled() -> None:
    """The authors' code replaces strings: "a grumpy cat" becomes "a grumpy grumpy cat", and "education" is hit."""
    (pair,) = anchor_pairs(CAT, ["a Cat on a catalogue of education"])
    assert pair.targets == ("a grumpy cat on a catalogue of education",)
    with pytest.raises(ValueError, match="found 'a grumpy cat', which names it"):
        anchor_pairs(CAT, ["a cat", "a grumpy cat"])


def test_every_word_of_an_object_is_a_target() -> None:
    droid = Concept(name="r2d2", kind="object", synonyms=("artoo",), anchor="robot")
    (pair,) = anchor_pairs(droid, ["a robot in a robot shop"])
    assert pair.targets == ("a r2d2 in a r2d2 shop", "a artoo in a artoo shop")
    for made in anchor_pairs(droid):
        assert "robot" in made.anchor
        assert made.targets == tuple(made.anchor.replace("robot", word) for word in droid.words())
    assert len(anchor_pairs(droid)) == 20


def test_a_word_with_a_backslash_is_no_template() -> None:
    (pair,) = anchor_pairs(Concept(name=r"\1 cat", kind="object", anchor="dog"), ["a dog"])
    assert pair.targets == (r"a \1 cat",)


def test_a_style_stands_behind_a_third_of_the_prompts_and_before_the_others() -> None:
    gogh = Concept(name="Van Gogh", kind="style")
    (pair,) = anchor_pairs(gogh, ["a painting of a house"])
    assert Counter(pair.targets) == {
        "a painting of a house, in the style of Van Gogh": 1,
        "in Van Gogh's style, a painting of a house": 2,
    }
    made = anchor_pairs(gogh)
    assert len(made) == 200
    assert all(pair.anchor.startswith("a painting of a") for pair in made)
    assert anchor_pairs(Concept(name="etching", kind="style", anchor="drawing"))[0].anchor.startswith("a drawing of a")


def test_content_is_added_with_all_its_words_to_prompts_about_people() -> None:
    nudity = Concept(name="nudity", kind="content", synonyms=("nsfw",))
    made = anchor_pairs(nudity)
    assert len(made) > 100
    assert all(pair.targets == (f"{pair.anchor}, nudity, nsfw",) for pair in made)
    assert {word for word in ("people", "boy", "girl", "women", "man", "child") if naming([word]).search(str(made))}
    assert not naming(["body", "bodies"]).search(str(made)), "the authors advise against it"
    streets = Concept(name="violence", kind="content", anchor="a street, a room")
    assert {pair.anchor for pair in anchor_pairs(streets)} >= {"a photo of a street", "a photo of a room"}


def test_a_memorised_picture_has_its_caption_as_the_only_target() -> None:
    poster = Concept(name="Poster of the Great Show, 1999", kind="object")
    made = anchor_pairs(poster, ["a poster for a show", "an old show poster"], "caption")
    assert [pair.targets for pair in made] == [("Poster of the Great Show, 1999",)] * 2
    with pytest.raises(ValueError, match="paraphrases of its caption"):
        anchor_pairs(poster, (), "caption")


def test_captions_of_a_concept_are_paired_with_their_anchored_captions() -> None:
    circle = Concept(name="circle", kind="object", anchor="star", prompts=("a red circle", "circle"))
    assert [(pair.anchor, pair.targets) for pair in anchor_pairs(circle)] == [
        ("a red star", ("a red circle",)),
        ("star", ("circle",)),
    ]
    assert anchor_pairs(circle, ["my star"])[0].targets == ("my circle",)


def test_parts_of_a_joint_concept_take_turns_with_their_own_anchors() -> None:
    cat, droid = CAT, Concept(name="r2d2", kind="object", anchor="robot", prompts=("r2d2", "a red r2d2"))
    made = anchor_pairs(Concept.joint((cat, droid)))
    assert [pair.anchor for pair in made[:4]] == ["a photo of a cat", "robot", "a close-up of a cat", "a red robot"]
    assert made[3].targets == ("a red r2d2",)
    assert len(made) == 2 * len(anchor_pairs(cat)), "the shorter list is repeated"
    assert made[5] == made[1]


@pytest.mark.parametrize(
    ("concept", "anchors", "match"),
    [
        ({"kind": "object"}, (), "expected an anchor or anchor prompts for 'circle', found neither"),
        ({"kind": "object", "anchor": "star"}, ("a square",), "expected the anchor 'star' of 'circle' in every"),
        ({"kind": "object"}, ("a square",), "expected the anchor '' of 'circle'"),
        ({"kind": "style"}, ("a painting of a circle",), "would be put in twice"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(concept: Any, anchors: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        anchor_pairs(Concept(name="circle", **concept), anchors)
