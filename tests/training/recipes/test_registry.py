from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from robust_encoders import Concept, embedded_pipeline
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.losses import gram_distance
from robust_encoders.training.methods import DP, ESD, MACE, RACE, RECE, SPEED, TRCE, UCE, AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.retain import everyday_objects, object_prompts
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS, published_projection
from robust_encoders.training.worlds.shapes.concepts import beside, factor_of
from robust_encoders.training.worlds.shapes.retain import retain_prompts
from robust_encoders.training.worlds.shapes.vocabulary import HELD_OUT_TEMPLATES, WORDS

NAMES = ("circle", "striped", "red")


def words_of(texts: Any) -> set[str]:
    return {word for text in texts for word in text.replace(",", " ").split()}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_named_as_they_are_registered(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    methods = (
        "ablation|advunlearn|des|doco|dp|esd|hardened|hirm|hirm-s|mace|pooled-fast|pooled|race|rece|receler|s-grace|sage|"
        "speed|spm|strict|trce|uce"
    )
    family, concept = re.sub(f"-({methods})(-te|-unet|-x|-u)?$", "", name).split("/")
    assert recipe.base == family
    assert recipe.concept.name in (concept, concept.replace("_", " "), CATALOG.get(concept, CATALOG["nudity"]).concept)
    assert recipe.with_seed(3) == replace(recipe, seed=3)


@pytest.mark.parametrize("concept", NAMES)
def test_the_counterpart_differs_by_the_attack_alone(concept: str) -> None:
    robust, esd = RECIPES[f"shapes/{concept}-advunlearn"](), RECIPES[f"shapes/{concept}-esd"]()
    assert isinstance(robust.method, AdvUnlearn)
    assert isinstance(robust.method.adversary, AdversaryConfig)
    assert isinstance(esd.method, ESD)
    for field in ("retain", "unlearn", "select", "train", "bank"):
        assert getattr(robust.method, field) == getattr(esd.method, field)
    assert (robust.concept, robust.seed, robust.base) == (esd.concept, esd.seed, esd.base)


@pytest.mark.parametrize(("concept", "variant"), [("circle", "strict"), ("striped", "advunlearn"), ("red", "hardened")])
def test_what_is_shipped_is_one_of_them(concept: str, variant: str) -> None:
    shipped, like = RECIPES[f"shapes/{concept}"](), RECIPES[f"shapes/{concept}-{variant}"]()
    assert replace(shipped, name=like.name) == like


@pytest.mark.parametrize("concept", NAMES)
def test_the_hardened_recipe_has_another_anchor_only_where_it_lies_clearly_farther(concept: str) -> None:
    base = Backbone.from_pipeline(embedded_pipeline())
    usual, hardened = RECIPES[f"shapes/{concept}-advunlearn"](), RECIPES[f"shapes/{concept}-hardened"]()
    factor, value = factor_of(concept)
    texts, gram = usual.concept.prompts[:24], base.text_gram()
    far = {}
    for other in set(WORDS[factor]) - {value}:
        anchored = [anchor_prompt(text, replace(usual.concept, anchor=other)) for text in texts]
        with torch.no_grad():
            both = base.condition(texts), base.condition(anchored)
        far[other] = float(gram_distance(*both, gram.to(both[0])).mean())
    assert far[hardened.concept.anchor] > 0.9 * max(far.values())
    assert hardened.concept == replace(usual.concept, anchor=hardened.concept.anchor)
    if hardened.concept.anchor != usual.concept.anchor:
        assert far[usual.concept.anchor] < 0.6 * far[hardened.concept.anchor]


def test_the_strict_recipe_knows_what_stands_beside_the_concept_in_words_that_training_may_see() -> None:
    strict, hardened = (RECIPES[f"shapes/circle-{variant}"]() for variant in ("strict", "hardened"))
    assert isinstance(strict.method, AdvUnlearn)
    outliers = strict.method.outliers
    assert set(outliers.batches()) == {"strings", "shuffled", "off_manifold", "inserted", "searched"}
    assert 0 < outliers.caption_share < 1
    assert outliers.alternatives == (
        *("square", "box", "block", "triangle", "wedge", "pyramid", "star", "pentagram", "starburst"),
        *("cross", "plus", "crucifix", "ring", "hoop", "annulus"),
    )
    assert strict.concept == hardened.concept
    odd = [text for text in strict.method.retained if len(set(text.split()) & set(outliers.alternatives)) != 1]
    assert not [text for text in odd if "," not in text], "what is retained is caption-like"
    assert "star" in beside("circle")
    assert beside("red")[:3] == ("green", "emerald", "blue")


def test_terms_of_one_concept_are_refused_for_several() -> None:
    red = RECIPES["shapes/red"]().concept
    with pytest.raises(ValueError, match="such as shapes/circle-hardened, or train the concepts one by one"):
        RECIPES["shapes/circle-strict"]().together((red,))
    assert RECIPES["shapes/circle-hardened"]().together((red,)).concept.parts


@pytest.mark.parametrize("concept", NAMES)
def test_retain_prompts_neither_name_the_concept_nor_leak_what_is_held_out(concept: str) -> None:
    factor, value = factor_of(concept)
    texts = retain_prompts(concept)
    assert len(texts) == len(set(texts)) >= 256
    used = words_of(texts)
    assert not used & set(WORDS[factor][value])
    assert not used & {words[-1] for values in WORDS.values() for words in values.values()}
    assert not any(text.startswith(template.split(" {")[0]) for text in texts for template in HELD_OUT_TEMPLATES[:2])
    assert retain_prompts(concept) == texts


@pytest.mark.parametrize("concept", NAMES)
def test_every_neighbour_is_retained(concept: str) -> None:
    factor, value = factor_of(concept)
    first = words_of(retain_prompts(concept)[:128])
    for other, words in WORDS[factor].items():
        if other != value:
            assert first & set(words[:-1])


@pytest.mark.parametrize("concept", NAMES)
def test_every_concept_prompt_has_an_anchor_without_the_concept(concept: str) -> None:
    recipe = RECIPES[f"shapes/{concept}"]()
    factor, value = factor_of(concept)
    assert len(recipe.concept.prompts) > 64
    for prompt in recipe.concept.prompts:
        assert not words_of([anchor_prompt(prompt, recipe.concept)]) & set(WORDS[factor][value])


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_the_papers_concepts_have_its_settings(concept: str, family: str) -> None:
    recipe = RECIPES[f"{family}/{concept}"]()
    method, erased = recipe.method, CATALOG[concept].erased()
    assert isinstance(method, AdvUnlearn)
    assert (recipe.concept, recipe.license) == (erased, LICENSES[family])
    assert method.adversary == AdversaryConfig()
    assert (method.adversary.warmup, method.attack) == (200, SoftPrompt(steps=30, rate=1e-3))
    assert (method.train.iterations, method.train.rate, method.train.schedule) == (1000, 1e-5, "constant")
    assert (method.bank.steps, method.bank.guidance, method.retain.batch, method.unlearn.batch) == (50, 3.0, 5, 1)
    if concept == "nudity":
        assert (method.retain.weight, method.select.layers, method.select.final_norm) == (0.3, None, True)
    else:
        assert (method.retain.weight, method.select.layers, method.select.final_norm) == (0.5, (0,), False)


def test_everyday_objects_are_many_different_and_plain() -> None:
    objects = everyday_objects()
    assert len(objects) == len(set(objects)) >= 200
    assert all(name == name.strip().lower() and len(name.split()) <= 4 for name in objects)
    left_out = {
        "person",
        "man",
        "woman",
        "child",
        "face",
        "hand",
        "leg",
        "arm",
        "skin",
        "body",
        "shirt",
        "dress",
        "bra",
    }
    assert not words_of(objects) & left_out


def test_the_retain_set_leaves_out_the_concept_and_keeps_its_neighbours() -> None:
    truck = object_prompts(Concept(name="fire truck", kind="object"))
    assert set(object_prompts(CATALOG["tench"].erased())) - set(truck) == {"a photo of a fire truck"}
    assert not [text for text in object_prompts(Concept(name="Dog", kind="object")) if "dog" in text.split()]
    assert {"a photo of an apple", "a photo of a fire truck", "a photo of a salmon"} <= set(
        object_prompts(CATALOG["garbage_truck"].erased())
    )


@pytest.mark.parametrize("concept", NAMES)
def test_projections_of_the_embedded_base_edit_captions_and_preserve_others(concept: str) -> None:
    uce, rece = RECIPES[f"shapes/{concept}-uce"](), RECIPES[f"shapes/{concept}-rece"]()
    assert isinstance(uce.method, UCE)
    assert isinstance(rece.method, RECE)
    assert rece.method.start == uce.method
    assert uce.method.retained == rece.method.retained == retain_prompts(concept)
    assert (uce.method.texts, uce.method.tokens) == ("prompts", "from_last")
    assert uce.concept == RECIPES[f"shapes/{concept}-advunlearn"]().concept


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_published_projections_have_the_papers_settings(concept: str, family: str) -> None:
    recipe = RECIPES[f"{family}/{concept}-uce"]()
    assert recipe.method == UCE()
    assert (recipe.concept, recipe.base, recipe.license) == (CATALOG[concept].erased(), family, LICENSES[family])
    if concept == "tench":
        assert f"{family}/{concept}-rece" not in RECIPES
        with pytest.raises(ValueError, match="expected a concept that RECE was run for"):
            published_projection("rece", concept)
    else:
        rece = RECIPES[f"{family}/{concept}-rece"]().method
        strengths = {"nudity": (0.1, 3), "parachute": (0.1, 1)}
        assert isinstance(rece, RECE)
        assert (rece.regulariser, rece.epochs) == strengths.get(concept, (1e-3, 1))
        assert rece.start == UCE(tokens="from_last")


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_published_erasures_of_the_unet_have_the_papers_settings(concept: str, family: str) -> None:
    group = "x" if concept == "vangogh" else "u"
    recipe, race = RECIPES[f"{family}/{concept}-esd-{group}"](), RECIPES[f"{family}/{concept}-race"]()
    esd = recipe.method
    assert isinstance(esd, ESD)
    assert (esd.component, esd.unet.group, esd.retained) == ("unet", group, ())
    assert not esd.wants_retained
    assert (esd.train.iterations, esd.train.rate, esd.unlearn.eta, esd.unlearn.batch) == (1000, 1e-5, 1.0, 1)
    assert (esd.bank.steps, esd.bank.guidance) == (50, 3.0)
    assert isinstance(race.method, RACE)
    assert race.method.start == esd
    assert race.method == RACE(start=esd, train=esd.train), "all others are the paper's defaults"
    assert (recipe.concept, recipe.base, recipe.license) == (CATALOG[concept].erased(), family, LICENSES[family])


@pytest.mark.parametrize("concept", NAMES)
def test_advunlearn_on_the_unet_is_esd_with_an_attack_and_a_slower_training(concept: str) -> None:
    attacked, esd = (RECIPES[f"shapes/{concept}-{name}"]().method for name in ("advunlearn-unet", "esd-unet"))
    assert isinstance(attacked, AdvUnlearn)
    assert isinstance(esd, ESD)
    for part in ("component", "unet", "unlearn", "retain", "bank"):
        assert getattr(attacked, part) == getattr(esd, part)
    assert replace(attacked.train, iterations=esd.train.iterations, rate=esd.train.rate) == esd.train
    assert attacked.train.rate < esd.train.rate
    text = RECIPES[f"shapes/{concept}-advunlearn"]().method
    assert isinstance(text, AdvUnlearn)
    assert (attacked.attack, attacked.adversary) == (text.attack, text.adversary)


@pytest.mark.parametrize("concept", NAMES)
def test_race_begins_with_the_esd_of_the_same_component(concept: str) -> None:
    unet, text = RECIPES[f"shapes/{concept}-race"]().method, RECIPES[f"shapes/{concept}-race-te"]().method
    assert isinstance(unet, RACE)
    assert isinstance(text, RACE)
    assert unet.start == RECIPES[f"shapes/{concept}-esd-unet"]().method
    esd = RECIPES[f"shapes/{concept}-esd"]().method
    assert isinstance(esd, ESD)
    assert text.start == replace(esd, train=text.start.train)
    assert (unet.component, text.component) == ("unet", "text_encoder")


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_published_closed_forms_have_the_papers_settings(concept: str, family: str) -> None:
    recipes = {name: RECIPES[f"{family}/{concept}-{name}"]() for name in ("speed", "speed-te", "dp", "trce", "mace")}
    erased = CATALOG[concept].erased()
    kept = object_prompts(erased)
    nudity = concept == "nudity"
    speed = SPEED(preserve=kept)
    if nudity:
        speed = replace(speed, tokens="after_start", retain_scale=0.7, lamb=0.5)
    assert recipes["speed"].method == speed
    assert recipes["speed-te"].method == replace(speed, component="text_encoder")
    assert recipes["dp"].method == DP(preserve=kept)
    assert recipes["trce"].method == TRCE(preserve=kept)
    assert recipes["mace"].method == MACE(preserve=kept, preserve_scale=0.021 if nudity else 3.0)
    assert {(one.concept, one.base, one.license) for one in recipes.values()} == {(erased, family, LICENSES[family])}


@pytest.mark.parametrize("concept", NAMES)
def test_closed_forms_of_the_embedded_base_preserve_captions(concept: str) -> None:
    for name in ("speed", "speed-te", "dp", "trce", "mace"):
        recipe = RECIPES[f"shapes/{concept}-{name}"]()
        method: Any = recipe.method
        assert method.retained == retain_prompts(concept)
        assert method.texts == ("words" if name in ("trce", "mace") else "prompts")
        assert recipe.concept == RECIPES[f"shapes/{concept}-uce"]().concept
    one, other = (RECIPES[f"shapes/{concept}-{name}"]().method for name in ("speed", "speed-te"))
    assert isinstance(one, SPEED)
    assert one.for_component("text_encoder") == other
