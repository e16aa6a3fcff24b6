from __future__ import annotations

from typing import Any

import torch

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import ESD, METHODS, AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.protocols import Method
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

SHARED: dict[str, Any] = {
    "retain": RetainConfig(prompts=("a star", "a cross"), batch=2),
    "unlearn": UnlearnConfig(batch=2),
    "train": TrainingConfig(iterations=3, rate=1e-3),
    "bank": BankConfig(steps=2),
}


def erase(method: ESD | AdvUnlearn, pipe: Any) -> Edit:
    concept = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
    space = Workspace(progress=False)
    return method.erase(Backbone.from_pipeline(pipe), concept, generator=torch.Generator(), workspace=space)


def test_it_is_an_eraser() -> None:
    assert METHODS["esd"] is ESD
    assert isinstance(ESD(**SHARED), Method)


def test_esd_is_advunlearn_that_never_leaves_its_warmup(tiny_pipe: Any) -> None:
    esd = erase(ESD(**SHARED), tiny_pipe)
    never = erase(AdvUnlearn(**SHARED, adversary=AdversaryConfig(warmup=3)), tiny_pipe)
    at_once = erase(AdvUnlearn(**SHARED, attack=SoftPrompt(steps=1), adversary=AdversaryConfig(warmup=0)), tiny_pipe)
    assert content_sha256(esd.tensors) == content_sha256(never.tensors)
    assert content_sha256(esd.tensors) != content_sha256(at_once.tensors)
    assert esd.log["unet_calls"] == never.log["unet_calls"] == 3 * 2 * (2 + 2)


def test_the_loss_falls_without_a_retain_set(tiny_pipe: Any) -> None:
    free = {**SHARED, "retain": RetainConfig(weight=0.0), "train": TrainingConfig(iterations=20, rate=1e-2)}
    losses = erase(ESD(**free), tiny_pipe).log["losses"]
    assert set(losses) == {"unlearn"}
    assert sum(losses["unlearn"][-5:]) < sum(losses["unlearn"][:5])
