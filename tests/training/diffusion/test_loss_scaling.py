from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import TINY, erase
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.loss_scaling import with_scaled_gradients


def gradients(backbone: Backbone, weight: float, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    latents, cond = torch.randn((3, 4, 8, 8), generator=g)[rows], torch.randn((3, 24, 16), generator=g)[rows]
    latents, cond = latents.requires_grad_(), cond.requires_grad_()
    predicted = backbone.predict(latents, torch.tensor([10, 400, 900])[rows], cond)
    assert predicted.dtype == torch.float32
    found = torch.autograd.grad(weight * predicted.square().mean((1, 2, 3)).sum(), (latents, cond))
    return found[0], found[1]


@pytest.mark.parametrize("weight", [1.0, 2.0**-24])
def test_gradients_through_float16_agree_with_float32_whatever_their_size(tiny_pipe: Any, weight: float) -> None:
    tiny_pipe.unet.requires_grad_(False)
    expected = gradients(Backbone.from_pipeline(tiny_pipe), 1.0)
    found = gradients(Backbone.from_pipeline(tiny_pipe, precision="fp16"), weight)
    for a, b in zip(found, expected, strict=True):
        a = a / weight
        assert float((a - b).norm() / b.norm()) < 0.02


def test_without_the_scale_small_gradients_vanish(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipe.unet.requires_grad_(False)
    monkeypatch.setattr(
        "robust_encoders.training.diffusion.backbone.with_scaled_gradients",
        lambda run, latents, cond: run(latents, cond),
    )
    found = gradients(Backbone.from_pipeline(tiny_pipe, precision="fp16"), 2.0**-24)
    assert all(float(gradient.abs().max()) == 0 for gradient in found)


def test_the_scale_itself_changes_no_bit() -> None:
    g = torch.Generator().manual_seed(0)
    latents, cond = torch.randn((2, 4), generator=g), torch.randn((2, 4), generator=g).requires_grad_()
    expected = torch.autograd.grad((latents * cond).tanh().sum(), cond)[0]
    predicted = with_scaled_gradients(lambda a, b: (a * b).tanh(), latents, cond)
    assert torch.equal(torch.autograd.grad(predicted.sum(), cond)[0], expected)
    zero = with_scaled_gradients(lambda a, b: a * b, torch.zeros(2, 4), cond)
    assert torch.equal(torch.autograd.grad((0 * zero).sum(), cond)[0], torch.zeros(2, 4))


def test_gradients_that_are_not_finite_are_refused() -> None:
    cond = torch.zeros(2, 4, requires_grad=True)
    predicted = with_scaled_gradients(lambda latents, cond: cond.sqrt(), torch.zeros(2, 4), cond)
    with pytest.raises(
        RuntimeError,
        match=r"expected finite gradients from the UNet in fp16.*precision bf16 or fp32, and with --no-resume",
    ):
        torch.autograd.backward(predicted.sum())


def test_training_in_float16_is_near_training_in_float32(tiny_pipe: Any) -> None:
    exact = erase(TINY, tiny_pipe)
    half = erase(replace(TINY, train=replace(TINY.train, precision="fp16")), tiny_pipe)
    assert {tensor.dtype for tensor in half.tensors.values()} == {torch.float32}
    for name, series in exact.log["losses"].items():
        assert half.log["losses"][name] == pytest.approx(series, rel=0.05, abs=1e-5)
