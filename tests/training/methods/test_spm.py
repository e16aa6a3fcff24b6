"""Training one-dimensional adapters: the formulas, what is touched, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

from robust_encoders import Concept, Overlay, RobustEncoder
from robust_encoders.overlays.adapters import ALPHA, DOWN, UNET_PREFIX, UP, Adapter, Gates
from robust_encoders.training.artifact import to_encoder
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods.spm import SPM, SPMTrainingConfig, _hooked
from robust_encoders.training.objectives.spm import SPMObjective
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",), anchor="star", prompts=("a red circle", "a disc"))
RETAIN = ("a blue square", "a green triangle", "a cross")
QUIET = Workspace(progress=False)
TRAIN = SPMTrainingConfig(iterations=6, rate=1e-2, warmup=1, cycles=1)
BANK = BankConfig(steps=3, seeds=2)


def small(**fields: Any) -> SPM:
    settings = {"retain": RETAIN, "retain_batch": 2, "anchors": 2, "batch": 2, "anchor_weight": 1.0}
    return SPM(**{**settings, "train": TRAIN, "bank": BANK, "rollout": "bank", **fields})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rollout", ["bank", "student"])
@pytest.mark.parametrize("where", ["unet", "text_encoder", "both"])
def test_training_changes_the_adapters_and_nothing_else(tiny_pipe: Any, where: Any, rollout: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    parts = (tiny_pipe.text_encoder, tiny_pipe.unet)
    before = [{name: one.clone() for name, one in part.state_dict().items()} for part in parts]
    method = small(where=where, rollout=rollout)
    edit = method.erase(backbone, CONCEPT, generator=generator(), workspace=QUIET)
    prefixes = {key[: len(UNET_PREFIX)] for key in edit.tensors}
    assert prefixes == {prefix[: len(UNET_PREFIX)] for prefix in method.prefixes}
    ups = [one for key, one in edit.tensors.items() if key.endswith(UP)]
    assert sum(float(one.abs().sum()) for one in ups) > 0
    assert (edit.form, edit.component) == ("adapter", "text_encoder" if where == "text_encoder" else "unet")
    assert edit.config == {"prompts": ["circle", "disc"], "rank": 1, "alpha": 1.0}
    assert edit.log["unet_calls"] > 0
    for part, states in zip(parts, before, strict=True):
        assert all(torch.equal(one, states[name]) for name, one in part.state_dict().items())
        assert not any(module._forward_hooks for module in part.modules())


def test_it_lowers_its_loss_and_can_be_attached(tiny_pipe: Any, tmp_path: Path) -> None:
    method = small(train=replace(TRAIN, iterations=40))
    edit = method.erase(Backbone.from_pipeline(tiny_pipe), CONCEPT, generator=generator(), workspace=QUIET)
    losses = edit.log["losses"]["erase"]
    assert sum(losses[-5:]) < sum(losses[:5])
    made = to_encoder(
        edit, concept=CONCEPT, method=method, pipe=tiny_pipe, recipe={"name": "test", "seed": 0}, family="tiny"
    )
    made.save_pretrained(tmp_path / "spm")
    read = RobustEncoder.from_pretrained(tmp_path / "spm")
    assert isinstance(read, Overlay)
    with read.attached(tiny_pipe):
        assert RobustEncoder.status(tiny_pipe).overlays == (read.label,)


def test_it_begins_without_any_effect_and_with_kaimings_down_vectors(tiny_pipe: Any) -> None:
    tensors = small()._fresh(Backbone.from_pipeline(tiny_pipe), generator())
    for key, one in tensors.items():
        if key.endswith(UP):
            assert not one.abs().any()
        elif key.endswith(DOWN):
            bound = one.shape[1] ** -0.5
            assert 0.3 * bound < float(one.abs().max()) <= bound
        else:
            assert key.endswith(ALPHA)
            assert float(one) == 1


def test_the_loss_is_the_papers(tiny_pipe: Any) -> None:
    """Both terms against the formulas, with one prompt, from the same draws."""
    backbone, method = Backbone.from_pipeline(tiny_pipe), small(batch=3, anchors=4, retain=(), eta=0.5)
    tensors = method._fresh(backbone, generator(1))
    tensors = {
        key: one + 0.1 * torch.randn(one.shape, generator=generator(2)) * (not key.endswith(ALPHA))
        for key, one in tensors.items()
    }
    with backbone.frozen(), _hooked(backbone, Adapter(tensors, ("circle",), 1, 1.0)) as gates:
        objective = SPMObjective(method, backbone, CONCEPT, gates, QUIET)
        with torch.no_grad():
            total, parts = objective(0, generator(3))
        g = generator(3)
        index = torch.randint(2, (3,), generator=g)
        assert objective.bank is not None
        drawn = objective.bank.sample(3, g, prompt_index=index)
        texts = [CONCEPT.prompts[i] for i in index]
        anchored = [text.replace("circle", "star").replace("disc", "star") for text in texts]

        def ask(rows: slice, t: torch.Tensor, cond: torch.Tensor, *, student: bool) -> torch.Tensor:
            gates[UNET_PREFIX].value = torch.ones(len(cond), 1) if student else None
            predicted: torch.Tensor = backbone.predict(drawn.latents[rows], t[rows], cond)
            return predicted

        every = slice(None)
        with torch.no_grad():
            away = ask(every, drawn.t, backbone.condition(texts), student=False)
            towards = ask(every, drawn.t, backbone.condition(anchored), student=False)
            found = ask(every, drawn.t, backbone.condition(texts), student=True)
            # Half precision in the bank.
            assert parts["erase"] == pytest.approx(
                float((found - (1.5 * towards - 0.5 * away)).square().mean()), rel=2e-2
            )
            like = backbone.condition(texts[:1])
            random = torch.randn(4, 24, 16, generator=g)
            size = 0.8 + 0.4 * torch.rand(4, 1, 1, generator=g)
            random = size * like.norm() * random / random.flatten(1).norm(dim=1).view(-1, 1, 1)
            turns = [0, 1, 2, 0]
            errors = []
            for i, turn in enumerate(turns):
                one = slice(turn, turn + 1)
                pair = [ask(one, drawn.t, random[i : i + 1], student=student) for student in (True, False)]
                errors.append(float((pair[0] - pair[1]).square().mean()))
        assert parts["anchor"] == pytest.approx(sum(errors) / 4, rel=1e-3)
        assert float(total) == pytest.approx(parts["erase"] + parts["anchor"], rel=1e-5)


def test_text_adapters_are_anchored_by_prompts(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="expected retain prompts"):
        small(where="text_encoder", retain=()).erase(
            Backbone.from_pipeline(tiny_pipe), CONCEPT, generator=generator(), workspace=QUIET
        )
    assert SPM().wants_retained is False


def test_the_schedule_is_the_releases() -> None:
    training = SPMTrainingConfig(iterations=60, rate=2.0, warmup=10, cycles=3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 10, 60, num_cycles=3)
    for iteration in range(60):
        assert training.rate_at(iteration) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    constant = replace(training, schedule="constant")
    assert [constant.rate_at(i) for i in (5, 10, 59)] == [1.0, 2.0, 2.0]


def test_a_stopped_run_goes_on_to_the_same_adapters(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, method = Backbone.from_pipeline(tiny_pipe), small(where="both")
    whole = method.erase(backbone, CONCEPT, generator=generator(), workspace=QUIET)
    place = Workspace(folder=tmp_path, every=2, progress=False)
    calls = 0

    class Stop(Exception):
        pass

    real = SPMObjective.__call__

    def stopping(self: SPMObjective, iteration: int, g: torch.Generator) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Stop
        return real(self, iteration, g)

    monkeypatch.setattr(SPMObjective, "__call__", stopping)
    with pytest.raises(Stop):
        method.erase(backbone, CONCEPT, generator=generator(), workspace=place)
    monkeypatch.setattr(SPMObjective, "__call__", real)
    again = method.erase(backbone, CONCEPT, generator=generator(), workspace=place)
    assert all(torch.equal(again.tensors[key], one) for key, one in whole.tensors.items())
    assert again.log["unet_calls"] == whole.log["unet_calls"]


def test_the_student_draws_latents_with_its_adapters_on(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, method = Backbone.from_pipeline(tiny_pipe), small(rollout="student", bank=BankConfig(steps=4))
    opened: list[bool] = []
    adapter = Adapter(method._fresh(backbone, generator()), ("circle",), 1, 1.0)
    with backbone.frozen(), _hooked(backbone, adapter) as gates:
        objective = SPMObjective(method, backbone, CONCEPT, gates, QUIET)
        real = Backbone.predict

        def noted(self: Backbone, *args: Any) -> torch.Tensor:
            opened.append(gates[UNET_PREFIX].value is not None)
            predicted: torch.Tensor = real(self, *args)
            return predicted

        monkeypatch.setattr(Backbone, "predict", noted)
        latents, t = objective._rolled_out(["a red circle"] * 2, generator(5))
        assert all(opened)
        assert 1 <= len(opened) <= 3
        assert t.tolist() == [int(backbone.timesteps(4)[len(opened)])] * 2
        assert latents.shape == (2, 4, 8, 8)
        with objective._frozen():
            assert [one.value for one in gates.values()] == [None, None]
        assert all(isinstance(one, Gates) and one.value is not None for one in gates.values())


@pytest.mark.parametrize("fields", [{"batch": 0}, {"anchors": 0}, {"rank": 0}])
def test_counts_below_one_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of at least 1"):
        SPM(**fields)


def test_scaled_gradients_are_refused_where_the_unet_is_adapted(tiny_pipe: Any) -> None:
    half = SPM(train=SPMTrainingConfig(iterations=2, warmup=1, precision="fp16"))
    with pytest.raises(ValueError, match="expected precision fp32 or bf16 for adapters on the UNet, found fp16"):
        half.erase(Backbone.from_pipeline(tiny_pipe), CONCEPT, generator=generator(), workspace=QUIET)


def test_odd_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="warmup < iterations"):
        SPMTrainingConfig(iterations=10, warmup=10)
    assert math.isclose(SPMTrainingConfig().rate_at(500), 1e-4)


def test_activations_computed_twice_give_the_same_adapters(tiny_pipe: Any) -> None:
    """The adapters are open, too, when a backward pass computes activations again."""
    backbone, method = Backbone.from_pipeline(tiny_pipe), small(where="both")
    once = method.erase(backbone, CONCEPT, generator=generator(), workspace=QUIET)
    again = Workspace(progress=False, gradient_checkpointing=True)
    twice = method.erase(backbone, CONCEPT, generator=generator(), workspace=again)
    assert all(torch.allclose(twice.tensors[key], one, atol=1e-6) for key, one in once.tensors.items())


def test_a_word_that_a_file_cannot_hold_is_refused_before_training(tiny_pipe: Any) -> None:
    odd = Concept(name="red, round", kind="object", prompts=("a red, round thing",))
    with pytest.raises(ValueError, match="without commas"):
        small().erase(Backbone.from_pipeline(tiny_pipe), odd, generator=generator(), workspace=QUIET)
