"""A concept is valid or it says everything that is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from robust_encoders import Concept


def test_words_are_the_name_and_its_synonyms_once() -> None:
    concept = Concept(name="circle", kind="object", synonyms=("disc", "circle", "ball"))
    assert concept.words() == ("circle", "disc", "ball")


def test_dict_gives_the_concept_back() -> None:
    concept = Concept(name="circle", kind="object", anchor="square", synonyms=("disc",), prompts=("a red circle",))
    values = concept.to_dict()
    assert values["synonyms"] == ["disc"]
    assert Concept(**{**values, "synonyms": tuple(values["synonyms"]), "prompts": tuple(values["prompts"])}) == concept


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"name": " "}, "name"),
        ({"kind": "thing"}, "kind"),
        ({"anchor": None}, "anchor"),
        ({"synonyms": ["disc"]}, "synonyms"),
        ({"synonyms": ("disc", "")}, "synonyms"),
        ({"prompts": ("a", "a")}, "prompts"),
    ],
)
def test_each_wrong_field_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=f"{word}: expected"):
        Concept(**{"name": "circle", "kind": "object", **fields})


def test_all_wrong_fields_are_named_at_once() -> None:
    wrong: dict[str, Any] = {"name": "", "kind": "thing", "anchor": 3, "prompts": "a"}
    with pytest.raises(ValueError, match="not valid") as caught:
        Concept(**wrong)
    for field in wrong:
        assert f"{field}: expected" in str(caught.value)


RED = Concept(name="red", kind="attribute", anchor="green", synonyms=("crimson",), prompts=("a red box",))
DISC = Concept(name="circle", kind="object", anchor="square", synonyms=("disc",))


def test_a_joint_concept_has_all_words_of_each() -> None:
    joint = Concept.joint([RED, DISC])
    assert joint.name == "red and circle"
    assert joint.words() == ("red", "crimson", "circle", "disc")
    assert (joint.kind, joint.anchor, joint.prompts) == ("content", "", ("a red box", "circle", "disc"))
    assert joint.parts == (RED, DISC)
    star = Concept(name="star", kind="object", prompts=("a star", "two stars"))
    assert Concept.joint([star, RED]).prompts == ("a star", "a red box", "two stars")
    assert Concept.joint([joint, star]).parts == (RED, DISC, star)
    assert Concept.joint([star]) is star


@pytest.mark.parametrize(
    "parts", [(DISC,), [RED, DISC], ("red", "circle"), (RED, RED), (Concept.joint([RED, DISC]), DISC)]
)
def test_odd_parts_are_refused(parts: Any) -> None:
    with pytest.raises(ValueError, match="parts: expected"):
        Concept(name="both", kind="content", parts=parts)


def test_no_concepts_have_no_joint_one() -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        Concept.joint([])
