"""Selection of the UNet's parameters that a method trains, and the copy of a UNet in which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from robust_encoders.pipeline.shared_copy import shared_copy

from ..diffusion.backbone import Backbone
from ..types import Edit

UNetGroup = Literal["x", "x-strict", "u", "all", "attention", "full"]


class _Layer(NamedTuple):
    """A module of the UNet that holds parameters itself.

    Args:
        name: Path of the module.
        linear: True for a linear layer or a convolution, false for a norm.
    """

    name: str
    linear: bool

    @property
    def parts(self) -> list[str]:
        return self.name.split(".")

    @property
    def crossed(self) -> bool:
        """True if the module lies in a cross-attention."""
        return "attn2" in self.parts


_ATTENTION = ("to_q", "to_k", "to_v", "to_out")
_TAKEN: Mapping[str, Callable[[_Layer], bool]] = {
    "x": lambda layer: layer.linear and layer.crossed,
    "x-strict": lambda layer: layer.crossed and layer.parts[-1] in ("to_k", "to_v"),
    "u": lambda layer: layer.linear and not layer.crossed,
    "all": lambda layer: layer.linear,
    "attention": lambda layer: (
        layer.linear and bool({"attn1", "attn2"} & {*layer.parts} and {*_ATTENTION} & {*layer.parts})
    ),
    "full": lambda layer: True,
}


@dataclass(frozen=True, kw_only=True)
class UNetSelectionConfig:
    """Selection of a UNet's parameters by group, under the names of ESD's and Ablating Concepts' releases.

    Args:
        group: Group of parameters to train. ``x`` is every linear layer of cross-attention (ESD-x), ``x-strict`` its
            keys and values alone, ``u`` every linear layer and convolution outside of cross-attention (ESD-u), ``all``
            both. ``attention`` is queries, keys, values and outputs of self- and cross-attention. ``full`` is every
            parameter, norms included.

    Raises:
        ValueError: If there is no such group.
    """

    group: UNetGroup = "x"

    def __post_init__(self) -> None:
        if self.group not in get_args(UNetGroup):
            raise ValueError(f"expected a group in {get_args(UNetGroup)}, found {self.group!r}; choose one of them")

    def select(self, unet: nn.Module) -> dict[str, nn.Parameter]:
        """Return the selected parameters by name, in the model's order.

        Raises:
            ValueError: If the UNet has no such parameter.
        """
        takes = _TAKEN[self.group]
        chosen = {
            f"{name}.{own}": parameter
            for name, module in unet.named_modules()
            if takes(_Layer(name, isinstance(module, (nn.Linear, nn.Conv2d))))
            for own, parameter in module.named_parameters(recurse=False)
        }
        if not chosen:
            raise ValueError(
                f"expected parameters of the group {self.group!r}, found none in {type(unet).__name__}; choose another "
                "group"
            )
        return chosen


def trainable_unet(teacher: Backbone, select: UNetSelectionConfig) -> tuple[Backbone, dict[str, nn.Parameter]]:
    """Return a backbone with its own copy of the UNet, and the copy's trainable parameters by name, in float32.

    All other parameters share the teacher's memory and stay frozen.

    Args:
        teacher: Frozen base.
        select: Parameters to train.

    Raises:
        ValueError: If the base is in half precision and the training computes in float32.
    """
    if teacher.dtype != torch.float32 and teacher.precision == "fp32":
        raise ValueError(
            f"expected a base in float32 for a training in fp32, found {teacher.dtype}: load the base in float32, or "
            "train with precision bf16"
        )
    unet = shared_copy(teacher.unet, "the training").eval().requires_grad_(False)
    parameters = {}
    for name, parameter in select.select(unet).items():
        parameters[name] = nn.Parameter(parameter.detach().float().clone())
        path, _, own = name.rpartition(".")
        setattr(unet.get_submodule(path), own, parameters[name])
    return teacher.sharing(unet=unet), parameters


def as_delta(parameters: Mapping[str, Tensor], base: Backbone, log: Mapping[str, Any]) -> Edit:
    """Return trained parameters of a UNet as an edit: their values, not differences, in the base's dtypes.

    The names are diffusers', as in ESD's published files.

    Args:
        parameters: Trained parameters by name.
        base: Base that they were trained on.
        log: Record of the run.
    """
    dtypes = {name: parameter.dtype for name, parameter in base.unet.named_parameters()}
    tensors = {name: one.detach().to("cpu", dtypes[name]).contiguous() for name, one in parameters.items()}
    return Edit("delta", "unet", tensors, {}, log)
