from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from robust_encoders.training.trainer import checkpoint
from robust_encoders.training.trainer import loop as module
from robust_encoders.training.trainer.checkpoint import TrainingLog
from robust_encoders.training.trainer.loop import TrainingConfig, finetune
from robust_encoders.training.workspace import Workspace

TRAINING = TrainingConfig(iterations=12, rate=0.05, schedule="cosine", clip=1.0, average=0.9)


class NoisyBowl:
    """A loss with randomness and a memory, which may be interrupted."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], stop: int | None = None) -> None:
        self.parameters, self.stop, self.memory = parameters, stop, torch.zeros(3)

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        if iteration == self.stop:
            raise KeyboardInterrupt
        self.memory = 0.5 * self.memory + torch.randn(3, generator=generator)
        loss = torch.stack([(p - self.memory).square().sum() for p in self.parameters.values()]).sum()
        return loss, {"bowl": float(loss.detach())}

    def state(self) -> dict[str, Tensor]:
        return {"memory": self.memory}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.memory = state["memory"]


def parameters() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.zeros(3)), "layer.b": nn.Parameter(torch.ones(2, 3))}


def train(folder: Path | None = None, stop: int | None = None, **overrides: Any) -> tuple[dict[str, nn.Parameter], Any]:
    chosen = parameters()
    training = replace(TRAINING, **overrides.pop("training", {}))
    options = {"identity": "run", "generator": Generator().manual_seed(5), **overrides}
    space = Workspace(folder=folder, every=2, progress=False, resume=options.pop("resume", True))
    return chosen, finetune(chosen, NoisyBowl(chosen, stop), training, workspace=space, **options)


def test_weight_decay_is_decoupled_and_without_it_the_optimizer_is_adam() -> None:
    assert type(TRAINING.optimizer([nn.Parameter(torch.ones(1))])) is torch.optim.Adam
    still = nn.Parameter(torch.full((2,), 3.0))
    optimizer = TrainingConfig(rate=0.1, weight_decay=0.5).optimizer([still])
    still.grad = torch.zeros(2)
    optimizer.step()
    assert still.tolist() == pytest.approx([3.0 * (1 - 0.1 * 0.5)] * 2), "the decay is scaled by the rate alone"
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    with pytest.raises(ValueError, match="weight_decay >= 0"):
        TrainingConfig(weight_decay=-1.0)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, stop: int, moments: str) -> None:
    training = {"moments": moments}
    whole, log = train(training=training)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop, training=training)
    generator = Generator().manual_seed(99 if stop > 2 else 5)
    resumed, resumed_log = train(tmp_path, generator=generator, training=training)
    for name in whole:
        assert torch.equal(whole[name], resumed[name])
    assert resumed_log.losses == log.losses
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000012"]


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=5)

    def failing(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "os", SimpleNamespace(replace=failing, getpid=lambda: 7))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert (tmp_path / "checkpoint-00000004" / "state.safetensors").exists()
    resumed, _ = train(tmp_path)
    assert torch.equal(whole["a"], resumed["a"])


def test_starting_over_ignores_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=3, identity="other")
    whole, _ = train()
    again, _ = train(tmp_path, resume=False)
    assert torch.equal(whole["a"], again["a"])


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"expected a checkpoint of this run .other., found one of a run with other settings .run."
    ):
        train(tmp_path, identity="other")


def test_the_loop_agrees_with_a_naive_one() -> None:
    found, log = train(training={"average": 0.0})
    plain, generator = parameters(), Generator().manual_seed(5)
    loss = NoisyBowl(plain)
    optimizer = torch.optim.Adam(plain.values(), lr=1.0)
    for i in range(12):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * i / 12))
        optimizer.zero_grad()
        torch.autograd.backward(loss(i, generator)[0])
        nn.utils.clip_grad_norm_(plain.values(), 1.0)
        optimizer.step()
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])
    assert len(log.losses["bowl"]) == 12
    assert log.seconds > 0


def test_the_average_lags_behind_the_last_parameters() -> None:
    last, _ = train(training={"average": 0.0, "schedule": "constant"})
    averaged, _ = train(training={"average": 0.9, "schedule": "constant"})
    values, kept = [], torch.zeros(3)
    for n in range(1, 13):
        chosen, _ = train(training={"average": 0.0, "schedule": "constant", "iterations": n})
        values.append(chosen["a"].detach().clone())
    for i, value in enumerate(values):
        decay = min(0.9, (1 + i) / (10 + i))
        kept = decay * kept + (1 - decay) * value
    torch.testing.assert_close(averaged["a"].detach(), kept)
    assert not torch.equal(averaged["a"], last["a"])


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    chosen = parameters()

    class Broken(NoisyBowl):
        def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
            return torch.tensor(math.nan), {"bowl": math.nan}

    space = Workspace(progress=False)
    with pytest.raises(
        RuntimeError, match=r"expected a finite loss, found bowl nan at iteration 0.*--train.rate .*--no-resume"
    ):
        finetune(chosen, Broken(chosen), TRAINING, generator=Generator(), workspace=space, identity="run")


def test_other_processes_than_were_launched_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Accelerator", lambda **given: SimpleNamespace(num_processes=2))
    with pytest.raises(RuntimeError, match="expected the 1 processes of WORLD_SIZE, found 2: start with accelerate"):
        train()


@pytest.mark.parametrize("fields", [{"every": 0}, {"micro_batch": 0}])
def test_an_impossible_workspace_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected every and micro_batch of at least 1, found"):
        Workspace(**fields)


def test_what_a_killed_process_left_of_a_checkpoint_goes(tmp_path: Path) -> None:
    left = tmp_path / ".checkpoint-00000002.123"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000012"]


def test_losses_are_logged_where_they_were_computed() -> None:
    log = TrainingLog()
    for i in range(4):
        log.add(i, {"a": float(i), **({"late": 1.0} if i > 1 else {})})
    log.add(4, {"late": 3.0})
    assert log.curves(points=2) == {"a": [1.0, 3.0], "late": [1.0, 2.0]}
    assert log.curves(points=5)["late"] == [None, None, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("fields", [{"iterations": 0}, {"rate": 0.0}, {"average": 1.0}])
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected iterations >= 1"):
        TrainingConfig(**fields)
