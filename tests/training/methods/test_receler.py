"""Training erasers: what is touched, what is refused, what a stopped run does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch

from robust_encoders import Concept, Overlay, RobustEncoder
from robust_encoders.overlays.eraser import DOWN, UP, Eraser, cross_attentions, new_tensors
from robust_encoders.training.artifact import to_encoder
from robust_encoders.training.diffusion.attention_maps import MaskConfig
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods.receler import Receler
from robust_encoders.training.objectives.receler import RecelerObjective
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",), anchor="star", prompts=("a red circle", "a disc"))
QUIET = Workspace(progress=False)
SMALL = Receler(
    rank=4,
    batch=2,
    attack=AdversarialRowsConfig(steps=2, tokens=3),
    rollout="bank",
    train=TrainingConfig(iterations=6, rate=1e-2),
    bank=BankConfig(steps=3, seeds=2),
)


def erase(pipe: Any, method: Receler = SMALL, workspace: Workspace = QUIET, concept: Concept = CONCEPT) -> Edit:
    backbone, generator = Backbone.from_pipeline(pipe), torch.Generator().manual_seed(0)
    return method.erase(backbone, concept, generator=generator, workspace=workspace)


@pytest.mark.parametrize("fields", [{}, {"rollout": "student"}, {"attack": AdversarialRowsConfig(steps=0)}])
def test_training_changes_the_erasers_and_nothing_else(tiny_pipe: Any, fields: dict[str, Any]) -> None:
    parts = (tiny_pipe.text_encoder, tiny_pipe.unet)
    before = [{name: one.clone() for name, one in part.state_dict().items()} for part in parts]
    processors, flags = dict(tiny_pipe.unet.attn_processors), [p.requires_grad for p in tiny_pipe.unet.parameters()]
    edit = erase(tiny_pipe, replace(SMALL, **fields))
    assert (edit.form, edit.component, edit.config) == ("eraser", "unet", {"rank": 4})
    assert dict(Eraser(edit.tensors).widths) == cross_attentions(tiny_pipe.unet)
    assert all(bool(one.any()) for name, one in edit.tensors.items() if name.endswith(UP))
    assert edit.log["unet_calls"] > 0
    assert (edit.log["bank_unet_calls"] > 0) == (fields.get("rollout") != "student")
    for part, states in zip(parts, before, strict=True):
        assert all(torch.equal(one, states[name]) for name, one in part.state_dict().items())
        assert not any(module._forward_hooks for module in part.modules())
    assert all(tiny_pipe.unet.attn_processors[name] is one for name, one in processors.items())
    assert [p.requires_grad for p in tiny_pipe.unet.parameters()] == flags


def test_the_defaults_are_the_papers() -> None:
    method = Receler()
    assert (method.rank, method.batch, method.eta, method.outside_weight) == (128, 1, 1.0, 0.1)
    assert method.attack == AdversarialRowsConfig(steps=50, tokens=16, rate=0.1, decay=0.1)
    assert (method.mask, method.rollout, method.target) == (MaskConfig(threshold=0.1), "student", "negative_guidance")
    assert (method.train.iterations, method.train.rate) == (500, 3e-4)
    assert (method.bank.steps, method.bank.guidance, method.wants_retained) == (50, 3.0, False)


def test_stable_diffusions_erasers_are_as_large_as_the_published_ones() -> None:
    """Sixteen erasers of rank 128; the paper counts 0.37 % of the UNet."""
    unet = full_size.unet_of(full_size.SIZES["sd1"])
    tensors = new_tensors(unet, 128, generator=torch.Generator())
    assert len([name for name in tensors if name.endswith(DOWN)]) == 16
    size, whole = (sum(one.numel() for one in some) for some in (tensors.values(), unet.parameters()))
    assert round(100 * size / whole, 2) == 0.37


def test_it_lowers_its_loss(tiny_pipe: Any) -> None:
    losses = erase(tiny_pipe, replace(SMALL, train=TrainingConfig(iterations=40, rate=1e-2))).log["losses"]["erase"]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_it_can_be_saved_read_and_attached(tiny_pipe: Any, tmp_path: Path) -> None:
    made = to_encoder(
        erase(tiny_pipe), concept=CONCEPT, method=SMALL, pipe=tiny_pipe, recipe={"name": "test", "seed": 0},
        family="tiny",
    )  # fmt: skip
    made.save_pretrained(tmp_path / "receler")
    read = RobustEncoder.from_pretrained(tmp_path / "receler")
    assert isinstance(read, Overlay)
    with read.attached(tiny_pipe):
        assert RobustEncoder.status(tiny_pipe).overlays == (read.label,)


def test_a_stopped_run_goes_on_to_the_same_erasers(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the attack and Adam's averages of them are a part of the checkpoint."""
    both = Concept.joint((CONCEPT, Concept(name="star", kind="object")))
    whole = erase(tiny_pipe, concept=both)
    place = Workspace(folder=tmp_path, every=2, progress=False)
    real = RecelerObjective.__call__

    def stopping(self: RecelerObjective, iteration: int, g: torch.Generator) -> Any:
        if iteration == 5:
            raise KeyboardInterrupt
        return real(self, iteration, g)

    monkeypatch.setattr(RecelerObjective, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        erase(tiny_pipe, workspace=place, concept=both)
    monkeypatch.setattr(RecelerObjective, "__call__", real)
    again = erase(tiny_pipe, workspace=place, concept=both)
    assert all(torch.equal(again.tensors[key], one) for key, one in whole.tensors.items())
    assert again.log["unet_calls"] == whole.log["unet_calls"]


def test_activations_computed_twice_give_the_same_erasers(tiny_pipe: Any) -> None:
    """The erasers' outputs of the second pass must not enter the loss again."""
    once = erase(tiny_pipe)
    twice = erase(tiny_pipe, workspace=Workspace(progress=False, gradient_checkpointing=True))
    assert all(torch.allclose(twice.tensors[key], one, atol=1e-5) for key, one in once.tensors.items())


def test_a_base_in_bfloat16_is_trained(tiny_pipe: Any) -> None:
    tiny_pipe.unet.to(torch.bfloat16)
    edit = erase(tiny_pipe, replace(SMALL, train=TrainingConfig(iterations=2, rate=1e-2, precision="bf16")))
    assert all(one.dtype == torch.float32 and bool(one.isfinite().all()) for one in edit.tensors.values())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 0}, "of at least 1"),
        ({"batch": 0}, "of at least 1"),
        ({"outside_weight": -1.0}, "weights of at least 0"),
        ({"bank": BankConfig(mode="fresh")}, "choose rollout 'bank'"),
        ({"train": TrainingConfig(precision="fp16")}, "expected precision fp32 or bf16"),
    ],
)
def test_odd_settings_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Receler(**fields)


def test_prompts_without_the_concept_or_without_room_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="in every prompt"):
        erase(tiny_pipe, concept=replace(CONCEPT, prompts=("a square",)))
    with pytest.raises(ValueError, match="expected room for 22 adversarial rows"):
        erase(tiny_pipe, replace(SMALL, attack=AdversarialRowsConfig(tokens=22)))


def test_micro_batches_and_several_processes_are_refused(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected no micro_batch"):
        erase(tiny_pipe, workspace=Workspace(progress=False, micro_batch=1))
    two = type("Two", (), {"count": 2})()
    monkeypatch.setattr("robust_encoders.training.methods.receler.Shard.current", lambda: two)
    with pytest.raises(ValueError, match="expected one process, found 2"):
        erase(tiny_pipe)


def test_a_base_in_float16_is_refused(tiny_pipe: Any) -> None:
    tiny_pipe.unet.to(torch.float16)
    with pytest.raises(ValueError, match="expected a base in float32 or bfloat16"):
        erase(tiny_pipe)


@pytest.mark.slow
def test_two_iterations_complete_at_full_size(tmp_path: Path) -> None:
    """Random weights of Stable Diffusion 1.4; prints the peak of memory."""
    pipe = full_size.base(full_size.SIZES["sd1"], tmp_path)
    method = Receler(
        attack=AdversarialRowsConfig(steps=2),
        rollout="bank",
        train=TrainingConfig(iterations=2, rate=3e-4, precision="bf16"),
        bank=BankConfig(steps=2, batch=1),
    )
    edit = erase(
        pipe, method, Workspace(progress=False, gradient_checkpointing=True), Concept(name="nudity", kind="content")
    )
    assert len(Eraser(edit.tensors).paths) == 16
    assert all(bool(one.isfinite().all()) for one in edit.tensors.values())
    assert edit.log["unet_calls"] == 2 * (1 + 2 * 2 + 1)
    sys.stdout.write(f"\npeak {full_size.memory()['peak'] / full_size.GIB:.1f} GiB, {edit.log['seconds_total']} s\n")
