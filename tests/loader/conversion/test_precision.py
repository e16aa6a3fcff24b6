"""Several dtypes, float8 and quantised weights are refused by name, or cast to the dtype that the user chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust_encoders import IntegrityError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.writer import save
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.conversion.convert import convert

Tensors = dict[str, Tensor]
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture
def state(tiny_pipe: Any) -> Tensors:
    return nested_state(tiny_pipe.text_encoder)


def mixed(state: Tensors) -> Tensors:
    return {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_dtype_is_kept(state: Tensors, config_folder: Path, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) for name, tensor in state.items()}
    save_file(cast, config_folder / "a.safetensors")
    manifest = convert(config_folder, config_folder / "out")
    assert RobustEncoder.from_pretrained(config_folder / "out").content_sha256 == content_sha256(cast)
    assert "cast" not in manifest.recipe


def test_several_dtypes_are_named_and_cast_on_request(
    state: Tensors, config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(mixed(state), config_folder / "a.safetensors")
    with pytest.raises(IntegrityError, match=r"float16 \(\d+ tensors\), float32 \(\d+ tensors\); .*--dtype float16"):
        convert(config_folder, config_folder / "out")
    assert main(["convert", str(config_folder), str(config_folder / "out"), "--dtype", "float32"]) == 0
    loaded = RobustEncoder.from_pretrained(config_folder / "out")
    assert isinstance(loaded, RobustEncoder)
    assert loaded.manifest.recipe["cast"] == "float16, float32 to float32"
    assert content_sha256(loaded.tensors) == content_sha256({n: t.float() for n, t in mixed(state).items()})
    loaded.text_encoder()(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_float8_is_named_and_cast_on_request(
    state: Tensors, config_folder: Path, dtype: torch.dtype, name: str
) -> None:
    small = {name: tensor.to(dtype) for name, tensor in state.items()}
    saver: Any = save_file if name.endswith("ors") else torch.save
    saver(small, config_folder / name)
    with pytest.raises(IntegrityError, match=str(dtype).removeprefix("torch.")):
        convert(config_folder, config_folder / "out")
    convert(config_folder, config_folder / "out", dtype=torch.float16)
    loaded = RobustEncoder.from_pretrained(config_folder / "out")
    assert content_sha256(loaded.tensors) == content_sha256({n: t.half() for n, t in small.items()})


def test_an_artifact_in_float8_is_refused(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tiny_encoder.tensors.items()}
    save(tmp_path / "a", tiny_encoder.manifest, small, {**tiny_encoder.config, "robust_encoders": {}})
    with pytest.raises(IntegrityError, match=r"at least 16 bits, found torch\.float8_e4m3fn"):
        RobustEncoder.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("extra", ["scaled_fp8", "text_model.encoder.layers.0.mlp.fc1.scale_weight", "a.weight.absmax"])
def test_scales_beside_the_weights_are_refused_with_and_without_a_cast(
    state: Tensors, config_folder: Path, extra: str
) -> None:
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    save_file({**small, extra: torch.ones(1)}, config_folder / "a.safetensors")
    for dtype in (None, torch.float16):
        with pytest.raises(IntegrityError, match="quantised weights; pass the weights in half or full precision"):
            convert(config_folder, config_folder / "out", dtype=dtype)


def test_integers_are_no_weights(state: Tensors, config_folder: Path) -> None:
    save_file({name: tensor.to(torch.int8) for name, tensor in state.items()}, config_folder / "a.safetensors")
    for dtype in (None, torch.float16):
        with pytest.raises(IntegrityError, match=r"found torch\.int8"):
            convert(config_folder, config_folder / "out", dtype=dtype)


def test_values_beyond_the_range_of_the_dtype_are_named(state: Tensors, config_folder: Path) -> None:
    name = "text_model.final_layer_norm.bias"
    save_file({**state, name: state[name] + 1e6}, config_folder / "a.safetensors")
    with pytest.raises(IntegrityError, match=rf"{name} in .* within the range of float16, found values up to 1e\+06"):
        convert(config_folder, config_folder / "out", dtype=torch.float16)
    convert(config_folder, config_folder / "out", dtype=torch.bfloat16)


def test_only_text_encoders_are_cast(tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = tiny_pipe.unet.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    save_file({"mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": weight}, tmp_path / "a.safetensors")
    argv = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "out"), "--dtype", "float16"]
    assert main(argv) == 2
    assert "only text encoders are cast; leave it out" in capsys.readouterr().err
