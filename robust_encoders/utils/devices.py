"""The devices of this machine: a device that is not there is refused before anything is loaded."""

from __future__ import annotations

import textwrap

import torch

from robust_encoders.errors import DeviceError


def require_device(name: str) -> None:
    """Refuse a device that this machine or this build of torch does not have.

    Args:
        name: Name of the device, for example ``cuda:1``; an empty name stands for a default and is accepted.

    Raises:
        DeviceError: If no tensor can be made there; the message lists the devices that exist.
    """
    if problem := device_problem(name):
        raise DeviceError(problem)


def device_problem(name: str) -> str:
    """Return why torch cannot use a device of this name, with what to do; empty if it can, or without a name.

    Args:
        name: Name of the device, for example ``cuda:1``.
    """
    try:
        if name and torch.device(name).type == "meta":
            raise ValueError("its tensors hold no values")
        if name:
            torch.zeros(1, device=name)
    except Exception as error:  # noqa: BLE001 - backends raise errors of any type
        why = textwrap.shorten(str(error).strip().partition("\n")[0], 100, placeholder=" ...")
        return (
            f"expected a device of this machine, such as {' or '.join(devices())}, found {name!r}: {why}; choose "
            "another device, or install a torch that is built for it"
        )
    return ""


def devices() -> tuple[str, ...]:
    """Return the names of this machine's devices that torch can use."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found += ["mps"] if torch.backends.mps.is_available() else []
    xpu = getattr(torch, "xpu", None)
    return (*found, *(f"xpu:{i}" for i in range(xpu.device_count() if xpu is not None else 0)))
