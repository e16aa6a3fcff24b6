"""RECE in collapsed form against the authors' loop over layers and tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders import Concept
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import METHODS, RECE, UCE
from robust_encoders.training.methods.closed_form import RidgeConfig
from robust_encoders.training.protocols import DistributedMethod
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(name="circle", kind="object", anchor="square")
STAR = Concept(name="a yellow star", kind="object")
KEPT = ("a blue cross", "black")


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def matrix(method: RECE | UCE, backbone: Backbone, concept: Concept = CIRCLE) -> Tensor:
    found: Tensor = method.erase(backbone, concept, generator=Generator()).tensors["projection"]
    return found


def hidden(backbone: Backbone, text: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone.condition([text])[0].double()
    return found


def step(
    layers: list[Tensor], pairs: list[tuple[Tensor, Tensor]], kept: list[Tensor], weights: RidgeConfig
) -> list[Tensor]:
    """One solve for every matrix, target by target, with the matrices as they are now."""
    edited = []
    for w in layers:
        left, right = weights.lamb * w, weights.lamb * torch.eye(16, dtype=torch.float64)
        for c, t in pairs:
            left = left + weights.erase_scale * (t @ w.T).T @ c
            right = right + weights.erase_scale * c.T @ c
        for q in kept:
            left = left + weights.preserve_scale * (q @ w.T).T @ q
            right = right + weights.preserve_scale * q.T @ q
        edited.append(left @ torch.inverse(right))
    return edited


def naive(backbone: Backbone, method: RECE) -> list[Tensor]:
    """The whole of RECE on every K and V matrix: slice, solve, then derive and solve in each epoch."""
    old = [layer.weight.detach().double() for layer in key_value_layers(backbone.unet).values()]
    texts = [("circle", "square"), ("a yellow star", "")]
    kept = [hidden(backbone, text) for text in ("", *KEPT)]
    sliced = []
    for one, other in texts:
        i, j = (sum(backbone.tokenizer(text).attention_mask) - 2 for text in (one, other))
        n = 24 - max(i, j)
        sliced.append((hidden(backbone, one)[i : i + n], hidden(backbone, other)[j : j + n]))
    new = step(old, sliced, kept, method.start.weights)
    for _ in range(method.epochs):
        left = method.regulariser * torch.eye(16, dtype=torch.float64) + sum(w.T @ w for w in new)
        right: Any = sum(w.T @ o for w, o in zip(new, old, strict=True))
        derive = torch.inverse(left) @ right
        pairs = [(hidden(backbone, one) @ derive.T, hidden(backbone, other)) for one, other in texts]
        new = step(new, pairs, kept, method.weights)
    return new


@pytest.mark.parametrize("epochs", [0, 1, 3])
@pytest.mark.parametrize("regulariser", [1e-3, 0.1])
def test_it_is_the_authors_loop_over_all_matrices(backbone: Backbone, epochs: int, regulariser: float) -> None:
    backbone = backbone.sharing(backbone.text_encoder.double())
    method = RECE(start=UCE(tokens="from_last", preserve=KEPT), epochs=epochs, regulariser=regulariser)
    found = matrix(method, backbone, Concept.joint((CIRCLE, STAR))).double()
    for layer, expected in zip(key_value_layers(backbone.unet).values(), naive(backbone, method), strict=True):
        torch.testing.assert_close(layer.weight.detach().double() @ found, expected, rtol=1e-5, atol=2e-6)


def test_without_epochs_it_is_uce(backbone: Backbone) -> None:
    start = UCE(tokens="from_last", preserve=KEPT)
    assert torch.equal(matrix(RECE(start=start, epochs=0), backbone), matrix(start, backbone))
    start = UCE(preserve=KEPT)
    assert torch.equal(matrix(RECE(start=start, epochs=0), backbone), matrix(start, backbone))


def test_every_epoch_makes_it_harder_to_bring_the_concept_back(backbone: Backbone) -> None:
    """The embedding that brings it back best must be larger, or brings back less."""
    c = hidden(backbone, "circle")
    eye = torch.eye(16, dtype=torch.float64)
    left = []
    for epochs in (0, 1, 3):
        m = matrix(RECE(epochs=epochs), backbone).double()
        best = torch.linalg.solve(1e-2 * eye + m.T @ m, m.T @ c.T).T
        left.append(float((best @ m.T - c).square().sum() + 1e-2 * best.square().sum()))
    assert left[0] < left[1] < left[2]


def test_defaults_are_the_papers_for_nudity() -> None:
    made = RECE()
    assert METHODS["rece"] is RECE
    assert (made.epochs, made.regulariser) == (3, 0.1)
    assert made.weights == RidgeConfig(erase_scale=1, preserve_scale=0.1, lamb=0.1)
    assert made.start == UCE(tokens="from_last", erase_scale=1, preserve_scale=1, lamb=0.5)


def test_the_statistics_of_the_unet_are_kept_in_the_workspace(backbone: Backbone, tmp_path: Path) -> None:
    place = Workspace(cache_dir=tmp_path, progress=False)
    found = [RECE().erase(backbone, CIRCLE, generator=Generator(), workspace=w).tensors for w in (None, place, place)]
    assert len(list((tmp_path / "statistics").iterdir())) == 1
    assert all(torch.equal(one["projection"], found[0]["projection"]) for one in found)


def test_the_log_says_what_was_done(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log = RECE(epochs=2).erase(backbone, CIRCLE, generator=Generator()).log
    assert (log["moved_vectors"], log["kept_vectors"], log["unet_calls"]) == (24, 24, 0)
    assert len(log["steps"]) == 2
    assert min(log["steps"]) > 0
    assert 0 <= log["seconds_solving"] <= log["seconds_total"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": -1}, "expected epochs >= 0"),
        ({"regulariser": 0.0}, "a finite regulariser > 0"),
        ({"start": UCE(attributes=("red",), shares=(1.0,))}, "use UCE for debiasing"),
    ],
)
def test_settings_without_a_solution_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RECE(**fields)


def test_retained_prompts_are_those_of_its_start() -> None:
    made = RECE.standard(KEPT)
    assert made.retained == made.start.preserve == KEPT
    assert made.retaining(("a",)).retained == ("a",)
    assert not isinstance(made, DistributedMethod)
    assert not made.wants_retained
