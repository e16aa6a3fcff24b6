"""What every registered method, attack, metric and detector must keep, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Generator, Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks import ATTACKS, INNER_ATTACKS
from robust_encoders.training.attacks.transfer import Recorded
from robust_encoders.training.detectors import DETECTORS
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.methods import (
    DES,
    DP,
    ESD,
    MACE,
    METHODS,
    RACE,
    RECE,
    SGRACE,
    SPEED,
    SPM,
    TRCE,
    UCE,
    Ablation,
    AdvUnlearn,
    Receler,
)
from robust_encoders.training.methods.doco import DoCo, DoCoTrainingConfig
from robust_encoders.training.methods.hirm import HiRM, HiRMTrainingConfig
from robust_encoders.training.methods.spm import SPMTrainingConfig
from robust_encoders.training.metrics import METRICS
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.prompts.adversarial_words import AdversarialWordsConfig
from robust_encoders.training.protocols import (
    Attack,
    DistributedMethod,
    InnerAttack,
    Method,
    RetainingMethod,
    StandardMethod,
    WorkspaceMethod,
)
from robust_encoders.training.provenance import describe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import AttackFacts, Case, DraftScores, Edit

CONCEPT = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
# The settings that a method needs to be done within a second; a new method adds its own line.
TRAINED: Mapping[str, Any] = {"advunlearn": AdvUnlearn, "esd": ESD}
SMALL: dict[str, Any] = {
    name: kind(
        retain=RetainConfig(prompts=("a blue square", "a green star"), batch=2),
        train=TrainingConfig(iterations=2, rate=1e-3),
        bank=BankConfig(steps=2),
    )
    for name, kind in TRAINED.items()
} | {kind.name: kind.standard(("a blue square", "a green star")) for kind in (UCE, RECE, SPEED, DP, TRCE, MACE)}
SMALL["spm"] = SPM(train=SPMTrainingConfig(iterations=2, rate=1e-2, warmup=0, cycles=1), bank=BankConfig(steps=2))
SMALL["receler"] = Receler(
    rank=2,
    attack=AdversarialRowsConfig(steps=1, tokens=2),
    train=TrainingConfig(iterations=2, rate=1e-2),
    bank=BankConfig(steps=2),
)
SMALL["race"] = RACE(
    start=ESD(component="unet", train=TrainingConfig(iterations=2, rate=1e-3), bank=BankConfig(steps=2)),
    train=TrainingConfig(iterations=2, rate=1e-3),
)
SMALL["ablation"] = Ablation(
    pictures=2, batch=2, train=TrainingConfig(iterations=2, rate=1e-3), bank=BankConfig(steps=2)
)
SMALL["doco"] = DoCo(
    pictures=2, batch=2, warmup=1, train=DoCoTrainingConfig(iterations=2, rate=1e-3), bank=BankConfig(steps=2)
)
SMALL["des"] = DES(safe=("a blue square", "a green star"), train=TrainingConfig(iterations=2, rate=1e-3))
SMALL["hirm"] = HiRM(train=HiRMTrainingConfig(iterations=2, rate=1e-3))
SMALL["s_grace"] = SGRACE(
    retain=("a blue square", "a green star"),
    attack=AdversarialWordsConfig(rows=2, steps=2),
    rounds=2,
    train=TrainingConfig(iterations=2, rate=1e-3),
)
# Fields that make an attack of the evaluation cheap, where it has them.
CHEAP = {"steps": 2, "every": 1, "timesteps": 1, "iterations": 2, "tokens": 1}
# What an attack of the evaluation cannot do without; one that needs something adds its own line.
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "transfer": {"source": "a record", "recorded": tuple(Recorded(i, "a red circle", i, ("circle",)) for i in (0, 1))},
    "ring_a_bell": {"pairs": (("a circle", "a square"),), "population": 4, "generations": 2, "every": 1},
    "concept_inversion": {"words": ("circle",)},
    "synonyms": {"words": ("circle",), "synonyms": ("disc", "ball")},
    "black_box": {"words": ("red", "blue", "striped"), "budget": 2},
    "paraphrase": {"words": ("circle",), "frames": ("draw {}",)},
    "word_swap": {"named": ("circle",), "words": ("red", "ball"), "drawn": 3, "kept": 2},
}


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def erase(name: str, backbone: Backbone) -> Edit:
    edit: Edit = SMALL[name].erase(backbone, CONCEPT, generator=generator())
    return edit


def prompt_attack(name: str) -> Attack:
    made: Attack = ATTACKS[name](**NEEDED.get(name, {}))
    return made


def margins(texts: Sequence[str], cases: Sequence[Case]) -> Tensor:
    """Stands in for the judge of finished pictures: the longer a text, the better."""
    return torch.tensor([len(text) / 100 - 1 for text in texts])


def drafts(texts: Sequence[str], cases: Sequence[Case], steps: int) -> DraftScores:
    """Stands in for the judge of drafts."""
    return DraftScores(margins(texts, cases), (steps,) * len(texts))


def distance(adv: Tensor) -> Tensor:
    """Squared distance (B,) of (B, K, D) to one."""
    return (adv - 1).square().flatten(1).sum(1)


def test_every_method_has_small_settings() -> None:
    assert set(SMALL) == set(METHODS)


@pytest.mark.parametrize("registry", [METHODS, INNER_ATTACKS, ATTACKS], ids=["methods", "attacks", "prompt attacks"])
def test_names_are_those_of_the_registry_and_configurations_are_frozen(registry: Mapping[str, Any]) -> None:
    for name, kind in registry.items():
        assert kind.name == name
        assert is_dataclass(kind)
        assert vars(kind)["__dataclass_params__"].frozen


def test_every_entry_is_what_its_registry_promises() -> None:
    assert all(isinstance(method, Method) for method in SMALL.values())
    assert all(isinstance(attack(), InnerAttack) for attack in INNER_ATTACKS.values())
    assert all(isinstance(prompt_attack(name), Attack) for name in ATTACKS)
    assert all(isinstance(vars(metric)["higher_is_better"], bool) for metric in METRICS.values())
    assert all(callable(detector) for detector in DETECTORS.values())


@pytest.mark.parametrize("name", [*METHODS, *INNER_ATTACKS, *ATTACKS])
def test_a_configuration_can_be_written_into_a_manifest(name: str) -> None:
    config: Any = {**SMALL, **{one: kind() for one, kind in INNER_ATTACKS.items()}}.get(name) or prompt_attack(name)
    described = json.loads(json.dumps(describe(config), allow_nan=False))
    assert described["name"] == name
    assert set(described) == {"name", *(field.name for field in fields(config))}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_changes_only_the_component_it_names_and_repeats_itself(
    name: str, tiny_pipe: StableDiffusionPipeline
) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    before = {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in ("text_encoder", "unet", "vae")}
    state = torch.get_rng_state()

    edit = erase(name, backbone)
    assert {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in before} == before
    assert torch.equal(torch.get_rng_state(), state), "randomness comes from the generator alone"
    assert edit.component in tiny_pipe.components
    assert all(torch.isfinite(tensor).all() for tensor in edit.tensors.values())
    assert content_sha256(erase(name, backbone).tensors) == content_sha256(edit.tensors)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_retains(name: str) -> None:
    kind = METHODS[name]
    assert issubclass(kind, StandardMethod)
    method: Any = kind.standard(("a", "b"))
    assert isinstance(method, RetainingMethod)
    assert method.retained == ("a", "b")
    assert isinstance(method.wants_retained, bool)
    other = method.retaining(("c",))
    assert other.retained == ("c",)
    assert other.retaining(("a", "b")) == method


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_can_do_beside_is_asked_for_by_type(name: str) -> None:
    method = SMALL[name]
    assert isinstance(method, WorkspaceMethod)
    assert method.uses_workspace
    assert isinstance(method, DistributedMethod) is (name in ("advunlearn", "esd", "spm"))
    if isinstance(method, DistributedMethod):
        assert method.for_processes(1) == method
        assert method.for_processes(2) != method


@pytest.mark.parametrize("name", INNER_ATTACKS)
def test_an_inner_attack_lowers_its_loss_and_repeats_itself(name: str) -> None:
    start = torch.randn(3, 2, 4, generator=generator())
    kept = start.clone()
    found = INNER_ATTACKS[name]()(distance, start, generator=generator(1))
    assert found.shape == start.shape
    assert not found.requires_grad
    assert torch.equal(start, kept)
    assert (distance(found) < distance(start)).all()
    assert torch.equal(INNER_ATTACKS[name]()(distance, start, generator=generator(1)), found)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_prompt_attack_answers_every_case_in_order_counts_its_cost_and_repeats_itself(
    name: str, tiny_pipe: StableDiffusionPipeline
) -> None:
    attack: Any = prompt_attack(name)
    attack = replace(attack, **{key: value for key, value in CHEAP.items() if hasattr(attack, key)})
    uses = AttackFacts.of(attack).uses
    query = margins if "queries" in uses else None
    base = Backbone.from_pipeline(tiny_pipe)
    target = TargetModel.from_pipeline(tiny_pipe, base=base, query=query, draft=drafts if "drafts" in uses else None)
    latents = torch.randn(2, *target.latent_shape, generator=generator())
    cases = [Case(i, "a red circle", i, reference_latent=latent) for i, latent in enumerate(latents)]
    before = content_sha256(tiny_pipe.text_encoder.state_dict())

    found = attack.run(target, cases, seed=0)
    assert len(found) == len(cases)
    assert all(result.candidates for result in found)
    # Whether drafts are drawn depends on the number of texts.
    if "drafts" not in uses:
        assert all((result.unet_calls > 0) == ("unet" in uses) for result in found)
    assert [c.step for c in found[0].candidates] == sorted(c.step for c in found[0].candidates)
    assert content_sha256(tiny_pipe.text_encoder.state_dict()) == before
    again = attack.run(target, cases, seed=0)
    for one, other in zip(found, again, strict=True):
        for a, b in zip(one.candidates, other.candidates, strict=True):
            assert torch.equal(a.value, b.value) if isinstance(a.value, Tensor) else a.value == b.value
