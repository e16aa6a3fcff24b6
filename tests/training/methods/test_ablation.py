"""Ablating Concepts: what it changes, that it repeats itself and resumes, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import full_size
import pytest
import torch
from torch import Tensor

from robust_encoders import Concept
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods.ablation import UNET_GROUPS, Ablation, scaled_rate
from robust_encoders.training.objectives.ablation import TargetSource
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.ablation import memorised_settings, nudity_settings, object_settings
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.reproduce import rebuilt
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(
    name="red circle", kind="object", synonyms=("disc",), anchor="star", prompts=("a red circle", "a disc on white")
)
QUIET = Workspace(progress=False)
TRAIN = TrainingConfig(iterations=4, rate=1e-2, weight_decay=1e-2, clip=1.0)
SMALL = Ablation(pictures=4, batch=2, prior_weight=1.0, train=TRAIN, bank=BankConfig(steps=2, guidance=2.0))
GROUPS: Any = [*UNET_GROUPS, "embedding", "text-encoder"]


def erase(method: Ablation, pipe: Any, *, workspace: Workspace = QUIET, concept: Concept = CIRCLE) -> Edit:
    generator = torch.Generator().manual_seed(0)
    return method.erase(Backbone.from_pipeline(pipe), concept, generator=generator, workspace=workspace)


def changed(edit: Edit, pipe: Any) -> set[str]:
    """Return the names of the tensors that an edit changes."""
    base: Mapping[str, Tensor] = (
        dict(pipe.unet.named_parameters()) if edit.component == "unet" else nested_state(pipe.text_encoder)
    )
    return {name for name, one in edit.tensors.items() if not torch.equal(one, base[name])}


@pytest.mark.parametrize("group", UNET_GROUPS)
def test_on_the_unet_the_group_changes_and_nothing_else(tiny_pipe: Any, group: Any) -> None:
    edit = erase(replace(SMALL, parameters=group), tiny_pipe)
    assert (edit.form, edit.component, edit.config) == ("delta", "unet", {})
    selected = set(UNetSelectionConfig(group=UNET_GROUPS[group]).select(tiny_pipe.unet))
    assert set(edit.tensors) == selected
    assert changed(edit, tiny_pipe) == selected
    assert edit.log["bank_unet_calls"] == 4 * 2 * 2
    assert edit.log["unet_calls"] == 4 * (2 + 2 * 4)
    assert set(edit.log["losses"]) == {"erase", "prior"}


def test_the_embedding_path_works_and_changes_the_rows_of_the_concepts_words_alone(tiny_pipe: Any) -> None:
    """The authors' script fails there with an AttributeError (``args.concept_list``)."""
    concept = replace(CIRCLE, anchor="red star")
    edit = erase(replace(SMALL, parameters="embedding"), tiny_pipe, concept=concept)
    assert (edit.form, edit.component) == ("weights", "text_encoder")
    (name,) = changed(edit, tiny_pipe)
    assert name.endswith("token_embedding.weight")
    moved = (edit.tensors[name] != nested_state(tiny_pipe.text_encoder)[name]).any(1).nonzero().flatten().tolist()
    words = {int(one) for word in ("circle", "disc") for one in tiny_pipe.tokenizer(word).input_ids[1:-1]}
    assert set(moved) == words, "a token of the anchor stays, though the concept has it, too"


def test_on_the_text_encoder_the_selection_changes_and_nothing_else(tiny_pipe: Any) -> None:
    select = SelectionConfig(layers=(1,), part="mlp", final_norm=False)
    edit = erase(replace(SMALL, parameters="text-encoder", select=select), tiny_pipe)
    assert (edit.form, edit.component) == ("weights", "text_encoder")
    names = changed(edit, tiny_pipe)
    assert names
    assert all("layers.1.mlp." in name for name in names)


def test_embeddings_leave_retain_prompts_exactly_as_they_are(tiny_pipe: Any) -> None:
    method = replace(SMALL, parameters="embedding", retain=("a disc on blue",))
    edit = erase(method, tiny_pipe)
    (name,) = changed(edit, tiny_pipe)
    moved = (edit.tensors[name] != nested_state(tiny_pipe.text_encoder)[name]).any(1).nonzero().flatten().tolist()
    kept = set(tiny_pipe.tokenizer("a disc on blue").input_ids)
    assert set(moved) == {int(one) for one in tiny_pipe.tokenizer("red circle").input_ids[1:-1]} - kept
    assert "retain" not in edit.log["losses"]
    assert edit.log["bank_unet_calls"] == 4 * 2 * 2, "no pictures of retain prompts are drawn"


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_of_the_pipeline_changes_and_the_same_seed_gives_the_same_edit(tiny_pipe: Any, group: Any) -> None:
    parts = (tiny_pipe.unet, tiny_pipe.text_encoder)
    before = [content_sha256(part.state_dict()) for part in parts]
    flags = [parameter.requires_grad for part in parts for parameter in part.parameters()]
    method = replace(SMALL, parameters=group)
    edit = erase(method, tiny_pipe)
    assert [content_sha256(part.state_dict()) for part in parts] == before
    assert [parameter.requires_grad for part in parts for parameter in part.parameters()] == flags
    assert not any(module._forward_hooks for part in parts for module in part.modules())
    again = erase(method, tiny_pipe, workspace=replace(QUIET, gradient_checkpointing=True))
    assert content_sha256(again.tensors) == content_sha256(edit.tensors)


@pytest.mark.parametrize("group", ["cross-attn", "embedding", "text-encoder"])
def test_a_stopped_run_resumes_to_the_same_bits(
    tiny_pipe: Any, group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robust_encoders.training.objectives.ablation import AblationObjective

    method = replace(SMALL, parameters=group)
    whole = erase(method, tiny_pipe)
    workspace = Workspace(folder=tmp_path / "run", cache_dir=tmp_path / "bank", every=1, progress=False)
    called = AblationObjective.__call__

    def stopping(self: Any, iteration: int, generator: torch.Generator) -> Any:
        if iteration == 2:
            raise KeyboardInterrupt
        return called(self, iteration, generator)

    with monkeypatch.context() as patched:
        patched.setattr(AblationObjective, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            erase(method, tiny_pipe, workspace=workspace)
    resumed = erase(method, tiny_pipe, workspace=workspace)
    assert content_sha256(resumed.tensors) == content_sha256(whole.tensors)
    assert resumed.log["unet_calls"] == whole.log["unet_calls"]
    assert resumed.log["bank_unet_calls"] == 0, "the pictures come from the cache"


def test_the_loss_falls_and_the_target_matters(tiny_pipe: Any) -> None:
    method = replace(SMALL, target="frozen", batch=8, prior_weight=0.0, train=replace(TRAIN, iterations=60))
    losses = erase(method, tiny_pipe).log["losses"]["erase"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    few: Any = [erase(replace(SMALL, target=target), tiny_pipe).tensors for target in ("current", "frozen", "noise")]
    assert len({content_sha256(tensors) for tensors in few}) == 3


def test_the_embedding_target_cannot_drift_because_the_anchor_has_no_trained_row(tiny_pipe: Any) -> None:
    made = [
        erase(replace(SMALL, parameters="embedding", prior_weight=0.0, target=target), tiny_pipe)
        for target in get_args(TargetSource)[:2]
    ]
    assert content_sha256(made[0].tensors) == content_sha256(made[1].tensors)


def test_an_anchor_inside_the_concept_needs_the_prior(tiny_pipe: Any) -> None:
    circle = Concept(name="red circle", kind="object", anchor="circle")
    with pytest.raises(ValueError, match="expected prior_weight above 0 for the anchor 'circle', found 0"):
        erase(replace(SMALL, prior_weight=0.0), tiny_pipe, concept=circle)
    assert erase(SMALL, tiny_pipe, concept=circle).tensors
    inside = Concept(name="scarlet", kind="attribute", anchor="car")
    assert erase(replace(SMALL, prior_weight=0.0), tiny_pipe, concept=inside).tensors, "a part of a word is no word"


def test_velocity_models_and_retain_prompts_train(make_pipe: Any) -> None:
    method = replace(SMALL, target="noise", retain=("a cross", "a ring"), retain_batch=3)
    edit = erase(method, make_pipe(prediction_type="v_prediction"))
    assert set(edit.log["losses"]) == {"erase", "prior", "retain"}
    assert edit.log["bank_unet_calls"] == (4 + 2) * 2 * 2


def test_the_rates_are_the_effective_ones_of_the_authors() -> None:
    assert scaled_rate(2e-6, 8, prior=False) == pytest.approx(1.6e-5)
    style, thing, nudity = Ablation(), object_settings(), nudity_settings()
    assert style.train == TrainingConfig(iterations=100, rate=1.6e-5, weight_decay=1e-2, clip=1.0)
    assert thing == replace(style, train=replace(style.train, rate=scaled_rate(2e-6, 8, prior=False)))
    assert object_settings(prior=True).train.rate == pytest.approx(3.2e-5)
    assert (nudity.parameters, nudity.train.iterations, nudity.prior_weight) == ("attn", 400, 1.0)
    assert nudity.train.rate == pytest.approx(6.4e-5)
    assert nudity.avoid
    picture = memorised_settings(("a poster of a show",))
    assert (picture.parameters, picture.pairs, picture.train.iterations) == ("full-weight", "caption", 400)
    assert picture.train.rate == pytest.approx(5e-7 * 4 * 2)
    assert picture.prior_weight == 1.0
    described = json.loads(json.dumps(describe(picture)))
    assert rebuilt(Ablation, described) == picture


def test_the_recipes_train_the_prior_where_the_anchor_is_part_of_the_name() -> None:
    for name in ("church", "garbage_truck", "parachute", "tench"):
        recipe = RECIPES[f"sd1/{name}-ablation"]()
        assert isinstance(recipe.method, Ablation)
        assert bool(recipe.method.prior_weight) is (name == "garbage_truck")
        recipe.method._require(recipe.concept, QUIET)
    assert RECIPES["sd2/nudity-ablation"]().concept.words() == ("nudity", "nsfw")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"parameters": "unet"}, r"expected parameters in .*found 'unet'"),
        ({"target": "teacher"}, r"expected target in .*found 'teacher'"),
        ({"pairs": "swap"}, r"expected pairs in .*found 'swap'"),
        ({"batch": 0}, "expected counts of at least 1"),
        ({"prior_weight": -1.0}, "weights of at least 0"),
        ({"select": SelectionConfig(layers=(0,))}, "select .it needs parameters text-encoder"),
        ({"bank": BankConfig(mode="fresh")}, "bank.mode fresh"),
        ({"bank": BankConfig(seeds=2)}, r"bank.seeds .set pictures"),
        ({"train": TrainingConfig(precision="fp16")}, "train.precision fp16"),
    ],
)
def test_settings_without_an_effect_and_odd_ones_are_refused(settings: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Ablation(**settings)


def test_several_processes_and_micro_batches_are_refused(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from robust_encoders.training.distributed import Shard

    with pytest.raises(ValueError, match="use gradient checkpointing"):
        erase(SMALL, tiny_pipe, workspace=replace(QUIET, micro_batch=1))
    monkeypatch.setattr(Shard, "current", classmethod(lambda cls: Shard(0, 2)))
    with pytest.raises(ValueError, match="expected one process for ablation, found 2"):
        erase(SMALL, tiny_pipe)


def at_full_size(size: str, group: Any, folder: Path) -> None:
    pipe = full_size.base(full_size.SIZES[size], folder)
    loaded = full_size.memory()["now"] / full_size.GIB
    train = replace(TRAIN, iterations=2, precision="bf16")
    method = replace(SMALL, parameters=group, batch=1, pictures=1, train=train, bank=BankConfig(steps=1))
    edit = erase(method, pipe, workspace=replace(QUIET, gradient_checkpointing=True))
    peak = full_size.memory()["peak"] / full_size.GIB
    assert all(bool(torch.isfinite(one).all()) for one in edit.tensors.values())
    seconds = edit.log["seconds"] / 2
    sys.stdout.write(f"\n{group}: loaded {loaded:.1f} GiB, peak {peak:.1f} GiB, {seconds:.1f} s/iteration\n")


@pytest.mark.parametrize("group", ["full-weight", "embedding"])
def test_a_unet_in_half_precision_trains_in_float32(group: Any, tmp_path: Path) -> None:
    at_full_size("small", group, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["cross-attn", "embedding"])
def test_two_iterations_complete_at_full_size(group: Any, tmp_path: Path) -> None:
    at_full_size("sd1", group, tmp_path)
