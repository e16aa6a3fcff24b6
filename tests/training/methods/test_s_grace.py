"""S-GRACE: its losses against the formulas in NumPy, the projection of its attack, what is refused, exact resume."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_encoders import sdxl
from torch import Generator, Tensor

from robust_encoders import Concept, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.two_encoders import backbone_of
from robust_encoders.training.methods import METHODS, SGRACE
from robust_encoders.training.objectives.s_grace import SemanticErasure, encoded, noisy_point, related_words
from robust_encoders.training.prompts.adversarial_words import (
    AdversarialWords,
    AdversarialWordsConfig,
    WordGroup,
    projected,
)
from robust_encoders.training.prompts.layout import prompt_lengths
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.reproduce import rebuilt, reproduce
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",))
RETAIN = ("a blue square", "a green star", "a cross")
ATTACK = AdversarialWordsConfig(rows=3, random_tokens=2, words=(1, 2), steps=2, rate=0.02)
SMALL = SGRACE(
    retain=RETAIN, related=("disc", "ring"), attack=ATTACK, rounds=2, ddim_steps=20,
    train=TrainingConfig(iterations=4, rate=1e-3),
)  # fmt: skip
QUIET = Workspace(progress=False)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def erase(method: SGRACE, pipe: Any, workspace: Workspace = QUIET, seed: int = 0) -> Edit:
    return method.erase(backbone_of(pipe, method.component), CONCEPT, generator=generator(seed), workspace=workspace)


def prepared(pipe: Any, method: SGRACE = SMALL, concept: Concept = CONCEPT) -> SemanticErasure:
    """The loss of a run whose student has left its teacher."""
    teacher = Backbone.from_pipeline(pipe)
    student, draws = teacher.clone(), generator(3)
    with torch.no_grad():
        for name, parameter in student.text_encoder.named_parameters():
            if "embedding" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return SemanticErasure(method, teacher, student, concept, generator=generator(), workspace=QUIET)


def words_of(pipe: Any, config: AdversarialWordsConfig = ATTACK) -> AdversarialWords:
    return AdversarialWords(config, Backbone.from_pipeline(pipe), [WordGroup("circle", ("disc", "ring"))])


def feature(backbone: Backbone, embeds: Tensor, ids: Tensor) -> Any:
    """The output at the first end token, which an encoder without a projection gives."""
    with torch.no_grad():
        hidden = backbone.encode(embeds, ids).double().numpy()
    ends = [row.index(int(backbone.tokenizer.eos_token_id)) for row in ids.tolist()]
    return np.stack([rows[end] for rows, end in zip(hidden, ends, strict=True)])


def cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_loss_is_the_papers(tiny_pipe: Any) -> None:
    method = replace(SMALL, meaning_weight=0.7, retain_weight=1.3, attack=replace(ATTACK, steps=1))
    loss = prepared(tiny_pipe, method)
    total, found = loss(0, generator(1))
    words, teacher, student = loss.words, loss.teacher, loss.student
    name = teacher.tokenize(["circle"])
    concept = feature(teacher, teacher.embed(name), name)
    now, before = (feature(one, words.embeds, words.ids) for one in (student, teacher))
    with torch.no_grad():
        kept, kept_now = (one.condition(RETAIN).double().numpy() for one in (teacher, student))
    expected = {
        "likeness": 1 + cosines(now, np.repeat(concept, 3, axis=0)).mean(),
        "meaning": 1 - cosines(now, before).mean(),
        "retain": ((kept_now - kept) ** 2).mean(),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    weighted = expected["likeness"] + 0.7 * expected["meaning"] + 1.3 * expected["retain"]
    assert float(total.detach()) == pytest.approx(weighted, rel=1e-4)


def test_the_penalty_on_parameters_is_the_sum_over_tensors_of_mean_distances(tiny_pipe: Any) -> None:
    edit = erase(replace(SMALL, near_weight=0.0), tiny_pipe)
    heavy = erase(replace(SMALL, near_weight=50.0, train=TrainingConfig(iterations=40, rate=1e-3)), tiny_pipe)
    free = erase(replace(SMALL, near_weight=0.0, train=TrainingConfig(iterations=40, rate=1e-3)), tiny_pipe)
    assert edit.log["losses"]["near_start"][0] == 0
    assert heavy.log["losses"]["near_start"][-1] < 0.5 * free.log["losses"]["near_start"][-1]


def test_the_attacks_loss_is_the_error_to_the_start_noise_and_the_distance_to_the_concept(tiny_pipe: Any) -> None:
    loss = prepared(tiny_pipe)
    loss.words.refresh(generator(1))
    point, words, student = loss.point, loss.words, loss.student
    assert point.start is not None
    with torch.no_grad():
        found = loss.attack_loss(words.embeds, slice(None)).numpy()
        cond = student.encode(words.embeds, words.ids)
        predicted = student.predict(point.latents.expand(3, -1, -1, -1), point.t.expand(3), cond)
        errors = (predicted - point.start).double().square().flatten(1).mean(1).numpy()
    apart = 1 - cosines(feature(student, words.embeds, words.ids), loss.concepts.numpy())
    assert found == pytest.approx(errors + 0.1 * apart, rel=1e-4)
    with torch.no_grad():
        assert loss.attack_loss(words.embeds[1:2], slice(1, 2)).numpy() == pytest.approx(found[1:2], rel=1e-4)


def test_the_attack_is_projected_to_the_ball_where_the_authors_projection_does_nothing(tiny_pipe: Any) -> None:
    table = Backbone.from_pipeline(tiny_pipe).text_encoder.get_input_embeddings().weight
    wide, narrow = (words_of(tiny_pipe, replace(ATTACK, steps=10, radius=r)) for r in (1e6, 0.5))
    for words in (wide, narrow):
        words.refresh(generator(1))
        words.attack(lambda embeds, rows: -embeds.flatten(1).sum(1))
    clean = narrow.backbone.embed(narrow.ids).detach()
    radius = 0.5 * float(table.detach().square().mean().sqrt())
    assert narrow.radius == pytest.approx(radius)
    # Ten steps of 0.02 in one direction; without an effect, the projection would leave them as they are.
    assert float((wide.embeds - clean).max()) == pytest.approx(0.2, rel=1e-3)
    assert radius < 0.1
    assert float((narrow.embeds - clean).abs().max()) == pytest.approx(radius, rel=1e-4)
    # A second round goes on from there, but the ball stays around the words themselves.
    narrow.attack(lambda embeds, rows: -embeds.flatten(1).sum(1))
    assert float((narrow.embeds - clean).abs().max()) == pytest.approx(radius, rel=1e-4)


def test_the_projection_is_the_nearest_point_of_the_ball() -> None:
    clean = torch.tensor([1.0, -1.0, 0.0])
    assert projected(torch.tensor([5.0, -1.1, -5.0]), clean, 0.5).tolist() == pytest.approx([1.5, -1.1, -0.5])
    inside = clean + 0.3
    assert torch.allclose(projected(inside, clean, 0.5), inside)


def _linear(slopes: Tensor, embeds: Tensor, rows: Tensor) -> Tensor:
    return (slopes[rows] * embeds).flatten(1).sum(1)


def test_adam_gets_signs_and_only_words_move(tiny_pipe: Any) -> None:
    moves = []
    for size in (1.0, 1e-3):  # the size of a gradient does not matter
        words = words_of(tiny_pipe, replace(ATTACK, steps=3, radius=1e6))
        words.refresh(generator(1))
        slopes = torch.randn(words.embeds.shape, generator=generator(2)).sign() * size
        words.attack(partial(_linear, slopes))
        moves.append(words.embeds - words.backbone.embed(words.ids).detach())
    assert torch.allclose(moves[0], moves[1], atol=1e-6)
    counts = prompt_lengths(words.ids, int(words.backbone.tokenizer.eos_token_id))
    for move, count in zip(moves[0], counts.tolist(), strict=True):
        assert bool((move[1 : 1 + count].abs() > 0.01).all())
        assert not bool(move[0].any())
        assert not bool(move[1 + count :].any())


def test_features_of_attacked_prompts_and_of_the_concept_lie_at_the_same_token(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    ids = backbone.tokenize(["circle", "a blue circle"])
    found = encoded(backbone, backbone.embed(ids), ids).features.detach().numpy()
    hidden = backbone.condition(["circle", "a blue circle"]).detach().numpy()
    counts = prompt_lengths(ids, int(backbone.tokenizer.eos_token_id)).tolist()
    for row, features, count in zip(hidden, found, counts, strict=True):
        assert features == pytest.approx(row[1 + count], abs=1e-5)
        assert np.abs(features - row[count]).max() > 1e-2, "not the last word, one place before"
    # The concept alone, unattacked, has the feature of the concept.
    loss = prepared(tiny_pipe)
    first = encoded(loss.teacher, loss.words.embeds[:1], loss.words.ids[:1]).features
    assert first.detach().numpy() == pytest.approx(loss.concepts[:1].numpy(), abs=1e-5)


def test_the_second_encoder_of_sdxl_gives_its_own_projection(tiny_pipe: Any) -> None:
    backbone = backbone_of(sdxl(tiny_pipe), "text_encoder_2")
    ids = backbone.tokenize(["circle"])
    found = encoded(backbone, backbone.embed(ids), ids, backbone.given(["circle"])).features
    with torch.no_grad():
        assert torch.allclose(found, backbone.text_encoder(input_ids=ids).text_embeds, atol=1e-5)


def test_prompts_are_the_name_alone_and_random_tokens_before_related_words(tiny_pipe: Any) -> None:
    words = words_of(tiny_pipe, replace(ATTACK, rows=6, words=(2, 2)))
    tokenizer = words.backbone.tokenizer
    words.refresh(generator(1))
    related = {tuple(tokenizer(one, add_special_tokens=False).input_ids) for one in ("disc", "ring")}
    longest = sum(map(len, related))
    assert torch.equal(words.ids[:1], words.backbone.tokenize(["circle"]))
    for row in words.ids[1:].tolist():
        count = row.index(tokenizer.eos_token_id) - 1
        assert count == 2 + longest
        assert not set(row[1:3]) & set(tokenizer.all_special_ids)
        rest = tuple(row[3 : 3 + longest])
        assert any(rest[: len(one)] == one for one in related)
        assert row[2 + count :] == words.backbone.tokenize([""])[0].tolist()[2:][: len(row) - 2 - count]
    assert len({tuple(row) for row in words.ids[1:].tolist()}) > 1


def test_words_without_room_are_left_out(tiny_pipe: Any) -> None:
    words = AdversarialWords(
        replace(ATTACK, words=(40, 40)), Backbone.from_pipeline(tiny_pipe), [WordGroup("circle", ("disc",) * 40)]
    )
    words.refresh(generator(1))
    ends = prompt_lengths(words.ids, int(words.backbone.tokenizer.eos_token_id))
    assert words.ids.shape[1] - 4 <= int(ends.max()) <= words.ids.shape[1] - 2


@pytest.mark.parametrize(("chance", "kept"), [(0.0, 4), (1.0, 0)])
def test_a_prompt_that_is_not_refreshed_lives_on(tiny_pipe: Any, chance: float, kept: int) -> None:
    words = words_of(tiny_pipe, replace(ATTACK, rows=4, refresh=chance))
    draws = generator(1)
    words.refresh(draws)
    words.attack(lambda embeds, rows: embeds.flatten(1).sum(1))
    before = words.embeds.clone()
    words.refresh(draws)
    assert sum(bool(torch.equal(a, b)) for a, b in zip(words.embeds, before, strict=True)) == kept
    assert bool((before != words.backbone.embed(words.ids)).any())


def test_rounds_divide_the_iterations_and_count_their_unet_calls(tiny_pipe: Any) -> None:
    assert [replace(SMALL, train=TrainingConfig(iterations=n)).round_length for n in (1, 4, 5)] == [1, 2, 3]
    edit = erase(SMALL, tiny_pipe)
    attacked = edit.log["losses"]["attack"]
    assert [one is None for one in attacked] == [False, True, False, True]
    assert edit.log["unet_calls"] == 2 * 2 * 3 * 2  # rounds, steps, prompts, forward and backward
    none = erase(replace(SMALL, attack=replace(ATTACK, steps=0)), tiny_pipe)
    assert none.log["unet_calls"] == 0
    assert "attack" not in none.log["losses"]


def test_the_latent_lies_in_the_range_of_timesteps(tiny_pipe: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    scale = len(teacher.alphas_cumprod) / 1000
    for seed in range(4):
        point = noisy_point(teacher, "circle", timesteps=(750, 950), steps=20, guidance=3.0, generator=generator(seed))
        assert 750 * scale <= int(point.t) <= 950 * scale
    with pytest.raises(
        ValueError, match=r"a timestep from 100 to 200 on a run of 2 steps, found none: raise ddim_steps"
    ):
        noisy_point(teacher, "circle", timesteps=(100, 200), steps=2, guidance=3.0, generator=generator())


def test_related_words_are_found_given_or_refused(tiny_pipe: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    (found,) = related_words(teacher, CONCEPT, ())
    assert found.name == "circle"
    assert found.related[0] == "disc"
    assert len(set(found.related)) == len(found.related) <= 50
    assert "circle" not in found.related
    (given,) = related_words(teacher, CONCEPT, ("ring",))
    assert given.related == ("ring",)
    joint = Concept.joint((CONCEPT, Concept(name="red", kind="attribute")))
    assert [group.name for group in related_words(teacher, joint, ())] == ["circle", "red"]
    with pytest.raises(ValueError, match=r"no related words for a joint concept, found 1 .* leave `related` out"):
        related_words(teacher, joint, ("ring",))


def test_parts_of_a_joint_concept_have_prompts_and_features_of_their_own(tiny_pipe: Any) -> None:
    joint = Concept.joint((CONCEPT, Concept(name="red", kind="attribute")))
    loss = prepared(tiny_pipe, replace(SMALL, related=()), joint)
    assert loss.words.part.tolist() == [0, 0, 0, 1, 1, 1]
    for row, name in ((0, "circle"), (3, "red")):
        ids = loss.teacher.tokenize([name])
        expected = feature(loss.teacher, loss.teacher.embed(ids), ids)
        assert loss.concepts[row].numpy() == pytest.approx(expected[0], abs=1e-5)


def test_training_moves_attacked_prompts_away_from_the_concept(tiny_pipe: Any) -> None:
    method = replace(SMALL, near_weight=0.0, rounds=1, train=TrainingConfig(iterations=40, rate=3e-3))
    losses = erase(method, tiny_pipe).log["losses"]
    assert losses["likeness"][-1] < losses["likeness"][0] - 0.2


def test_a_stopped_run_goes_on_in_the_middle_of_a_round_as_though_it_had_not(tiny_pipe: Any, tmp_path: Path) -> None:
    method = replace(SMALL, retain_batch=2, train=TrainingConfig(iterations=8, rate=1e-3))
    whole = content_sha256(erase(method, tiny_pipe).tensors)
    kept = Workspace(folder=tmp_path, every=6, progress=False)
    assert content_sha256(erase(method, tiny_pipe, kept).tensors) == whole
    assert any("6" in path.name for path in tmp_path.iterdir())
    again = erase(method, tiny_pipe, kept)
    assert content_sha256(again.tensors) == whole
    assert again.log["unet_calls"] == 24


def test_memory_options_change_the_result_by_rounding_alone(tiny_pipe: Any) -> None:
    plain = erase(SMALL, tiny_pipe).tensors
    for workspace in (replace(QUIET, micro_batch=1), replace(QUIET, gradient_checkpointing=True)):
        found = erase(SMALL, tiny_pipe, workspace).tensors
        assert max(float((found[key] - plain[key]).abs().max()) for key in plain) < 1e-3


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_either_text_encoder_of_sdxl_is_trained_and_trained_again(
    tiny_pipe: Any, tmp_path: Path, component: Any
) -> None:
    pipe, method = sdxl(tiny_pipe), replace(SMALL, component=component)
    recipe = Recipe(name="tiny/circle", concept=CONCEPT, method=method, base="tiny-xl")
    run_recipe(recipe, pipe, tmp_path / "out", progress=False)
    encoder = RobustEncoder.from_pretrained(tmp_path / "out")
    assert encoder.manifest.component == component
    assert reproduce(encoder, pipe, progress=False).equal
    with pytest.raises(ValueError, match=r"expected a backbone for component 'text_encoder_2', found one for"):
        replace(SMALL, component="text_encoder_2").erase(backbone_of(pipe), CONCEPT, generator=generator())


def test_it_has_the_papers_settings_and_reads_them_back() -> None:
    assert METHODS["s_grace"] is SGRACE
    made = SGRACE.standard(RETAIN)
    assert (made.rounds, made.train.iterations, made.train.rate, made.round_length) == (4, 200, 1e-5, 50)
    assert (made.meaning_weight, made.retain_weight, made.retain_batch, made.near_weight) == (1.2, 1.2, 16, 0.3)
    attack = made.attack
    assert (attack.rows, attack.random_tokens, attack.words, attack.refresh) == (8, 5, (3, 10), 0.8)
    assert (attack.steps, attack.rate, attack.similarity, made.timesteps) == (10, 5e-3, 0.1, (750, 950))
    assert rebuilt(SGRACE, json.loads(json.dumps(describe(SMALL)))) == SMALL


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"timesteps": (9, 3)}, {"near_weight": -1.0}, {"attack_target": "odd"}, {"retain_batch": 0}],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SGRACE(retain=RETAIN, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"words": (3, 2)}, {"refresh": 1.5}, {"radius": 0.0}, {"rate": 0.0}, {"steps": -1}]
)
def test_settings_of_the_attack_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        AdversarialWordsConfig(**wrong)


def test_no_retain_prompts_are_refused_before_anything_is_trained(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"at least 1 retain prompt, found none: give captions without the concept"):
        erase(replace(SMALL, retain=()), tiny_pipe)
    assert erase(replace(SMALL, retain=RETAIN), tiny_pipe).tensors
