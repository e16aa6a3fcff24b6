"""HiRM: its loss against the formula in NumPy, what is trained, what is refused, exact resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_encoders import sdxl
from torch import Generator, nn

from robust_encoders import Concept, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.two_encoders import backbone_of
from robust_encoders.training.methods import METHODS, HiRM
from robust_encoders.training.methods.hirm import HiRMTrainingConfig
from robust_encoders.training.objectives.hirm import Misdirection, random_target, representations
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.reproduce import rebuilt, reproduce
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(
    name="circle", kind="object", anchor="star", synonyms=("disc",), prompts=("a red circle", "a disc", "a blue circle")
)
RETAIN = ("a blue square", "a green star", "a cross")
SHORT = HiRMTrainingConfig(iterations=3, rate=1e-3)
QUIET = Workspace(progress=False)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def erase(method: HiRM, pipe: Any, workspace: Workspace = QUIET, concept: Concept = CONCEPT, seed: int = 0) -> Edit:
    return method.erase(backbone_of(pipe, method.component), concept, generator=generator(seed), workspace=workspace)


def moved(backbone: Backbone) -> Backbone:
    """A student that has left its teacher."""
    student = backbone.clone()
    draws = generator(3)
    with torch.no_grad():
        for name, parameter in student.text_encoder.named_parameters():
            if "embedding" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return student


def naive(backbone: Backbone, text: str) -> np.ndarray[Any, Any]:
    """The last layer's attention, multiplied out by hand from the residual stream that enters this layer."""
    encoder: Any = backbone.text_encoder
    encoder = getattr(encoder, "text_model", encoder)
    layer, entering = encoder.encoder.layers[-1], []
    handle = layer.layer_norm1.register_forward_hook(lambda module, args, output: entering.append(output))
    with torch.no_grad():
        backbone.condition([text])
    handle.remove()
    x, attention = entering[0][0].double().numpy(), layer.self_attn

    def linear(module: nn.Linear, rows: Any) -> Any:
        return rows @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()

    heads, length = int(encoder.config.num_attention_heads), len(x)
    q, k, v = (
        linear(one, x).reshape(length, heads, -1) for one in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = []
    for head in range(heads):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[2])
        scores[np.triu_indices(length, 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        mixed.append(weights / weights.sum(1, keepdims=True) @ v[:, head])
    found: np.ndarray[Any, Any] = linear(attention.out_proj, np.concatenate(mixed, axis=1))
    return found


def loss_of(method: HiRM, pipe: Any, concept: Concept = CONCEPT, seed: int = 0) -> tuple[Misdirection, Any]:
    teacher = Backbone.from_pipeline(pipe)
    loss = Misdirection.of(method, concept, teacher, moved(teacher), generator=generator(seed))
    with torch.no_grad():
        return loss, loss(0, generator(1))


def test_the_random_target_is_one_positive_direction_with_one_norm_for_all_positions(tiny_pipe: Any) -> None:
    drawn = torch.rand((24, 16), generator=generator(7)).numpy()
    target = random_target((24, 16), 500.0, generator(7))
    assert target.numpy() == pytest.approx(500 * drawn / math.sqrt(float((drawn.astype(float) ** 2).sum())), rel=1e-5)
    assert (target >= 0).all(), "uniform in [0, 1), not a direction with mean zero"
    # A norm for each position would make all of them 500 long.
    assert target.norm(dim=1).mean() == pytest.approx(500 / math.sqrt(24), rel=0.05)
    loss, _ = loss_of(HiRM(), tiny_pipe, seed=7)
    assert all(float(goal.norm()) == pytest.approx(500, rel=1e-5) for goal in loss.goals)
    assert torch.equal(loss.goals[0], loss.goals[1]), "all words have the same target"


def test_hirm_r_is_the_mean_over_all_positions_of_the_last_attention(tiny_pipe: Any) -> None:
    loss, (total, found) = loss_of(HiRM(scale=3.0), tiny_pipe)
    goal = loss.goals[0].double().numpy()
    errors = [((naive(loss.student, text) - goal) ** 2).mean() for text in ("circle", "disc")]
    assert float(total) == found["misdirect"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_place_of_the_loss_is_not_the_last_hidden_state(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    found = representations(backbone, ["circle"])[0].double().numpy()
    assert found == pytest.approx(naive(backbone, "circle"), rel=1e-3, abs=1e-5)
    assert np.abs(found - backbone.condition(["circle"])[0].detach().numpy()).max() > 0.1


@pytest.mark.parametrize("scale", [None, 0.5])
def test_hirm_s_aims_at_the_anchor_or_leaves_out_the_concepts_direction(tiny_pipe: Any, scale: float | None) -> None:
    teacher, factor = Backbone.from_pipeline(tiny_pipe), scale or 1.0
    star, circle, disc = (naive(teacher, word) for word in ("star", "circle", "disc"))
    loss, _ = loss_of(HiRM(target="anchor", scale=scale), tiny_pipe)
    assert all(goal.numpy() == pytest.approx(factor * star, abs=1e-4) for goal in loss.goals)
    loss, _ = loss_of(HiRM(target="subtracted", scale=scale), tiny_pipe)
    direction = (circle - star + disc - star) / 2
    for goal, own in zip(loss.goals, (circle, disc), strict=True):
        assert goal.numpy() == pytest.approx(factor * (own - direction), abs=1e-4)


def test_one_word_without_an_anchor_goes_to_the_empty_prompt(tiny_pipe: Any) -> None:
    nudity = Concept(name="circle", kind="content")
    loss, _ = loss_of(HiRM(target="subtracted"), tiny_pipe, nudity)
    assert len(loss.goals) == 1
    assert loss.goals[0].numpy() == pytest.approx(naive(Backbone.from_pipeline(tiny_pipe), ""), abs=1e-5)


def test_captions_by_the_command_line_take_turns() -> None:
    assert (HiRM().by_captions().texts, HiRM().by_captions().batch) == ("prompts", 32)
    assert HiRM(batch=4).by_captions().batch == 4


def test_captions_keep_their_other_words_and_parts_their_own_anchors(tiny_pipe: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    red = Concept(name="red", kind="attribute", anchor="blue", prompts=("a red star",))
    loss, _ = loss_of(HiRM(target="anchor", texts="prompts"), tiny_pipe, Concept.joint((CONCEPT, red)))
    assert loss.prompts.texts == (*CONCEPT.prompts, "a red star")
    for goal, text in zip(loss.goals, ("a red star", "a star", "a blue star", "a blue star"), strict=True):
        assert goal.numpy() == pytest.approx(naive(teacher, text), abs=1e-4)


def test_retain_prompts_keep_their_conditionings(tiny_pipe: Any) -> None:
    plain, _ = loss_of(HiRM(scale=3.0), tiny_pipe)
    loss, (total, found) = loss_of(HiRM(scale=3.0, retain=RETAIN, retain_weight=2.0), tiny_pipe)
    with torch.no_grad():
        both = (one.condition(RETAIN).double() for one in (loss.student, Backbone.from_pipeline(tiny_pipe)))
        now, before = both
    assert found["retain"] == pytest.approx(float((now - before).square().mean()), rel=1e-4)
    assert float(total) == pytest.approx(found["misdirect"] + 2 * found["retain"], rel=1e-5)
    assert plain.retained is None


def test_layer_0_alone_is_trained_where_a_substring_would_take_layer_10_as_well(make_pipe: Any) -> None:
    pipe = make_pipe(layers=12)
    chosen = HiRM().select.select(pipe.text_encoder)
    linear = {f"self_attn.{one}_proj" for one in ("q", "k", "v", "out")} | {"mlp.fc1", "mlp.fc2"}
    expected = {f"layers.0.{name}.{kind}" for name in linear for kind in ("weight", "bias")}
    assert {name[name.index("layers.") :] for name in chosen} == expected
    edit, base = erase(HiRM(train=SHORT), pipe), nested_state(pipe.text_encoder)
    assert any("layers.10.mlp.fc1" in key for key in base)
    changed = {key for key, tensor in edit.tensors.items() if not torch.equal(tensor, base[key])}
    # The bias of the keys moves all scores of a query equally, so its gradient is nothing but rounding.
    trained = {key[key.index("layers.") :] for key in changed} | {"layers.0.self_attn.k_proj.bias"}
    assert trained == expected


def test_the_optimizer_is_the_papers() -> None:
    (group,) = HiRM().train.optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.9, 0.98), 1e-6, 1e-8, 1e-4)
    assert (HiRM().target, HiRM().texts, HiRM().batch, HiRM().retained) == ("random", "words", None, ())
    assert METHODS["hirm"] is HiRM


@pytest.mark.parametrize("target", ["random", "anchor", "subtracted"])
def test_training_lowers_the_loss_without_a_unet_and_another_seed_draws_another_target(
    tiny_pipe: Any, target: Any
) -> None:
    method = HiRM(target=target, scale=3.0, train=replace(SHORT, iterations=25))
    edit = erase(method, tiny_pipe)
    losses = edit.log["losses"]["misdirect"]
    assert losses[-1] < 0.97 * losses[0]
    assert edit.log["unet_calls"] == edit.log["bank_unet_calls"] == 0
    other = content_sha256(erase(method, tiny_pipe, seed=1).tensors)
    assert (other == content_sha256(edit.tensors)) is (target != "random")


def test_a_stopped_run_goes_on_as_though_it_had_not(tiny_pipe: Any, tmp_path: Path) -> None:
    method = HiRM(texts="prompts", batch=2, retain=RETAIN, retain_batch=2, train=replace(SHORT, iterations=6))
    whole = content_sha256(erase(method, tiny_pipe).tensors)
    kept = Workspace(folder=tmp_path, every=4, progress=False)
    assert content_sha256(erase(method, tiny_pipe, kept).tensors) == whole
    assert not any("6" in path.name for path in tmp_path.iterdir()), "what follows begins in the middle"
    assert content_sha256(erase(method, tiny_pipe, kept).tensors) == whole


def test_activation_checkpointing_changes_nothing(tiny_pipe: Any) -> None:
    method = HiRM(retain=RETAIN, train=SHORT)
    plain, saved = (erase(method, tiny_pipe, replace(QUIET, gradient_checkpointing=on)) for on in (False, True))
    assert content_sha256(plain.tensors) == content_sha256(saved.tensors)


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_either_text_encoder_of_sdxl_is_trained_attached_and_trained_again(
    tiny_pipe: Any, tmp_path: Path, component: Any
) -> None:
    pipe = sdxl(tiny_pipe)
    recipe = Recipe(
        name="tiny/circle", concept=CONCEPT, base="tiny-xl",
        method=HiRM(component=component, retain=RETAIN, train=SHORT),
    )  # fmt: skip
    run_recipe(recipe, pipe, tmp_path / "out", progress=False)
    encoder = RobustEncoder.from_pretrained(tmp_path / "out")
    assert encoder.manifest.component == component
    assert reproduce(encoder, pipe, progress=False).equal
    with pytest.raises(ValueError, match=r"expected a backbone for component 'text_encoder_2', found one for"):
        HiRM(component="text_encoder_2").erase(backbone_of(pipe), CONCEPT, generator=generator())


def test_its_settings_are_read_back_from_a_manifest() -> None:
    method = HiRM(target="subtracted", scale=0.5, batch=3, retain=RETAIN)
    assert rebuilt(HiRM, json.loads(json.dumps(describe(method)))) == method


@pytest.mark.parametrize(
    "wrong",
    [{"target": "odd"}, {"texts": "odd"}, {"scale": 0.0}, {"batch": 0}, {"retain_batch": 0}, {"retain_weight": -1.0}],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        HiRM(**wrong)


def test_a_semantic_target_needs_an_anchor(tiny_pipe: Any) -> None:
    bare = replace(CONCEPT, anchor="")
    with pytest.raises(ValueError, match=r"an anchor of 'circle' for target 'anchor', found none: give the anchor"):
        erase(HiRM(target="anchor", train=SHORT), tiny_pipe, concept=bare)
    assert (
        erase(HiRM(target="anchor", train=SHORT), tiny_pipe, concept=replace(bare, anchor="square")).form == "weights"
    )
    assert erase(HiRM(target="subtracted", train=SHORT), tiny_pipe, concept=bare).form == "weights"
