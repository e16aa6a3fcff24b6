"""One of SDXL's two text encoders is trained, the other one stays; the result attaches beside the first."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from several_encoders import draw, sdxl
from tiny_training import CIRCLE, RETAIN, generator

from robust_encoders import CompatibilityWarning, NotReadyError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import PROJECTION, nested_state
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.two_encoders import backbone_of
from robust_encoders.training.methods import ESD, RACE, UCE, AdvUnlearn
from robust_encoders.training.objectives.config import (
    AdversaryConfig,
    HardeningConfig,
    OutlierConfig,
    RetainConfig,
    UnlearnConfig,
)
from robust_encoders.training.protocols import SlotMethod
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.reproduce import reproduce
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

SLOTS = ("text_encoder", "text_encoder_2")
SHORT: Mapping[str, Any] = {
    "retain": RetainConfig(prompts=RETAIN, batch=2),
    "unlearn": UnlearnConfig(batch=2),
    "train": TrainingConfig(iterations=2, rate=1e-2),
    "bank": BankConfig(steps=2),
}
METHODS: Mapping[str, Any] = {
    "esd": ESD(**SHORT),
    "advunlearn": AdvUnlearn(**SHORT, attack=SoftPrompt(steps=2, rate=0.01), adversary=AdversaryConfig(warmup=1)),
}
QUIET = Workspace(progress=False)


def trained(method: Any, pipe: Any, workspace: Workspace = QUIET) -> Edit:
    backbone = backbone_of(pipe, method.component)
    edit: Edit = method.erase(backbone, CIRCLE, generator=generator(), workspace=workspace)
    return edit


def recipe(method: Any) -> Recipe:
    return Recipe(name="tiny/circle", concept=CIRCLE, method=method, base="tiny-xl")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("component", SLOTS)
def test_one_encoder_is_trained_and_nothing_else_changes(tiny_pipe: Any, name: str, component: str) -> None:
    pipe, method = sdxl(tiny_pipe), replace(METHODS[name], component=component)
    parts = (*SLOTS, "unet", "vae")
    before = {part: content_sha256(getattr(pipe, part).state_dict()) for part in parts}
    edit = trained(method, pipe)
    assert {part: content_sha256(getattr(pipe, part).state_dict()) for part in parts} == before
    assert (edit.form, edit.component) == ("weights", component)
    base = nested_state(getattr(pipe, component))
    assert edit.tensors.keys() == base.keys()
    changed = {key for key, tensor in edit.tensors.items() if not torch.equal(tensor, base[key])}
    assert "text_model.encoder.layers.0.mlp.fc1.weight" in changed
    assert not any("embedding" in key or key == PROJECTION for key in changed)
    # SDXL reads the last layer and the final norm through the pooled vector alone, which only the second encoder gives.
    last = {key for key in changed if "layers.1." in key or "final_layer_norm" in key}
    assert bool(last) == (component == "text_encoder_2")
    assert len(edit.log["losses"]["unlearn"]) == len(edit.log["losses"]["retain"]) == 2
    assert content_sha256(trained(method, pipe).tensors) == content_sha256(edit.tensors)


def test_the_loss_falls_on_the_second_encoder(tiny_pipe: Any) -> None:
    method = replace(METHODS["esd"], component="text_encoder_2", retain=RetainConfig(weight=0))
    method = replace(method, train=TrainingConfig(iterations=40, rate=1e-2), unlearn=UnlearnConfig(batch=6))
    losses = trained(method, sdxl(tiny_pipe)).log["losses"]["unlearn"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_memory_options_change_the_result_by_rounding_alone(tiny_pipe: Any) -> None:
    pipe, method = sdxl(tiny_pipe), replace(METHODS["advunlearn"], component="text_encoder_2")
    plain = trained(method, pipe).tensors
    for workspace in (replace(QUIET, micro_batch=1), replace(QUIET, gradient_checkpointing=True)):
        found = trained(method, pipe, workspace).tensors
        assert max(float((found[key] - plain[key]).abs().max()) for key in plain) < 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_from_training_to_a_picture_and_back(tiny_pipe: Any, tmp_path: Path, name: str) -> None:
    pipe = sdxl(tiny_pipe)
    made = {}
    for component in SLOTS:
        method = replace(METHODS[name], component=component)
        run_recipe(recipe(method), pipe, tmp_path / component, progress=False, cache_dir=tmp_path / "bank")
        made[component] = RobustEncoder.from_pretrained(tmp_path / component)
        assert made[component].manifest.component == component
    (banks,) = (tmp_path / "bank").iterdir()  # the trajectories of both runs are the same
    assert banks.is_dir()
    before, originals = draw(pipe), [getattr(pipe, component) for component in SLOTS]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        with pytest.raises(CompatibilityWarning, match="fits slot 1 of 2: partial, but 1 of"):
            made["text_encoder"].attach(pipe, allow_partial=True)
        warnings.simplefilter("ignore", CompatibilityWarning)
        made["text_encoder"].attach(pipe, allow_partial=True)
        warnings.simplefilter("error", CompatibilityWarning)
        first = draw(pipe)
        assert made["text_encoder_2"].check(pipe).verdict == "fits slot 2 of 2"
        made["text_encoder_2"].attach(pipe)  # all is closed now, and every fingerprint is the base's
    both = draw(pipe)
    assert not any(torch.equal(a, b) for a, b in ((before, first), (first, both), (before, both)))
    for encoder in made.values():
        encoder.detach(pipe)
    assert [getattr(pipe, component) for component in SLOTS] == originals
    assert torch.equal(draw(pipe), before)


def test_a_run_is_reproduced_on_its_base_and_refused_on_one_without_the_slot(tiny_pipe: Any, tmp_path: Path) -> None:
    pipe = sdxl(tiny_pipe)
    method = replace(METHODS["esd"], component="text_encoder_2")
    encoder = run_recipe(recipe(method), pipe, tmp_path / "out", progress=False)
    assert reproduce(encoder, pipe, progress=False).equal
    with pytest.raises(Exception, match="expected a base with a text_encoder_2, as the manifest records"):
        reproduce(encoder, tiny_pipe, progress=False)


CONDITIONINGS: Mapping[str, Mapping[str, Any]] = {
    "retain.space (choose noise)": {"retain": RetainConfig(prompts=RETAIN, space="both")},
    "unlearn.plain_space (choose noise)": {"unlearn": UnlearnConfig(plain_weight=1.0, plain_space="conditioning")},
    "unlearn.pull_weight": {"unlearn": UnlearnConfig(pull_weight=1.0)},
    "hardening": {"hardening": HardeningConfig(objective="both", weight=1.0)},
    "outliers": {"outliers": OutlierConfig(off_manifold_weight=1.0), "hardening": HardeningConfig(objective="both")},
}


@pytest.mark.parametrize("named", CONDITIONINGS)
def test_terms_on_conditionings_are_refused_before_any_work(tiny_pipe: Any, tmp_path: Path, named: str) -> None:
    pipe = sdxl(tiny_pipe)
    method = replace(METHODS["advunlearn"], component="text_encoder_2", **CONDITIONINGS[named])
    assert isinstance(method, SlotMethod)
    assert any(f"found {named}: leave it out" in problem for problem in method.slot_problems())
    with pytest.raises(NotReadyError, match="terms on predictions alone on a base with two text encoders"):
        run_recipe(recipe(method), pipe, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="terms on predictions alone"):
        trained(method, pipe)
    assert not (tmp_path / "out.work").exists()


def test_other_methods_and_components_are_refused_before_any_work(tiny_pipe: Any, tmp_path: Path) -> None:
    pipe = sdxl(tiny_pipe)
    for method, said in (
        (UCE.standard(RETAIN), "expected advunlearn, esd, hirm or s_grace on a base with two text encoders, found uce"),
        (RACE(start=replace(METHODS["esd"], component="text_encoder_2")), "found race, which cannot train one of two"),
        (replace(METHODS["advunlearn"], component="unet"), "on a base with two text encoders, found 'unet'"),
    ):
        with pytest.raises(NotReadyError, match=said):
            run_recipe(recipe(method), pipe, tmp_path / "out", progress=False)
    second = replace(METHODS["esd"], component="text_encoder_2")
    with pytest.raises(NotReadyError, match=r"expected a base with a text_encoder_2, .* found StableDiff"):
        run_recipe(recipe(second), tiny_pipe, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"one for 'text_encoder': make it by backbone_of\(pipe, 'text_encoder_2'"):
        second.erase(backbone_of(pipe), CIRCLE, generator=generator(), workspace=QUIET)


def test_layers_that_sdxl_skips_are_refused(tiny_pipe: Any) -> None:
    method = replace(METHODS["esd"], select=SelectionConfig(layers=(1,)))
    with pytest.raises(ValueError, match="that SDXL reads in its text_encoder, found only the last layer"):
        trained(method, sdxl(tiny_pipe))
    assert trained(replace(method, component="text_encoder_2"), sdxl(tiny_pipe)).component == "text_encoder_2"


def test_esd_keeps_its_retain_terms_from_one_slot_to_the_other() -> None:
    method = METHODS["esd"].for_component("text_encoder_2")
    assert method == replace(METHODS["esd"], component="text_encoder_2")
    assert method.for_component("unet").retain.weight == 0
