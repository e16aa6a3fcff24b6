"""Merging encoders: the papers' formulas, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from overlays import make_projection
from torch import Tensor

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.training.methods.merge import Merge, merge, merge_problems

Maker = Callable[..., RobustEncoder]
G = torch.Generator().manual_seed(0)
BASE = {"a": torch.randn(4, 3, generator=G), "b": torch.randn(5, generator=G)}
OTHERS = [{name: tensor + torch.randn(tensor.shape, generator=G) for name, tensor in BASE.items()} for _ in range(3)]


def naive_ties(density: float, scale: float) -> dict[str, Tensor]:
    """Algorithm 1 of the paper, value by value."""
    flat = [torch.cat([(other[name] - BASE[name]).flatten() for name in BASE]) for other in OTHERS]
    kept = round(density * len(flat[0]))
    for change in flat:
        for i in change.abs().argsort()[: len(change) - kept]:
            change[i] = 0.0
    joint = []
    for values in zip(*[change.tolist() for change in flat], strict=True):
        sign = 1.0 if sum(values) > 0 else -1.0
        agreeing = [value for value in values if value * sign > 0]
        joint.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    split = torch.split(torch.tensor(joint), [tensor.numel() for tensor in BASE.values()])
    return {name: BASE[name] + scale * part.view_as(BASE[name]) for name, part in zip(BASE, split, strict=True)}


def test_task_arithmetic_adds_all_changes() -> None:
    found = Merge(scale=0.5).joined(BASE, OTHERS)
    for name, base in BASE.items():
        assert torch.allclose(found[name], base + 0.5 * sum((other[name] - base for other in OTHERS), torch.zeros(())))


@pytest.mark.parametrize("density", [0.3, 0.6, 1.0])
def test_ties_is_the_papers_algorithm(density: float) -> None:
    found, expected = Merge(rule="ties", density=density, scale=0.7).joined(BASE, OTHERS), naive_ties(density, 0.7)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in BASE)


@pytest.mark.parametrize("rule", ["task_arithmetic", "ties"])
def test_encoders_that_changed_nothing_give_the_base(rule: Any) -> None:
    found = Merge(rule=rule).joined(BASE, [BASE, BASE])
    assert all(torch.allclose(found[name], BASE[name]) for name in BASE)


def test_one_encoder_of_several(tiny_pipe: Any, make_encoder: Maker, tmp_path: Path) -> None:
    parts = [make_encoder(tiny_pipe, seed=seed, name=name) for seed, name in ((1, "circle"), (2, "star"))]
    one = merge(parts, tiny_pipe)
    base = nested_state(tiny_pipe.text_encoder)
    name = "text_model.final_layer_norm.weight"
    assert torch.allclose(one.tensors[name], sum(part.tensors[name] for part in parts) - base[name], atol=1e-6)
    assert one.manifest.concept.name == "circle and star"
    assert [part["content_sha256"] for part in one.manifest.recipe["encoders"]] == [p.content_sha256 for p in parts]
    one.save_pretrained(tmp_path / "one")
    read = RobustEncoder.from_pretrained(tmp_path / "one")
    with read.attached(tiny_pipe):
        assert RobustEncoder.status(tiny_pipe).attached


def test_encoders_of_one_concept_are_merged_to_one_of_it(tiny_pipe: Any, make_encoder: Maker) -> None:
    seeds = [make_encoder(tiny_pipe, seed=seed, name="circle") for seed in (1, 2)]
    both = merge(seeds, tiny_pipe)
    assert both.manifest.concept == seeds[0].manifest.concept
    star = make_encoder(tiny_pipe, seed=3, name="star")
    joint = merge([merge([seeds[0], star], tiny_pipe), seeds[1]], tiny_pipe)
    assert [part.name for part in joint.manifest.concept.parts] == ["circle", "star"]


def test_what_cannot_be_merged_is_named(tiny_pipe: Any, make_pipe: Maker, make_encoder: Maker) -> None:
    good, other = make_encoder(tiny_pipe), make_encoder(make_pipe(seed=9), name="star")
    with pytest.raises(ValueError, match="at least two"):
        merge([good], tiny_pipe)
    with pytest.raises(ValueError, match=r"'star' erased by test: made from another.*form 'projection'"):
        merge([good, other, make_projection(tiny_pipe)], tiny_pipe)
    with pytest.raises(ValueError, match="expected a density"):
        Merge(rule="ties", density=0)
    with pytest.raises(ValueError, match="expected rule"):
        Merge(rule="mean")  # type: ignore[arg-type, unused-ignore]


def test_what_cannot_be_merged_is_told_by_manifests_alone(
    tiny_pipe: Any, make_pipe: Maker, make_encoder: Maker
) -> None:
    good, other = make_encoder(tiny_pipe), make_encoder(make_pipe(seed=9), name="star")
    assert merge_problems([good, make_encoder(tiny_pipe, seed=3)]) == []
    assert merge_problems([good]) == ["expected at least two encoders to merge, found 1"]
    (told,) = merge_problems([good, make_projection(tiny_pipe), other])
    assert told.startswith("expected whole text encoders of one base, found ")
    assert "form 'projection'; attach adapters and projections together instead" in told
    assert "'star' erased by test (tiny): made from another text encoder than " in told


@pytest.mark.base
def test_the_command_merges_shipped_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "joint"
    assert main(["merge", "shapes/circle", "shapes/red", "--out", str(out), "--rule", "ties"]) == 0
    assert RobustEncoder.from_pretrained(out).manifest.concept.name == "circle and red"
    assert str(out) in capsys.readouterr().out
    assert main(["merge", "shapes/circle", "--out", str(out)]) == 2
