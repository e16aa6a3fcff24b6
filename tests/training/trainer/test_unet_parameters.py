"""Groups of the UNet's parameters, the copy in which they are trained, and the edit that comes out."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.trainer.unet_parameters import UNetGroup, UNetSelectionConfig, as_delta, trainable_unet


def names(pipe: Any, group: Any) -> set[str]:
    return set(UNetSelectionConfig(group=group).select(pipe.unet))


def layers(unet: nn.Module) -> set[str]:
    """Return the parameters of linear layers and convolutions, found without the selection's code."""
    kinds = (nn.Linear, nn.Conv2d)
    found = set()
    for name, _ in unet.named_parameters():
        if isinstance(unet.get_submodule(name.rpartition(".")[0]), kinds):
            found.add(name)
    return found


def test_the_groups_are_those_of_the_releases(tiny_pipe: Any) -> None:
    every, linear = {name for name, _ in tiny_pipe.unet.named_parameters()}, layers(tiny_pipe.unet)
    assert names(tiny_pipe, "full") == every
    assert names(tiny_pipe, "x") == {name for name in linear if ".attn2." in name}
    assert names(tiny_pipe, "x-strict") == {name for name in linear if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert names(tiny_pipe, "u") == linear - names(tiny_pipe, "x")
    assert names(tiny_pipe, "all") == linear
    attention = {name for name in linear if ".attn1.to_" in name or ".attn2.to_" in name}
    assert names(tiny_pipe, "attention") == attention
    # As in ESD's newer script: the time embedding and the last convolution are in u, norms are in no group but full.
    assert {"time_embedding.linear_1.weight", "conv_out.weight"} <= names(tiny_pipe, "u")
    assert not [
        name for group in get_args(UNetGroup) if group != "full" for name in names(tiny_pipe, group) if "norm" in name
    ]


def test_an_unknown_group_and_a_model_without_one_are_refused() -> None:
    odd: Any = "xattn"
    with pytest.raises(ValueError, match=r"expected a group in .*found 'xattn'"):
        UNetSelectionConfig(group=odd)
    with pytest.raises(ValueError, match="expected parameters of the group 'x', found none in Linear"):
        UNetSelectionConfig(group="x").select(nn.Linear(2, 2))


def test_the_copy_trains_its_group_and_shares_the_rest(tiny_pipe: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    before = {name: one.detach().clone() for name, one in teacher.unet.named_parameters()}
    student, parameters = trainable_unet(teacher, UNetSelectionConfig(group="x-strict"))
    trained = {name for name, one in student.unet.named_parameters() if one.requires_grad}
    assert trained == parameters.keys()
    for name, one in student.unet.named_parameters():
        shared = one.data_ptr() == teacher.unet.get_parameter(name).data_ptr()
        assert shared == (name not in parameters)
        assert torch.equal(one, before[name])
    with torch.no_grad():
        for one in parameters.values():
            one.add_(1)
    assert all(torch.equal(one, before[name]) for name, one in teacher.unet.named_parameters())
    assert student.text_encoder is teacher.text_encoder


def test_the_edit_holds_values_in_the_bases_precision(tiny_pipe: Any) -> None:
    tiny_pipe.unet.half()
    teacher = Backbone.from_pipeline(tiny_pipe, precision="bf16")
    student, parameters = trainable_unet(teacher, UNetSelectionConfig(group="x"))
    assert all(one.dtype == torch.float32 for one in parameters.values())
    edit = as_delta(parameters, teacher, {"seconds": 1})
    assert (edit.form, edit.component, dict(edit.log)) == ("delta", "unet", {"seconds": 1})
    assert edit.tensors.keys() == parameters.keys()
    assert all(torch.equal(one, teacher.unet.get_parameter(name)) for name, one in edit.tensors.items())
    assert student.unet is not teacher.unet


def test_half_precision_without_autocast_is_refused(tiny_pipe: Any) -> None:
    tiny_pipe.unet.half()
    with pytest.raises(ValueError, match=r"expected a base in float32 .* found torch\.float16"):
        trainable_unet(Backbone.from_pipeline(tiny_pipe), UNetSelectionConfig())
