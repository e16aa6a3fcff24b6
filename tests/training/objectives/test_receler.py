"""Receler's loss against the formulas, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders import Concept
from robust_encoders.overlays.eraser import Eraser, applied, new_tensors
from robust_encoders.pipeline.shared_copy import shared_copy
from robust_encoders.training.diffusion.attention_maps import MaskConfig, attention_maps, concept_mask
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods.receler import Receler
from robust_encoders.training.objectives.receler import RecelerObjective, outside_power
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",), anchor="star", prompts=("a red circle", "a disc"))
QUIET = Workspace(progress=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Parts:
    """Teacher, student with random erasers, and objective."""

    def __init__(self, pipe: Any, concept: Concept = CONCEPT, **fields: Any) -> None:
        settings = {"rollout": "bank", "bank": BankConfig(steps=3), "rank": 4, "batch": 2}
        self.method = Receler(**{**settings, "attack": AdversarialRowsConfig(steps=2, tokens=3), **fields})
        self.teacher = Backbone.from_pipeline(pipe)
        self.teacher.unet.requires_grad_(False)
        self.student = self.teacher.sharing(unet=shared_copy(self.teacher.unet, "test"))
        tensors = new_tensors(self.teacher.unet, 4, generator=generator(1))
        self.tensors = {
            name: (one + 0.3 * torch.randn(one.shape, generator=generator(2))).requires_grad_()
            for name, one in tensors.items()
        }
        self.objective = RecelerObjective(
            self.method, self.teacher, self.student, concept, generator=generator(5), workspace=QUIET
        )

    def loss(self, seed: int = 3) -> tuple[torch.Tensor, dict[str, float]]:
        with applied(self.student.unet, [Eraser(self.tensors)], observe=self.objective.outputs):
            return self.objective(0, generator(seed))


def eraser_by_hand(tensors: dict[str, torch.Tensor], path: str, o: torch.Tensor) -> torch.Tensor:
    inner = o @ tensors[f"{path}.down.weight"].T + tensors[f"{path}.down.bias"]
    gelu = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    return gelu @ tensors[f"{path}.up.weight"].T + tensors[f"{path}.up.bias"]


def test_power_outside_the_mask_is_the_papers() -> None:
    output = torch.randn(2, 6, 5, generator=generator())
    mask = torch.tensor([[1.0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    first = sum(float((output[0, n] ** 2).mean()) for n in (1, 2, 4, 5)) / 4
    assert outside_power(output, mask).tolist() == pytest.approx([first, 0.0])


@pytest.mark.parametrize("target", ["negative_guidance", "anchor"])
def test_the_loss_is_the_papers(tiny_pipe: Any, target: Any) -> None:
    """Both terms from the same draws, with the attack's rows as they were before the last step."""
    parts = Parts(tiny_pipe, target=target, eta=0.5, attack=AdversarialRowsConfig(steps=1, tokens=3))
    rows, teacher = parts.objective.rows, parts.teacher
    assert rows is not None
    started = rows.prompts[0].detach().clone()
    total, found = parts.loss()
    assert not torch.equal(rows.prompts[0], started)
    g = generator(3)
    index = torch.randint(2, (2,), generator=g)
    drawn = parts.objective.source.sample(2, g, prompt_index=index)
    texts = [CONCEPT.prompts[i] for i in index]
    with torch.no_grad():
        cond = teacher.condition(texts)
        anchored = [text.replace("circle", "star").replace("disc", "star") for text in texts]
        start = teacher.condition([""] * 2 if target == "negative_guidance" else anchored)
        e_p, e_b = teacher.predict(drawn.latents, drawn.t, cond), teacher.predict(drawn.latents, drawn.t, start)
        with attention_maps(teacher.unet, parts.objective.tokens[index]) as maps:
            teacher.predict(drawn.latents, drawn.t, cond)
        mask = concept_mask(maps, (8, 8), MaskConfig()).flatten(1)
        for row, i in zip(cond, index.tolist(), strict=True):
            first = int(rows.positions[i, 0])
            row[first : first + 3] = started
        seen: dict[str, torch.Tensor] = {}

        def add(path: str) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
                seen[path] = eraser_by_hand(parts.tensors, path, output)
                return output + seen[path]

            return hook

        paths = {name.removesuffix(".up.bias") for name in parts.tensors if name.endswith(".up.bias")}
        handles = [teacher.unet.get_submodule(path).register_forward_hook(add(path)) for path in paths]
        student = teacher.predict(drawn.latents, drawn.t, cond)
        for handle in handles:
            handle.remove()
    # The bank holds half precision.
    assert found["erase"] == pytest.approx(float((student - (1.5 * e_b - 0.5 * e_p)).square().mean()), rel=1e-2)
    outside = 1 - mask
    layers = []
    for output in seen.values():
        each = [
            float((output[b] * outside[b][:, None]).pow(2).mean(1).sum() / (outside[b].sum() + 1e-9)) for b in (0, 1)
        ]
        layers.append(sum(each) / 2)
    assert found["outside"] == pytest.approx(sum(layers) / len(layers), rel=1e-3)
    assert float(total.detach()) == pytest.approx(found["erase"] + 0.1 * found["outside"], rel=1e-5)
    assert found["attack"] == pytest.approx(float((student - e_p).square().mean()), rel=1e-2)


def test_the_attack_brings_the_prediction_nearer_to_the_concept(tiny_pipe: Any) -> None:
    few, many = (
        Parts(tiny_pipe, batch=1, attack=AdversarialRowsConfig(steps=steps, tokens=8, decay=0.0)) for steps in (1, 30)
    )
    assert many.loss()[1]["attack"] < few.loss()[1]["attack"]


def test_without_an_attack_the_erasers_learn_from_the_plain_prompt(tiny_pipe: Any) -> None:
    """In the authors' code, no attack steps means no training at all."""
    parts = Parts(tiny_pipe, attack=AdversarialRowsConfig(steps=0))
    total, found = parts.loss()
    assert "attack" not in found
    total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(bool(one.grad is not None and one.grad.any()) for one in parts.tensors.values())
    assert set(parts.objective.state()) == {"unet_calls"}


def test_gradients_of_the_loss_reach_the_erasers_alone(tiny_pipe: Any) -> None:
    parts = Parts(tiny_pipe)
    total, _ = parts.loss()
    total.backward()  # type: ignore[no-untyped-call]
    assert all(bool(one.grad is not None and one.grad.any()) for one in parts.tensors.values())
    assert parts.objective.rows is not None
    assert all(one.grad is None for one in parts.objective.rows.prompts)
    assert all(one.grad is None for one in parts.teacher.unet.parameters())


def test_each_concept_has_its_own_rows_and_another_one_is_left_alone(tiny_pipe: Any) -> None:
    both = Concept.joint((CONCEPT, Concept(name="star", kind="object")))
    parts = Parts(tiny_pipe, both, batch=1)
    rows = parts.objective.rows
    assert rows is not None
    assert len(rows.prompts) == 2
    assert not torch.equal(*rows.prompts)
    assert rows.part.tolist() == [1 if text == "star" else 0 for text in both.prompts]
    before = [one.detach().clone() for one in rows.prompts]
    parts.loss()
    assert sum(torch.equal(one, two) for one, two in zip(before, rows.prompts, strict=True)) == 1


def test_retain_prompts_are_compared_with_the_frozen_model(tiny_pipe: Any) -> None:
    parts = Parts(tiny_pipe, retain=("a blue square", "a star"), retain_weight=2.0, outside_weight=0.0)
    total, found = parts.loss()
    assert set(found) == {"erase", "retain", "attack"}
    assert found["retain"] > 1e-5
    assert float(total.detach()) == pytest.approx(found["erase"] + 2 * found["retain"], rel=1e-5)
    for one in parts.tensors.values():
        one.data.zero_()
    assert parts.loss()[1]["retain"] < 1e-4  # what half precision in the bank leaves


def test_students_latents_are_drawn_with_the_erasers_on(tiny_pipe: Any) -> None:
    parts = Parts(tiny_pipe, rollout="student")
    with applied(parts.student.unet, [Eraser(parts.tensors)]):
        on = parts.objective.source.sample(4, generator(7))
    off = parts.objective.source.sample(4, generator(7))
    moved = [not torch.equal(one, two) for one, two in zip(on.latents, off.latents, strict=True)]
    first = parts.teacher.timesteps(3)[0]
    assert moved == [bool(t != first) for t in on.t]  # a run that stops at once is noise alone
    assert any(moved)


@pytest.mark.parametrize(("steps", "retain"), [(0, ()), (2, ()), (2, ("a star",))])
@pytest.mark.parametrize("rollout", ["bank", "student"])
def test_unet_calls_are_counted(tiny_pipe: Any, steps: int, retain: tuple[str, ...], rollout: Any) -> None:
    parts = Parts(tiny_pipe, attack=AdversarialRowsConfig(steps=steps, tokens=2), retain=retain, rollout=rollout)
    parts.teacher.unet_calls = 0
    parts.loss()
    # A batch of 2: an attack step is a forward and a backward pass, and the erasers' backward pass comes on top.
    wanted = 2 * (2 * steps + 1 if steps else 2) + (8 if retain else 0)
    wanted += 2 if rollout == "bank" else 4  # the mask's pass, or both frozen predictions
    if rollout == "student":
        g = generator(3)
        torch.randint(2, (2,), generator=g)
        wanted += sum(2 * (int(stop) + 1) for stop in torch.randint(3, (2,), generator=g))
    assert parts.objective.unet_calls == wanted


def test_thresholds_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a threshold in"):
        MaskConfig(threshold=1.5)
