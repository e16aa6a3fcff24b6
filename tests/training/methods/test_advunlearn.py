"""AdvUnlearn as a method: its settings, what it changes, and that it can be interrupted and repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import OPTIONS, RETAIN, TINY, erase, prepared, term_of, trained

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.losses import squared_error
from robust_encoders.training.methods import METHODS, AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.terms import Objective
from robust_encoders.training.objectives.unlearning import Unlearn
from robust_encoders.training.protocols import Method
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace


def test_methods_are_erasers() -> None:
    assert METHODS["advunlearn"] is AdvUnlearn
    assert isinstance(TINY, Method)


@pytest.mark.parametrize("method", [TINY, OPTIONS], ids=["paper", "options"])
def test_erasing_leaves_the_base_as_it_was(tiny_pipe: Any, method: AdvUnlearn) -> None:
    tiny_pipe.unet.train()
    state = {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in ("text_encoder", "unet")}
    edit = erase(method, tiny_pipe)
    for part, digest in state.items():
        module = getattr(tiny_pipe, part)
        assert content_sha256(module.state_dict()) == digest
        assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert tiny_pipe.unet.training
    assert content_sha256(edit.tensors) != content_sha256(nested_state(tiny_pipe.text_encoder))


def test_only_the_selected_parameters_change(tiny_pipe: Any) -> None:
    select = SelectionConfig(layers=(1,), part="mlp", final_norm=False)
    edit = erase(replace(TINY, select=select), tiny_pipe)
    before = nested_state(tiny_pipe.text_encoder)
    changed = {name for name, tensor in edit.tensors.items() if not torch.equal(tensor, before[name])}
    assert set(edit.tensors) == set(before)
    assert changed == {name for name in before if "layers.1.mlp." in name}


def test_half_precision_encoders_get_half_precision_tensors(tiny_pipe: Any) -> None:
    tiny_pipe.text_encoder.to(torch.bfloat16)
    edit = erase(replace(TINY, train=TrainingConfig(iterations=1, rate=1e-2)), tiny_pipe)
    assert {tensor.dtype for tensor in edit.tensors.values()} == {torch.bfloat16}


def test_the_same_seed_gives_the_same_encoder(tiny_pipe: Any) -> None:
    digests = [content_sha256(erase(OPTIONS, tiny_pipe, seed=seed).tensors) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_killed_erasure_resumes_to_the_same_bits(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(OPTIONS, train=replace(OPTIONS.train, iterations=5, precision="fp32"))
    whole = erase(method, tiny_pipe)
    space = Workspace(folder=tmp_path / "run", cache_dir=tmp_path / "bank", every=2, progress=False)
    call = Objective.__call__

    def interrupted(self: Objective, iteration: int, g: torch.Generator) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return call(self, iteration, g)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase(method, tiny_pipe, space)
    resumed = erase(method, tiny_pipe, space)
    assert content_sha256(whole.tensors) == content_sha256(resumed.tensors)
    assert whole.log["losses"] == resumed.log["losses"]
    assert whole.log["unet_calls"] == resumed.log["unet_calls"]
    with pytest.raises(RuntimeError, match="choose another --out"):
        erase(replace(method, select=SelectionConfig(layers=(0,))), tiny_pipe, space)


def test_unet_calls_are_forwards_and_backwards_on_one_latent(tiny_pipe: Any) -> None:
    log = erase(TINY, tiny_pipe).log
    assert log["bank_unet_calls"] == (3 + 4) * 3 * 2  # prompts, steps, with and without prompt
    unlearn, retain, attack_steps = 2, 3, 2
    assert log["unet_calls"] == 3 * 2 * (unlearn + retain) + 2 * 2 * attack_steps * unlearn


def test_fresh_trajectories_train_as_well(tiny_pipe: Any) -> None:
    edit = erase(replace(OPTIONS, bank=BankConfig(mode="fresh", steps=2)), tiny_pipe)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors.values())
    assert edit.log["unet_calls"] > 0


def test_the_concepts_name_stands_in_for_missing_prompts(tiny_pipe: Any) -> None:
    bare = Concept(name="nudity", kind="content")
    unlearn = term_of(prepared(TINY, tiny_pipe, concept=bare), Unlearn)
    assert unlearn.points.source.prompts == ("nudity",)
    assert unlearn.prompts.texts == ("nudity",)


def test_prompts_without_room_are_refused_before_anything_is_run(tiny_pipe: Any) -> None:
    adversary = AdversaryConfig(tokens=(1, 22))
    with pytest.raises(ValueError, match="beside 22 adversarial ones"):
        erase(replace(TINY, adversary=adversary), tiny_pipe)


def test_defaults_are_the_papers() -> None:
    paper = AdvUnlearn(retain=RetainConfig(prompts=RETAIN))
    assert (paper.unlearn.batch, paper.unlearn.eta, paper.unlearn.target) == (1, 1.0, "negative_guidance")
    assert (paper.retain.batch, paper.retain.weight, paper.retain.space) == (5, 0.3, "noise")
    assert (paper.train.iterations, paper.train.rate, paper.adversary.warmup) == (1000, 1e-5, 200)
    assert paper.attack == SoftPrompt(steps=30, rate=1e-3)
    assert (paper.adversary.placements, paper.adversary.tokens, paper.adversary.start) == (("prefix",), (1,), "random")
    assert (paper.bank.steps, paper.bank.guidance, paper.unlearn.plain_weight) == (50, 3.0, 0.0)


def test_pulling_brings_the_conditioning_nearer_to_the_anchored_one(tiny_pipe: Any) -> None:
    method = replace(
        TINY,
        unlearn=UnlearnConfig(batch=4, pull_weight=100.0, target="anchor", eta=0.0),
        attack=SoftPrompt(steps=1, rate=0.01),
        adversary=AdversaryConfig(warmup=1000),
        train=TrainingConfig(iterations=40, rate=2e-3),
    )
    student, before = trained(method, tiny_pipe)
    with torch.no_grad():
        wanted, *found = (
            before.teacher.condition(["a red"]),
            before.teacher.condition(["a red circle"]),
            student.condition(["a red circle"]),
        )
    assert squared_error(found[1], wanted) < 0.7 * squared_error(found[0], wanted)
