"""From tensors to a plain CLIPTextModel: strict, shared in storage, separate in Parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from robust_encoders import IntegrityError, RobustEncoder
from robust_encoders.clip import text_model as module
from robust_encoders.clip.state_dict import nested_name

BIAS = "text_model.final_layer_norm.bias"


def test_the_module_is_a_plain_one_in_evaluation_mode(tiny_encoder: RobustEncoder) -> None:
    from transformers import CLIPTextModel

    built: Any = tiny_encoder.text_encoder()
    assert type(built) is CLIPTextModel
    assert not built.training
    assert built.config.robust_encoders == tiny_encoder.provenance


def test_parameters_are_fresh_over_the_same_storage(tiny_encoder: RobustEncoder) -> None:
    one, two = (dict(tiny_encoder.text_encoder().named_parameters()) for _ in range(2))
    for name in one:
        assert one[name] is not two[name]
        assert one[name].data_ptr() == two[name].data_ptr() == tiny_encoder.tensors[nested_name(name)].data_ptr()


def test_casting_one_module_moves_nobody_else(tiny_encoder: RobustEncoder) -> None:
    one: Any = tiny_encoder.text_encoder()
    two = tiny_encoder.text_encoder()
    one.to(torch.float64)
    assert next(two.parameters()).dtype == tiny_encoder.dtype == torch.float32


def test_the_module_computes_what_its_tensors_say(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    reference = tiny_pipe.text_encoder
    names = dict(reference.named_parameters())
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(tiny_encoder.tensors[nested_name(name)])
        ids = torch.tensor([[1, 5, 7, tiny_pipe.tokenizer.eos_token_id]])
        built: Any = tiny_encoder.text_encoder()
        assert torch.equal(built(ids).last_hidden_state, reference(ids).last_hidden_state)


def test_the_module_saves_nested_keys(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.text_encoder().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(tiny_encoder.tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_kept(tiny_encoder: RobustEncoder, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) for name, tensor in tiny_encoder.tensors.items()}
    encoder = RobustEncoder(tiny_encoder.manifest, cast, tiny_encoder.config)
    assert {parameter.dtype for parameter in encoder.text_encoder().parameters()} == {dtype}


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors[BIAS]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["text_model.extra"] = torch.zeros(1)


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors[BIAS] = torch.zeros(3)


def to_integers(tensors: dict[str, Tensor]) -> None:
    tensors[BIAS] = torch.zeros(16, dtype=torch.int64)


def poison(tensors: dict[str, Tensor]) -> None:
    tensors[BIAS] = torch.full((16,), torch.nan)


def mix(tensors: dict[str, Tensor]) -> None:
    tensors[BIAS] = tensors[BIAS].half()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, "bias: expected shape .*, found none"),
        (add, "extra: expected no such tensor"),
        (reshape, r"bias: expected shape \(16,\), found \(3,\)"),
        (to_integers, "bias: expected a floating dtype"),
        (poison, "bias: expected finite values"),
        (mix, r"expected one dtype, found torch\.float16, torch\.float32"),
    ],
)
def test_every_misfit_is_refused(
    tiny_encoder: RobustEncoder, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    tensors = dict(tiny_encoder.tensors)
    change(tensors)
    with pytest.raises(IntegrityError, match=words):
        RobustEncoder(tiny_encoder.manifest, tensors, tiny_encoder.config)


def test_every_misfit_is_named_at_once(tiny_encoder: RobustEncoder) -> None:
    tensors = {name: tensor for name, tensor in tiny_encoder.tensors.items() if "layers.1" not in name}
    add(tensors)
    with pytest.raises(IntegrityError, match=r"\(17 problem\(s\)\)") as caught:
        module.require_fit(tensors, tiny_encoder.config)
    assert str(caught.value).count("expected shape") == 16


def test_a_loader_that_ignores_tensors_is_not_trusted(
    tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPTextModel

    info: dict[str, set[str]] = {"missing_keys": {"a"}, "unexpected_keys": set(), "mismatched_keys": set()}
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda *_, **__: (None, info))
    with pytest.raises(IntegrityError, match=r"'missing_keys': \{'a'\}"):
        tiny_encoder.text_encoder()
