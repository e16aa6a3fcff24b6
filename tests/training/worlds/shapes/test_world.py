"""Words, captions and renders of the shapes world."""

from __future__ import annotations

import numpy as np
import pytest

from robust_encoders.training.worlds.shapes.captions import (
    TEMPLATES,
    WordChoice,
    caption,
    scene_prompts,
    stated,
    words_for,
)
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, factor_of, shapes_concept
from robust_encoders.training.worlds.shapes.render import Scene, random_scene, render
from robust_encoders.training.worlds.shapes.vocabulary import (
    FACTORS,
    HELD_OUT_TEMPLATES,
    TRAINING_TEMPLATES,
    VALUES,
    WORDS,
)

SCENE = Scene("circle", "orange", "black", "outlined")


def test_every_word_names_one_value_only() -> None:
    words = [word for values in WORDS.values() for synonyms in values.values() for word in synonyms]
    assert len(words) == len(set(words))


def test_the_issue_of_leaks_every_value_has_a_seen_and_an_unseen_synonym() -> None:
    for factor, values in WORDS.items():
        for value in values:
            parts = [words_for(factor, value, choice) for choice in ("name", "seen", "unseen")]
            assert all(parts)
            assert sum(parts, ()) == words_for(factor, value, "any") == values[value]


def test_training_and_evaluation_share_no_template() -> None:
    assert not set(TRAINING_TEMPLATES) & set(HELD_OUT_TEMPLATES)
    for factor in ("shape", "colour", "background", "style"):
        assert any(factor in stated(template) for template in HELD_OUT_TEMPLATES)


def test_captions_take_the_right_article_and_state_what_they_expect() -> None:
    words = {"shape": "disc", "colour": "orange", "background": "ebony", "style": "outlined"}
    prompt = caption(SCENE, "a {style} {colour} {shape}", words)
    assert prompt.text == "an outlined orange disc"
    assert prompt.expected == {"style": "outlined", "colour": "orange", "shape": "circle"}


def test_prompts_are_seeded_and_differ_between_seeds() -> None:
    assert scene_prompts(20, seed=3) == scene_prompts(20, seed=3)
    assert scene_prompts(20, seed=3) != scene_prompts(20, seed=4)


@pytest.mark.parametrize("choice", ["name", "seen", "unseen"])
@pytest.mark.parametrize(("factor", "value"), [("shape", "circle"), ("style", "striped"), ("colour", "red")])
def test_fixed_prompts_name_the_concept_in_the_chosen_words_alone(factor: str, value: str, choice: WordChoice) -> None:
    allowed = set(words_for(factor, value, choice))
    others = set(WORDS[factor][value]) - allowed
    for prompt in scene_prompts(60, seed=0, fixed={factor: value}, words=choice):
        words = set(prompt.text.replace(",", "").split())
        assert words & allowed
        assert not words & others
        assert prompt.expected[factor] == value


def test_only_the_unseen_choice_uses_held_out_words() -> None:
    held_out = {words[-1] for values in WORDS.values() for words in values.values()}
    for prompt in scene_prompts(200, seed=0, fixed={"shape": "circle"}, words="seen", templates="training"):
        assert not held_out & set(prompt.text.replace(",", "").split())


def test_excluded_values_never_occur() -> None:
    prompts = scene_prompts(300, seed=1, exclude={"shape": "circle"}, templates="all")
    assert all(prompt.expected.get("shape") != "circle" for prompt in prompts)
    assert not {"circle", "disc", "ball", "round"} & {word for prompt in prompts for word in prompt.text.split()}


@pytest.mark.parametrize("choice", [{"shape": "hexagon"}, {"size": "large"}])
def test_unknown_factors_and_values_are_refused_by_name(choice: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        scene_prompts(1, seed=0, fixed=choice)


def test_prompts_that_no_template_can_state_are_refused() -> None:
    fixed = {factor: VALUES[factor][0] for factor in FACTORS}
    assert scene_prompts(1, seed=0, fixed=fixed)
    assert {"training", "held_out", "all"} == set(TEMPLATES)


def test_concepts_carry_training_captions_with_name_and_seen_synonyms_only() -> None:
    assert {concept.kind for concept in CONCEPTS.values()} == {"object", "style", "attribute"}
    for name, concept in CONCEPTS.items():
        factor, value = factor_of(name)
        unseen = WORDS[factor][value][-1]
        spoken = (name, *concept.synonyms)
        assert unseen not in spoken
        for text in concept.prompts:
            words = text.replace(",", "").split()
            assert unseen not in words
            assert any(word in words for word in spoken)


def test_a_concept_outside_the_world_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"expected one of circle.*found 'van gogh'"):
        shapes_concept("van gogh")


def test_renders_are_seeded_pictures() -> None:
    one, same, other = (render(SCENE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (3, 32, 32)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("shape", VALUES["shape"])
@pytest.mark.parametrize("style", VALUES["style"])
def test_a_render_shows_its_background_at_the_rim_and_its_colour_inside(shape: str, style: str) -> None:
    picture = render(Scene(shape, "red", "white", style), np.random.default_rng(5)).astype(int)
    rim = np.concatenate([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], axis=1)
    assert (rim > 220).all()
    reddish = (picture[0] - picture[1] > 90) & (picture[0] - picture[2] > 90)
    assert reddish.sum() > 30


def test_outlines_are_hollow_and_plain_shapes_are_not() -> None:
    def middle(style: str) -> float:
        shown = render(Scene("circle", "blue", "white", style), np.random.default_rng(2))
        return float(shown[0, 13:19, 13:19].mean())

    assert middle("outlined") > 200 > 100 > middle("plain")


def test_scenes_cover_every_value() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(300)]
    for factor in FACTORS:
        assert {getattr(scene, factor) for scene in scenes} == set(VALUES[factor])
