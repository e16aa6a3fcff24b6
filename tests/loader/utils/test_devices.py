"""Devices that exist, and those that do not."""

from __future__ import annotations

import pytest
import torch

from robust_encoders.errors import BaseLoadError, DeviceError
from robust_encoders.utils.devices import devices, require_device


@pytest.mark.parametrize("name", ["", "cpu", "cpu:0", *devices()])
def test_a_device_that_exists_is_accepted(name: str) -> None:
    require_device(name)


@pytest.mark.parametrize("name", ["nowhere", "meta", "cuda:99", "cpu cpu", "mps:3", "-1", "tpu"])
def test_a_device_that_does_not_exist_is_named_with_those_that_do(name: str) -> None:
    with pytest.raises(DeviceError, match="expected a device of this machine, such as cpu") as caught:
        require_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BaseLoadError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(DeviceError, match="cuda"):
        require_device("cuda")
