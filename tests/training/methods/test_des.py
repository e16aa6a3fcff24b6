"""DES and SAGE: each term against its formula in NumPy, and what training does to an encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from robust_encoders import Concept
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import DES, METHODS
from robust_encoders.training.methods.des import Distortion, neighbour_correlation, spread
from robust_encoders.training.protocols import DistributedMethod
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.reproduce import rebuilt
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

SAFE = ("a blue square", "a green star", "a red cross", "a star")
UNSAFE = ("a red circle", "a circle", "a blue circle")
CONCEPT = Concept(name="circle", kind="object", prompts=UNSAFE)
QUIET = Workspace(progress=False)
Array = Any


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def moved(backbone: Backbone) -> Backbone:
    """A student that has left its teacher."""
    student = backbone.clone()
    generator = Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in student.text_encoder.named_parameters():
            if "embedding" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return student


def final_norm(student: Backbone) -> torch.nn.LayerNorm:
    named = dict(student.text_encoder.named_modules())
    return cast("torch.nn.LayerNorm", next(m for name, m in named.items() if name.endswith("final_layer_norm")))


def rows(backbone: Backbone, *texts: str) -> Array:
    with torch.no_grad():
        return backbone.condition(list(texts)).flatten(1).double().numpy()


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def apart(a: Array, b: Array) -> float:
    return float(np.mean(1 - np.sum(unit(a) * unit(b), axis=1)))


def parts(settings: DES, backbone: Backbone, student: Backbone, concept: Concept = CONCEPT) -> tuple[Tensor, Any]:
    with torch.no_grad():
        found: tuple[Tensor, Any] = Distortion.of(settings, concept, backbone, student)(0, Generator().manual_seed(0))
    return found


def test_every_term_is_the_papers(backbone: Backbone) -> None:
    settings, student = DES(safe=SAFE, scale=7.0, keep=0.2, batch=8), moved(backbone)
    kept, before, name = rows(backbone, *SAFE), rows(backbone, *UNSAFE), rows(backbone, "circle")
    along = 7.0 * unit(name)
    targets = kept[(unit(before) @ unit(kept).T).argmin(axis=1)] - along
    now = rows(student, *SAFE)
    expected = {
        "safe": apart(now, kept),
        "shifted": apart(now + along, kept),
        "unsafe": apart(rows(student, *UNSAFE), targets),
        "neutral": apart(rows(student, "circle"), rows(backbone, "")),
    }
    total, found = parts(settings, backbone, student)
    assert found == pytest.approx(expected, rel=1e-4)
    weighted = 0.2 * (expected["safe"] + expected["shifted"]) + 0.8 * (expected["unsafe"] + expected["neutral"])
    assert float(total) == pytest.approx(weighted, rel=1e-4)


def test_sage_adds_two_terms_with_their_own_weights(backbone: Backbone) -> None:
    plain = DES(safe=SAFE, batch=8)
    sage = replace(plain, spread_weight=2.0, structure_weight=0.1, neighbours=2, shift=5.0)
    student = moved(backbone)
    with torch.no_grad():  # prompts that differ less than before
        final_norm(student).bias.add_(3.0)
    kept, now, along = rows(backbone, *SAFE), rows(student, *SAFE), 5.0 * unit(rows(backbone, "circle"))
    lost = [float(unit(part).var(axis=0, ddof=1).sum()) for part in (kept, now)]
    old, new = (unit(part) @ unit(part).T for part in (kept, now + along))
    pairs = [(i, j) for i in range(4) for j in np.argsort(-np.where(np.eye(4)[i], -np.inf, old[i]))[:2]]
    r = np.corrcoef([old[i, j] for i, j in pairs], [new[i, j] for i, j in pairs])[0, 1]
    before, (total, found) = parts(plain, backbone, student)[0], parts(sage, backbone, student)
    assert lost[0] > lost[1]
    assert found["spread"] == pytest.approx(lost[0] - lost[1], rel=1e-3)
    assert found["structure"] == pytest.approx(1 - r, rel=1e-3, abs=1e-5)
    assert float(total - before) == pytest.approx(2 * (lost[0] - lost[1]) + 0.1 * (1 - r), rel=1e-3)


def test_more_spread_than_before_costs_nothing(backbone: Backbone) -> None:
    student = backbone.clone()
    with torch.no_grad():
        common = backbone.condition(list(SAFE)).mean((0, 1))
        final_norm(student).bias.sub_(common)  # what all have in common is gone
    before, after = (float(spread(torch.from_numpy(rows(one, *SAFE)))) for one in (backbone, student))
    assert after > before
    assert parts(DES(safe=SAFE, spread_weight=2.0), backbone, student)[1]["spread"] == 0


def test_equal_structure_correlates_wholly_and_another_does_not() -> None:
    before = torch.randn(6, 5, generator=Generator().manual_seed(0))
    assert float(neighbour_correlation(2 * before, before, 3)) == pytest.approx(1)
    other = torch.randn(6, 5, generator=Generator().manual_seed(1))
    assert float(neighbour_correlation(other, before, 3)) < 0.9


def test_an_encoder_that_changed_nothing_keeps_all_that_is_safe(backbone: Backbone) -> None:
    total, found = parts(DES(safe=SAFE, scale=0.0), backbone, backbone.clone())
    assert found["safe"] == pytest.approx(0, abs=1e-5)
    assert found["shifted"] == pytest.approx(0, abs=1e-5)
    assert float(total) > 0


def test_the_parts_of_a_joint_concept_have_directions_of_their_own(backbone: Backbone) -> None:
    red = Concept(name="red", kind="attribute", prompts=("a red star",))
    joint = Concept.joint((CONCEPT, red))
    made = Distortion.of(DES(safe=SAFE), joint, backbone, backbone.clone())
    expected = unit(rows(backbone, "circle")) + unit(rows(backbone, "red"))
    assert made.direction.tolist() == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert made.names.texts == ("circle", "red")
    assert set(made.unsafe.texts) == {*UNSAFE, "a red star"}


def test_processes_share_one_loss(backbone: Backbone) -> None:
    whole = Distortion.of(DES(safe=SAFE), CONCEPT, backbone, moved(backbone))
    half = replace(whole, shard=replace(Shard.current(), count=2))
    with torch.no_grad():
        one, two = (loss(0, Generator().manual_seed(0)) for loss in (whole, half))
    assert float(two[0]) == pytest.approx(float(one[0]) / 2)
    assert two[1] == pytest.approx({name: value / 2 for name, value in one[1].items()})


def trained(settings: DES, backbone: Backbone, workspace: Workspace = QUIET) -> Edit:
    return settings.erase(backbone, CONCEPT, generator=Generator().manual_seed(1), workspace=workspace)


def test_training_turns_the_concept_away_keeps_the_rest_and_calls_no_unet(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    edit = trained(DES(safe=SAFE, scale=5.0, train=TrainingConfig(iterations=60, rate=3e-3)), backbone)
    losses = edit.log["losses"]
    assert edit.log["unet_calls"] == edit.log["bank_unet_calls"] == 0
    assert losses["unsafe"][-1] < 0.5 * losses["unsafe"][0]
    assert losses["neutral"][-1] < 0.5 * losses["neutral"][0]
    assert losses["safe"][-1] < 0.1
    embeddings = [name for name in edit.tensors if "embedding" in name]
    before = tiny_pipe.text_encoder.state_dict()
    assert embeddings
    assert all(
        torch.equal(edit.tensors[n], before.get(n, before.get(n.removeprefix("text_model.")))) for n in embeddings
    )


def test_a_stopped_run_goes_on_as_though_it_had_not(backbone: Backbone, tmp_path: Path) -> None:
    settings = DES(safe=SAFE, batch=2, spread_weight=2.0, train=TrainingConfig(iterations=6, rate=1e-3))
    whole = trained(settings, backbone)
    kept = Workspace(folder=tmp_path, every=4, progress=False)
    identity = content_sha256(trained(settings, backbone, kept).tensors)
    assert identity == content_sha256(whole.tensors)
    assert any("4" in path.name for path in tmp_path.iterdir())
    assert not any("6" in path.name for path in tmp_path.iterdir()), "what follows begins in the middle"
    assert content_sha256(trained(settings, backbone, kept).tensors) == identity


def test_it_is_an_eraser_with_the_papers_settings() -> None:
    assert METHODS["des"] is DES
    made = DES.standard(SAFE)
    assert not isinstance(made, DistributedMethod)
    assert made == DES(safe=SAFE, scale=200.0, keep=0.3, batch=128, train=TrainingConfig(iterations=108, rate=1e-5))
    assert made.spread_weight == made.structure_weight == 0


@pytest.mark.parametrize("term", ["spread", "structure"])
def test_sages_terms_pull_at_the_encoder(backbone: Backbone, term: str) -> None:
    weight: dict[str, Any] = {f"{term}_weight": 1.0}
    settings = DES(safe=SAFE, **weight, neighbours=2)
    student = moved(backbone)
    with torch.no_grad():
        final_norm(student).bias.add_(3.0)
    loss, plain = (Distortion.of(s, CONCEPT, backbone, student) for s in (settings, DES(safe=SAFE)))
    bias = final_norm(student).bias

    def pull() -> Tensor:
        both = (torch.autograd.grad(one(0, Generator())[0], bias)[0] for one in (loss, plain))
        with_term, without = both
        return with_term - without

    step = pull()
    assert float(step.norm()) > 1e-4
    before = loss(0, Generator())[1][term]
    with torch.no_grad():
        bias.sub_(0.1 * step / step.norm())
    assert loss(0, Generator())[1][term] < before


def test_its_settings_are_read_back_from_a_manifest() -> None:
    settings = DES(safe=SAFE, scale=205.0, spread_weight=2.0, train=TrainingConfig(iterations=5, schedule="cosine"))
    assert rebuilt(DES, json.loads(json.dumps(describe(settings)))) == settings


def test_the_recipes_differ_by_sages_two_terms() -> None:
    des, sage = (RECIPES[f"shapes/circle-{name}"]().method for name in ("des", "sage"))
    assert isinstance(des, DES)
    assert sage == replace(des, spread_weight=2.0, structure_weight=0.1)
    assert not any("circle" in text or "disc" in text or "ball" in text for text in des.safe)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 1.0},
        {"keep": 0.0},
        {"scale": -1.0},
        {"spread_weight": -1.0},
        {"batch": 0},
        {"neighbours": 0},
        {"structure_weight": 0.1, "batch": 15},
        {"spread_weight": 0.1, "batch": 1},
    ],
)
def test_numbers_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DES(safe=SAFE, **wrong)


def test_a_concept_without_captions_is_refused(backbone: Backbone) -> None:
    bare = Concept(name="circle", kind="object")
    with pytest.raises(ValueError, match=r"captions with the concept .*--prompts.* found none for 'circle'"):
        DES(safe=SAFE).erase(backbone, bare, generator=Generator(), workspace=QUIET)


@pytest.mark.parametrize("settings", [DES(safe=()), DES(safe=SAFE, structure_weight=0.1)])
def test_too_few_safe_prompts_are_refused_before_anything_is_trained(settings: DES, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"expected at least .* safe prompts, found \d: give captions without"):
        trained(settings, backbone)
