"""Both layouts of a CLIP text encoder mean the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from tiny_models import packed
from torch import nn

from robust_encoders import IntegrityError
from robust_encoders.clip.state_dict import (
    PREFIX,
    architecture,
    module_state,
    nested,
    nested_name,
    nested_state,
    unreadable,
    unwrapped,
)


def test_naming_twice_is_naming_once() -> None:
    assert nested_name("final_layer_norm.bias") == nested_name("text_model.final_layer_norm.bias")


def test_flat_and_nested_checkpoints_give_the_same_state(tiny_pipe: Any) -> None:
    state = tiny_pipe.text_encoder.state_dict()
    flat = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    with_prefix = {PREFIX + name: tensor for name, tensor in flat.items()}
    assert nested(flat) == nested(with_prefix) == with_prefix
    assert nested_state(tiny_pipe.text_encoder).keys() == with_prefix.keys()


def test_the_position_index_of_old_checkpoints_is_dropped() -> None:
    old = {"text_model.embeddings.position_ids": torch.arange(3), "text_model.final_layer_norm.bias": torch.zeros(1)}
    assert list(nested(old)) == ["text_model.final_layer_norm.bias"]


def test_a_tensor_in_both_layouts_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"found 1 both .*: a;"):
        nested({"a": torch.zeros(1), "text_model.a": torch.zeros(1)})


class Compiled(nn.Module):
    """Holds a module as ``torch.compile`` does, without its minute of imports."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_a_compiled_module_is_unwrapped() -> None:
    module = nn.Linear(2, 2)
    assert unwrapped(Compiled(module)) is module
    assert unwrapped(module) is module
    assert list(module_state(Compiled(module))) == ["weight", "bias"]


def test_the_state_of_an_offloaded_module_is_real(tiny_pipe: Any) -> None:
    before = nested_state(tiny_pipe.text_encoder)
    before = {name: tensor.clone() for name, tensor in before.items()}
    cpu_offload(tiny_pipe.text_encoder, torch.device("cpu"))
    after = nested_state(tiny_pipe.text_encoder)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_architecture_keeps_what_decides_the_computation(tiny_pipe: Any) -> None:
    config = tiny_pipe.text_encoder.config.to_dict()
    kept = architecture({**config, "transformers_version": "9", "anything": 1})
    assert kept["hidden_size"] == 16
    assert not {"transformers_version", "anything", "architectures"} & kept.keys()
    assert architecture(kept) == kept


def test_a_configuration_without_its_shapes_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"without vocab_size, .*hidden_act"):
        architecture({"hidden_size": None})


@pytest.mark.parametrize("how", ["plain", "offloaded", "meta", "packed"])
def test_weights_that_cannot_be_read_are_told_beforehand(tiny_pipe: Any, how: str) -> None:
    module = tiny_pipe.text_encoder
    if how == "offloaded":
        cpu_offload(module, torch.device("cpu"))
    elif how == "meta":
        module.to("meta")
    elif how == "packed":
        packed(module)
    told = {"meta": "weights on the meta device", "packed": "packed weights that are no tensors"}.get(how, "")
    assert unreadable(module).startswith(told)
    assert bool(unreadable(Compiled(module))) == bool(told)
    if not told:
        assert not any(tensor.is_meta for tensor in module_state(module).values())
