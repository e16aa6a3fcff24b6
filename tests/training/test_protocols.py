"""What only some methods can do is asked for by type; a method with a name and ``erase`` alone is enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator

from robust_encoders import Concept, RobustEncoder
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.training import Recipe, run_recipe
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.protocols import (
    DistributedMethod,
    Method,
    RetainingMethod,
    StandardMethod,
    WorkspaceMethod,
)
from robust_encoders.training.recipes.recipe import with_retained
from robust_encoders.training.recipes.run import for_processes
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle",))
RED = Concept(name="red", kind="attribute", anchor="green", prompts=("a red star",))


@dataclass(frozen=True)
class Noise:
    """The least that a method is: noise on the final norm."""

    name: ClassVar[str] = "noise"
    scale: float = 0.5

    def erase(self, backbone: Backbone, concept: Concept, *, generator: Generator) -> Edit:
        state = {key: tensor.clone() for key, tensor in nested_state(backbone.text_encoder).items()}
        key = "text_model.final_layer_norm.bias"
        state[key] += self.scale * torch.randn(state[key].shape, generator=generator)
        return Edit("weights", "text_encoder", state, backbone.text_encoder.config.to_dict(), {})


@dataclass(frozen=True)
class Remembering:
    """The same with a workspace, from which it learns where checkpoints go."""

    name: ClassVar[str] = "remembering"
    uses_workspace: ClassVar[bool] = True

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        assert workspace is not None
        assert workspace.folder is not None
        workspace.folder.mkdir(parents=True)
        (workspace.folder / "here").touch()
        edit = Noise().erase(backbone, concept, generator=generator)
        return Edit(edit.form, edit.component, edit.tensors, edit.config, {"folder": workspace.folder.parent.name})


def recipe(method: Method) -> Recipe:
    return Recipe(name="tiny/circle", concept=CIRCLE, method=method, seed=4, base="tiny")


def test_the_least_method_has_no_optional_part() -> None:
    assert isinstance(Noise(), Method)
    for part in (WorkspaceMethod, RetainingMethod, StandardMethod, DistributedMethod):
        assert not isinstance(Noise(), part), part.__name__


def test_the_least_method_runs_as_a_recipe(tiny_pipe: Any, tmp_path: Path) -> None:
    made = run_recipe(recipe(Noise(0.25)), tiny_pipe, tmp_path / "out", progress=False)
    assert made.manifest.method == {"name": "noise", "scale": 0.25}
    before, after = nested_state(tiny_pipe.text_encoder), RobustEncoder.from_pretrained(tmp_path / "out").tensors
    changed = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert changed == {"text_model.final_layer_norm.bias"}


def test_several_processes_run_the_least_method_as_it_is() -> None:
    assert for_processes(recipe(Noise()), 4) == recipe(Noise())


def test_a_method_without_retain_prompts_stays_as_it_is() -> None:
    assert with_retained(Noise(), ("a star",)) == Noise()
    together = recipe(Noise()).together((RED,))
    assert together.method == Noise()
    assert [part.name for part in together.concept.parts] == ["circle", "red"]


def test_a_method_that_wants_a_workspace_gets_the_runs_own(tiny_pipe: Any, tmp_path: Path) -> None:
    assert isinstance(Remembering(), WorkspaceMethod)
    made = run_recipe(recipe(Remembering()), tiny_pipe, tmp_path / "out", progress=False)
    assert made.manifest.recipe["run"] == {"folder": "out.work"}
    assert not (tmp_path / "out.work").exists(), "it is gone with the run"
