"""Adversarial rows of conditionings: where they stand, how they move, what a checkpoint keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.adversarial_rows import AdversarialRows, AdversarialRowsConfig

TEXTS = ("a red circle", "circle", "a star")
PART = torch.tensor([0, 0, 1])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(pipe: Any, **fields: Any) -> tuple[Backbone, AdversarialRows]:
    backbone = Backbone.from_pipeline(pipe)
    config = AdversarialRowsConfig(**{"tokens": 3, **fields})
    return backbone, AdversarialRows(config, backbone, TEXTS, PART, generator=generator())


def test_rows_stand_after_the_last_token_of_each_prompt(tiny_pipe: Any) -> None:
    backbone, rows = made(tiny_pipe)
    cond = backbone.condition(TEXTS).detach()
    index = torch.tensor([1, 2, 0])
    placed, leaf = rows.placed(cond[index], index)
    for b, i in enumerate(index.tolist()):
        length = len(backbone.tokenizer(TEXTS[i], add_special_tokens=False).input_ids)
        wanted = cond[i].clone()
        wanted[1 + length : 1 + length + 3] = rows.prompts[int(PART[i])].detach()
        assert torch.equal(placed[b], wanted)
        assert torch.equal(leaf[b], rows.prompts[int(PART[i])])
    assert all(float(one.detach().min()) >= 0 and float(one.detach().max()) < 1 for one in rows.prompts)


def test_steps_are_adams_with_an_l2_penalty_and_only_on_the_prompt_in_use(tiny_pipe: Any) -> None:
    backbone, rows = made(tiny_pipe)
    cond, goal = backbone.condition(TEXTS).detach(), torch.randn(24, 16, generator=generator(1))
    before = [one.detach().clone() for one in rows.prompts]
    wanted, mean, square = before[0].clone(), torch.zeros(3, 16), torch.zeros(3, 16)
    index = torch.tensor([0, 1])
    for step in (1, 2, 3):
        placed, leaf = rows.placed(cond[index], index)
        error = (placed - goal).square().flatten(1).mean(1)
        rows.step(error, leaf, index, keep_graph=False)
        # The mean over the two prompts that share the rows, by hand.
        slope = torch.zeros(3, 16)
        for i in (0, 1):
            first = int(rows.positions[i, 0])
            slope += 2 * (wanted - goal[first : first + 3]) / (24 * 16) / 2
        slope = slope + 0.1 * wanted
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        wanted = wanted - 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        assert torch.allclose(rows.prompts[0], wanted, atol=1e-5)
    assert torch.equal(rows.prompts[1], before[1])


def test_a_checkpoint_keeps_rows_and_averages(tiny_pipe: Any) -> None:
    backbone, rows = made(tiny_pipe)
    cond = backbone.condition(TEXTS).detach()

    def steps(which: AdversarialRows, n: int) -> None:
        for _ in range(n):
            placed, leaf = which.placed(cond[:1], torch.tensor([0]))
            which.step(placed.square().flatten(1).mean(1), leaf, torch.tensor([0]), keep_graph=False)

    steps(rows, 2)
    kept = {name: one.clone() for name, one in rows.state().items()}
    assert {"adversarial.0", "adversarial.1", "adversarial.0.exp_avg"} <= set(kept)
    steps(rows, 2)
    other = made(tiny_pipe)[1]
    other.load_state({**kept, "unet_calls": torch.tensor(3)})
    steps(other, 2)
    assert all(torch.equal(one, two) for one, two in zip(rows.prompts, other.prompts, strict=True))


def test_prompts_without_room_and_odd_numbers_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="expected room for 22 adversarial rows"):
        made(tiny_pipe, tokens=22)
    for fields in ({"steps": -1}, {"tokens": 0}, {"rate": 0.0}, {"decay": -1.0}):
        with pytest.raises(ValueError, match="steps 0 switches the attack off"):
            AdversarialRowsConfig(**fields)
