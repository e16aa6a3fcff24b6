"""A tiny base of random weights with a benchmark, recipes of two methods, and methods of another package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from plans import SAMPLING, make_plan
from tiny_training import CIRCLE, RETAIN

from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.training import plugins
from robust_encoders.training.attacks import ContinuousPrefix
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan
from robust_encoders.training.methods import ESD, METHODS, UCE
from robust_encoders.training.objectives.config import RetainConfig, UnlearnConfig
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.worlds import BASES

STYLES = ("plain", "plain", "dotted", "dotted")
ANCHORED = replace(CIRCLE, anchor="star")


@dataclass(frozen=True)
class Swap:
    """A method of another package: it scales the token embeddings of the concept's words."""

    name: ClassVar[str] = "swap"
    share: float = 0.5

    def erase(self, backbone: Backbone, concept: Concept, *, generator: torch.Generator) -> Edit:
        encoder: Any = backbone.text_encoder
        tensors = {name: tensor.detach().clone() for name, tensor in nested_state(encoder).items()}
        rows = next(name for name in tensors if name.endswith("token_embedding.weight"))
        tensors[rows][backbone.tokenize([concept.name])[0]] *= self.share
        return Edit("weights", "text_encoder", tensors, encoder.config.to_dict(), {"unet_calls": 0, "seconds": 0.5})


@dataclass(frozen=True)
class Broken:
    """A method that always fails."""

    name: ClassVar[str] = "broken"

    def erase(self, backbone: Backbone, concept: Concept, *, generator: torch.Generator) -> Edit:
        raise RuntimeError("expected a loss that is finite, found nan; lower the rate")


@dataclass(frozen=True)
class TinyBenchmark:
    """The prompts of ``plans`` under one attack, in two styles.

    Args:
        concept: Concept under attack.
        steps_of_attack: Steps of the attack.
    """

    name: ClassVar[str] = "tiny"
    defaults: ClassVar[EvaluationConfig] = EvaluationConfig(sampling=SAMPLING, chunk=4, checks=0)

    concept: str | Concept
    steps_of_attack: int = 1

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan of the tiny evaluation."""
        made = make_plan(pipe, attacks={"continuous": ContinuousPrefix(steps=self.steps_of_attack)})
        first, *others = made.plain
        cases = zip(first.cases, STYLES, strict=True)
        grouped = replace(first, cases=tuple(replace(case, groups={"style": style}) for case, style in cases))
        return replace(made, plain=(grouped, *others))


def recipes() -> dict[str, Callable[[], Recipe]]:
    """Return the recipes of two methods."""
    esd = ESD(
        retain=RetainConfig(prompts=RETAIN, batch=2),
        unlearn=UnlearnConfig(batch=2),
        train=TrainingConfig(iterations=2, rate=1e-3),
        bank=BankConfig(steps=2),
    )
    unet = replace(esd, component="unet")
    methods = {"esd": esd, "esd-unet": unet, "uce": UCE()}
    return {
        f"tiny/circle-{name}": lambda name=name, method=method: Recipe(  # type: ignore[misc]
            name=f"tiny/circle-{name}", concept=ANCHORED, method=method, base="tiny"
        )
        for name, method in methods.items()
    }


def install(monkeypatch: pytest.MonkeyPatch, make_pipe: Callable[..., Any], *foreign: type) -> None:
    """Register the base, its benchmark and its recipes, and let another package offer methods by entry points."""

    class TinyWorld:
        name: ClassVar[str] = "tiny"
        license: ClassVar[str] = "apache-2.0"

        def pipeline(self) -> Any:
            return make_pipe()

        def concept(self, name: str, *, anchored: bool = False) -> Concept:
            if name != "circle":
                raise ValueError(f"expected a concept of the tiny world, circle, found {name!r}")
            return ANCHORED if anchored else CIRCLE

        def retain_prompts(self, concepts: Sequence[str]) -> tuple[str, ...]:
            return RETAIN

    monkeypatch.setitem(BASES, "tiny", TinyWorld)
    monkeypatch.setitem(BENCHMARKS, "tiny", TinyBenchmark)
    for name, made in recipes().items():
        monkeypatch.setitem(RECIPES, name, made)
    module: Any = ModuleType("their_methods")
    for kind in foreign:
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "their_methods", module)
    group = "robust_encoders.methods"
    offered = [EntryPoint(kind.name, f"their_methods:{kind.__name__}", group) for kind in foreign]  # type: ignore[attr-defined]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [one for one in offered if one.group == group])
    # What is loaded from an entry point now is forgotten with it.
    monkeypatch.setattr(METHODS, "_known", dict(METHODS._known))
