"""Devices and precisions are asked for before a model is loaded."""

from __future__ import annotations

import pytest
import torch

from robust_encoders.training.diffusion import devices
from robust_encoders.training.diffusion.devices import device_problems


def test_the_default_and_the_cpu_compute_in_every_precision() -> None:
    for device in ("", "cpu"):
        assert device_problems(device, "float32", "float16", "bfloat16") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str) -> None:
    (problem,) = device_problems(device)
    assert f"found {device!r}" in problem
    assert "of this machine, such as cpu" in problem
    assert len(problem) < 300


@pytest.mark.parametrize("device", ["banana", "cuda:-1", "cuda:x", "meta"])
def test_a_name_of_no_device_and_a_device_without_values_are_refused(device: str) -> None:
    assert len(device_problems(device)) == 1


def test_a_number_beyond_the_last_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (problem,) = device_problems("cuda:2")
    assert "such as cpu or cuda:0 or cuda:1" in problem


def test_a_precision_that_the_device_does_not_compute_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_refusal", lambda name, dtype: "no kernel" if dtype == "float16" else "")
    (problem,) = device_problems("cpu", "bfloat16", "float16", "float16")
    assert "found float16: no kernel; choose float32" in problem
