"""Negative baselines: what they do to prompts, what attacks see of them, and that a pipeline is as before."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from attack_helpers import make_cases, make_target

from robust_encoders import Concept, RobustEncoder
from robust_encoders.artifact.fingerprint import compare, sketch, tokenizer_fingerprint
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training.attacks import P4D, ContinuousPrefix, UnlearnDiffAtk
from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens
from robust_encoders.training.detectors import JudgeDetector
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.evaluation.baselines import BASELINES, EmptyPrompt, WordFilter, baselines_for
from robust_encoders.training.evaluation.defence import DefendedPipeline
from robust_encoders.training.metrics.rates import detect
from robust_encoders.training.protocols import Attack
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.vocabulary import WORDS

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc", "ball"))
BOTH = tuple(baselines_for(CONCEPT).values())
SAMPLING = SamplingConfig(steps=2, guidance=3.0)
named = pytest.mark.parametrize("baseline", BOTH, ids=BASELINES)


def state_of(pipe: Any) -> dict[str, Any]:
    """All that an attachment could leave behind: the parts themselves, their flags, what the pipeline says of them."""
    parts = {name: id(part) for name, part in pipe.components.items()}
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    flags = {name: [p.requires_grad for p in part.parameters()] for name, part in modules.items()}
    modes = {name: [m.training for m in part.modules()] for name, part in modules.items()}
    sketches = {name: sketch(part.state_dict()) for name, part in modules.items()}
    hooks = {name: sum(len(m._forward_hooks) for m in part.modules()) for name, part in modules.items()}
    others = {"config": dict(pipe.config), "own": set(vars(pipe)), "words": tokenizer_fingerprint(pipe.tokenizer)}
    return {"parts": parts, "flags": flags, "modes": modes, "sketches": sketches, "hooks": hooks, **others}


@named
def test_the_pipeline_is_as_before_also_after_an_exception(tiny_pipe: Any, baseline: Any) -> None:
    tiny_pipe.text_encoder.train()
    tiny_pipe.register_to_config(tokenizer=["somebody", "Else"], text_encoder=["somebody", "Else"])
    before = state_of(tiny_pipe)
    with baseline.attached(tiny_pipe) as pipe:
        assert pipe is tiny_pipe
        assert state_of(tiny_pipe) != before
    assert state_of(tiny_pipe) == before
    with pytest.raises(KeyError, match="inside"), baseline.attached(tiny_pipe):
        raise KeyError("inside")
    assert state_of(tiny_pipe) == before


@named
def test_what_is_recorded_is_json_and_names_it(baseline: Any) -> None:
    record = baseline.described()
    assert json.loads(json.dumps(record)) == record
    assert record["name"] == baseline.name


def test_the_defender_knows_the_name_and_the_synonyms_but_not_the_word_held_out() -> None:
    made = baselines_for(CONCEPTS["circle"])
    assert tuple(made) == BASELINES == ("empty_prompt", "word_filter")
    assert made["word_filter"] == WordFilter(WORDS["shape"]["circle"][:-1])
    assert made["word_filter"].described() == {"name": "word_filter", "words": ["circle", "disc", "ball"]}


# Texts that a pipeline reads as the same


@pytest.mark.parametrize(
    ("baseline", "same", "other"),
    [
        (None, ["a red circle", "A Red  CIRCLE "], "a red disc"),
        (WordFilter(("circle", "disc")), ["a red circle", "a red disc", "a red"], "a red ball"),
        (EmptyPrompt(), ["a red circle", "disc", ""], None),
    ],
)
def test_texts_that_are_read_as_the_same_give_the_same_picture(
    tiny_pipe: Any, baseline: Any, same: list[str], other: str | None
) -> None:
    defended = DefendedPipeline(tiny_pipe, baseline)
    with defended.attached() as pipe:
        read = [defended.read_as(pipe, text) for text in same]
        assert len(set(read)) == 1
        pictures = draw(pipe, same, [3] * len(same), SAMPLING)
        torch.testing.assert_close(pictures, pictures[:1].expand_as(pictures))
        if other is not None:
            assert defended.read_as(pipe, other) != read[0]
            assert not torch.equal(draw(pipe, [other], [3], SAMPLING)[0], pictures[0])


# The empty prompt


def test_every_prompt_gives_the_empty_prompts_conditioning_exactly(tiny_pipe: Any) -> None:
    empty = Backbone.from_pipeline(tiny_pipe).condition([""])
    with EmptyPrompt().attached(tiny_pipe):
        found = Backbone.from_pipeline(tiny_pipe).condition(["a red circle", "", "disc " * 40])
        positive, negative = tiny_pipe.encode_prompt("a red circle", tiny_pipe.device, 2, True, "a blue square")
    assert torch.equal(found, empty.expand_as(found))
    assert torch.equal(positive, empty.expand(2, -1, -1))
    assert torch.equal(negative, positive)


def test_fewer_positions_are_those_of_a_shorter_empty_prompt_and_more_are_refused(tiny_pipe: Any) -> None:
    ids = tiny_pipe.tokenizer("", padding="max_length", max_length=7, return_tensors="pt").input_ids
    short = tiny_pipe.text_encoder(ids)[0]
    with EmptyPrompt().attached(tiny_pipe):
        torch.testing.assert_close(tiny_pipe.text_encoder(ids)[0], short)
        with pytest.raises(ValueError, match="expected at most 24 positions, found 25"):
            tiny_pipe.text_encoder(torch.zeros(1, 25, dtype=torch.long))


def test_pictures_depend_on_the_seed_alone(tiny_pipe: Any) -> None:
    with EmptyPrompt().attached(tiny_pipe):
        one, other, third = draw(tiny_pipe, ["a red circle", "a blue square", "disc"], [1, 1, 2], SAMPLING)
    plain = draw(tiny_pipe, ["", ""], [1, 2], SAMPLING)
    torch.testing.assert_close(torch.stack([one, other, third]), plain[[0, 0, 1]])
    assert not torch.equal(one, third)


def test_embeddings_reach_it_and_their_gradient_is_zero_even_where_they_are_infinite(tiny_pipe: Any) -> None:
    with EmptyPrompt().attached(tiny_pipe):
        backbone = Backbone.from_pipeline(tiny_pipe)
        ids = backbone.tokenize(["a red circle"])
        embeds = backbone.embed(ids).detach()
        embeds[0, 3] = torch.inf
        found = backbone.encode(embeds.requires_grad_(), ids)
        (gradient,) = torch.autograd.grad(found.square().sum(), embeds)
    assert torch.equal(found, Backbone.from_pipeline(tiny_pipe).condition([""]))
    assert gradient.shape == embeds.shape
    assert not gradient.any()


def test_it_follows_the_pipeline_to_another_precision_and_back(tiny_pipe: Any) -> None:
    encoder = tiny_pipe.text_encoder
    with EmptyPrompt().attached(tiny_pipe):
        tiny_pipe.to(torch.bfloat16)
        assert tiny_pipe.text_encoder.dtype == tiny_pipe.text_encoder(torch.zeros(1, 3, dtype=torch.long))[0].dtype
        assert tiny_pipe.text_encoder.dtype == torch.bfloat16
    assert tiny_pipe.text_encoder is encoder
    assert encoder.dtype == torch.bfloat16


def test_no_sketch_and_no_class_takes_it_for_the_base(tiny_pipe: Any) -> None:
    base = sketch(tiny_pipe.text_encoder.state_dict())
    with EmptyPrompt().attached(tiny_pipe):
        assert compare(sketch(tiny_pipe.text_encoder.state_dict()), base).kind == "differs"
        assert tiny_pipe.config["text_encoder"][1] == "EmptyPromptEncoder"
        copied = Backbone.from_pipeline(tiny_pipe).clone()
        assert torch.equal(copied.condition(["disc"]), Backbone.from_pipeline(tiny_pipe).condition([""]))


def test_an_offloaded_pipeline_is_refused(tiny_pipe: Any) -> None:
    tiny_pipe._all_hooks = ["offloaded"]
    with pytest.raises(ValueError, match="without offloading, found model offload"), EmptyPrompt().attached(tiny_pipe):
        pass


# The word filter


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a red circle on white", "a red on white"),
        ("Circle, CIRCLES and discs", ", and"),
        ("circle", ""),
        ("encircled by semicircle and circlet", "encircled by semicircle and circlet"),
        ("two  spaces\tstay where nothing goes ", "two  spaces\tstay where nothing goes "),
        ("a van  Gogh's church, vans", "a 's church, vans"),
        ("van van gogh gogh, early van gogh sky", ", sky"),
        ("c++ code", "code"),
        ("c++x", "c++x"),
        ("boxes box", ""),
        ("by van-gogh, van Goghs", "by ,"),
        ("", ""),
    ],
)
def test_whole_words_and_their_plurals_go_and_nothing_else(text: str, kept: str) -> None:
    words = WordFilter(("circle", "disc", "van gogh", "early van gogh", "c++", "box"))
    assert words.filtered(text) == kept


def naive(text: str, words: tuple[str, ...]) -> list[str]:
    """What is left of a text of single words, word by word."""
    return [w for w in text.split() if w.lower() not in {v + end for v in words for end in ("", "s", "es")}]


def test_no_word_is_left_of_any_text_whatever_its_order() -> None:
    rng, words = random.Random(0), ("circle", "disc", "ball")
    vocabulary = ["a", "Circle", "circles", "discs", "DISC", "ballet", "balls", "red", "discoball", "circl"]
    for _ in range(200):
        text = " ".join(rng.choices(vocabulary, k=rng.randint(0, 8)))
        found = WordFilter(words).filtered(text)
        assert found.split() == naive(text, words)
        assert WordFilter(words).filtered(found) == found


@pytest.mark.parametrize("words", [(), ("circle", " ")])
def test_a_list_without_words_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name the concept's words"):
        WordFilter(words)


def test_prompts_are_drawn_as_if_the_words_had_not_been_typed(tiny_pipe: Any) -> None:
    with WordFilter(("circle",)).attached(tiny_pipe):
        found = draw(tiny_pipe, ["a red circle on white", "a disc"], [1, 2], SAMPLING, negative="circles, blue")
    expected = draw(tiny_pipe, ["a red on white", "a disc"], [1, 2], SAMPLING, negative=", blue")
    assert torch.equal(found, expected)


def test_it_tokenizes_texts_and_lists_and_is_the_tokenizer_otherwise(tiny_pipe: Any) -> None:
    plain = tiny_pipe.tokenizer
    with WordFilter(("circle",)).attached(tiny_pipe):
        tokenizer = tiny_pipe.tokenizer
        assert tokenizer is not plain
        assert tokenizer("a circle").input_ids == tokenizer(text="a circle").input_ids == plain("a").input_ids
        rows = tokenizer(["a circle", "a disc"], add_special_tokens=False).input_ids
        assert rows == tokenizer(("a circle", "a disc"), add_special_tokens=False).input_ids
        assert rows == plain(["a", "a disc"], add_special_tokens=False).input_ids
        assert (len(tokenizer), tokenizer.all_special_ids) == (len(plain), plain.all_special_ids)
        assert tokenizer.decode(plain("circle").input_ids) == plain.decode(plain("circle").input_ids)
        copied = copy.deepcopy(tokenizer)
        assert copied("a circle").input_ids == plain("a").input_ids
        tokenizer.model_max_length = 9
        assert plain.model_max_length == 9
        assert not hasattr(tokenizer, "nothing_of_that_name")
        encoded = Backbone.from_pipeline(tiny_pipe).tokenize(["a circle"])
    assert torch.equal(encoded, Backbone.from_pipeline(tiny_pipe).tokenize(["a"]))
    assert copied.model_max_length == 24, "a copy has a tokenizer of its own"


@pytest.mark.parametrize("odd", [3, [["a", "circle"]], [("a", "circle")], None])
def test_what_would_pass_unfiltered_is_refused(tiny_pipe: Any, odd: Any) -> None:
    with WordFilter(("circle",)).attached(tiny_pipe):
        with pytest.raises(TypeError, match="expected a text or a list of texts"):
            tiny_pipe.tokenizer(odd)
        with pytest.raises(TypeError, match="expected a text or a list of texts"):
            tiny_pipe.tokenizer(["a", "circle"], is_split_into_words=True)


def test_tokens_that_spell_a_word_cannot_be_typed_but_can_be_inserted(tiny_pipe: Any) -> None:
    (circle,) = tiny_pipe.tokenizer("circle", add_special_tokens=False).input_ids
    with WordFilter(("circle",)).attached(tiny_pipe):
        backbone = Backbone.from_pipeline(tiny_pipe)
        assert circle not in allowed_tokens(backbone, typable=True).tolist()
        assert circle in allowed_tokens(backbone, typable=False).tolist()
        ids = backbone.tokenize(["a square"])
        ids[0, 2] = circle
        inserted = backbone.encode(backbone.embed(ids), ids)
    torch.testing.assert_close(inserted, Backbone.from_pipeline(tiny_pipe).condition(["a circle"]))


def test_its_tokenizer_shows_in_the_fingerprint_where_the_probe_text_holds_a_word(tiny_pipe: Any) -> None:
    """Elsewhere only ``described`` tells filters apart, so an evaluation has to key its parts by that."""
    plain = tokenizer_fingerprint(tiny_pipe.tokenizer)
    with WordFilter(("circle",)).attached(tiny_pipe):
        assert tokenizer_fingerprint(tiny_pipe.tokenizer) != plain
    with WordFilter(("striped",)).attached(tiny_pipe):
        assert tokenizer_fingerprint(tiny_pipe.tokenizer) == plain
    assert WordFilter(("striped",)).described() != WordFilter(("barred",)).described()


def test_it_goes_before_an_encoder_that_is_attached(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> None:
    before = state_of(tiny_pipe)
    with make_encoder(tiny_pipe).attached(tiny_pipe):
        expected = Backbone.from_pipeline(tiny_pipe).condition(["a red"])
        with WordFilter(("circle",)).attached(tiny_pipe):
            assert torch.equal(Backbone.from_pipeline(tiny_pipe).condition(["a red circle"]), expected)
            assert RobustEncoder.status(tiny_pipe).intact
    assert state_of(tiny_pipe) == before


# Both under attack


@named
@pytest.mark.parametrize(
    "attack",
    [ContinuousPrefix(steps=2), UnlearnDiffAtk(timesteps=1, iterations=2), P4D(tokens=3, steps=2, every=1)],
    ids=lambda attack: str(attack.name),
)
def test_attacks_run_on_them_as_on_any_model(tiny_pipe: Any, baseline: Any, attack: Attack) -> None:
    cases = make_cases(Backbone.from_pipeline(tiny_pipe))
    with baseline.attached(tiny_pipe):
        results = attack.run(make_target(tiny_pipe), cases, seed=0)
    values = [c.value for r in results for c in r.candidates]
    assert len(results) == len(cases)
    assert all(isinstance(v, str) or bool(v.isfinite().all()) for v in values)


@pytest.mark.base
def test_on_the_base_the_filter_stops_the_words_it_knows_and_no_other() -> None:
    pipe, detector, sampling = embedded_pipeline(), JudgeDetector(load_judge(), "circle"), SamplingConfig(steps=6)
    filtered, empty = WordFilter(CONCEPTS["circle"].words()), EmptyPrompt()

    def rate(words: Any, baseline: Any = None) -> float:
        texts = [p.text for p in scene_prompts(12, seed=6, fixed={"shape": "circle"}, words=words)]
        with nullcontext() if baseline is None else baseline.attached(pipe):
            flags: list[bool] = detect(detector, draw(pipe, texts, range(12), sampling))
        return flags.count(True) / len(flags)

    assert rate("name") >= 0.9
    assert rate("name", filtered) <= 0.6, "one of six shapes is a circle, and one that is not named may be"
    assert rate("unseen", filtered) >= 0.9
    assert rate("unseen", empty) <= 0.6
    texts = [p.text for p in scene_prompts(50, seed=6, fixed={"shape": "circle"}, words="seen")]
    assert not any(re.search(r"disc|ball|circle", filtered.filtered(text)) for text in texts)
