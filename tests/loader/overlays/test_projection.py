"""One matrix on the encoder's output is the same as that matrix in every K and V of the UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.projection import export_key_values, fused, key_value_layers, projected, require_square


def near_identity(width: int = 16, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.eye(width, dtype=torch.float64) + 0.1 * noise).to(dtype)


def test_the_layers_are_k_and_v_of_every_cross_attention_and_no_others(tiny_pipe: Any) -> None:
    layers = key_value_layers(tiny_pipe.unet)
    expected = [f"{n}.{p}" for n, _ in tiny_pipe.unet.named_modules() if n.endswith("attn2") for p in ("to_k", "to_v")]
    assert list(layers) == expected
    assert len(layers) == 8
    assert all(tiny_pipe.unet.get_submodule(name) is layer for name, layer in layers.items())
    assert {layer.in_features for layer in layers.values()} == {16}


def test_names_of_classes_and_blocks_do_not_matter(tiny_pipe: Any) -> None:
    expected = list(key_value_layers(tiny_pipe.unet))
    for module in tiny_pipe.unet.modules():
        if type(module).__name__ in ("CrossAttnDownBlock2D", "Attention"):
            module.__class__ = type("Renamed", (type(module),), {})
    assert list(key_value_layers(tiny_pipe.unet)) == expected


def test_a_unet_without_text_is_refused(textless_unet: Any) -> None:
    with pytest.raises(ValueError, match="found none: it takes no text"):
        key_value_layers(textless_unet)


def test_adapters_quantized_layers_and_other_widths_are_refused(tiny_pipe: Any) -> None:
    attention = tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    plain = attention.to_k
    attention.to_k = nn.Sequential(plain)
    with pytest.raises(ValueError, match=r"mid_block.*to_k: found Sequential instead .* unload adapters"):
        key_value_layers(tiny_pipe.unet)
    attention.to_k = nn.Linear(16, plain.out_features, bias=False)
    attention.to_k.weight = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"to_k: found a weight of \(4, 1\), torch.uint8 .* unquantized"):
        key_value_layers(tiny_pipe.unet)
    attention.to_k = nn.Linear(8, plain.out_features, bias=False)
    with pytest.raises(ValueError, match=r"found widths \[8, 16\] instead of one"):
        key_value_layers(tiny_pipe.unet)


def test_what_diffusers_fuses_is_refused_and_taken_after_it_is_undone(tiny_pipe: Any) -> None:
    tiny_pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(ValueError, match=r"attn2: its K and V are fused; call pipe.unfuse_qkv_projections"):
        key_value_layers(tiny_pipe.unet)
    tiny_pipe.unfuse_qkv_projections(vae=False)
    assert len(key_value_layers(tiny_pipe.unet)) == 8


def test_a_fused_unet_draws_as_the_projection_does(tiny_pipe: Any) -> None:
    unet, matrix = tiny_pipe.unet.double(), near_identity()
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 24, 16, generator=generator, dtype=torch.float64)
    latents = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        plain = unet(latents, 10, encoder_hidden_states=text).sample
        expected = unet(latents, 10, encoder_hidden_states=projected(text, matrix)).sample
        unet.load_state_dict({**unet.state_dict(), **fused(unet, matrix)})
        found = unet(latents, 10, encoder_hidden_states=text).sample
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert float((found - plain).abs().max()) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fused_weights_keep_the_dtype_and_are_rounded_once(tiny_pipe: Any, dtype: torch.dtype) -> None:
    unet = tiny_pipe.unet.to(dtype)
    before = content_sha256(unet.state_dict())
    matrix = near_identity()
    found = fused(unet, matrix)
    for name, layer in key_value_layers(unet).items():
        assert torch.equal(found[f"{name}.weight"], (layer.weight.detach().double() @ matrix).to(dtype))
    assert not any(tensor.requires_grad for tensor in found.values())
    assert content_sha256(unet.state_dict()) == before


def test_the_identity_changes_nothing(tiny_pipe: Any) -> None:
    eye = torch.eye(16)
    state = tiny_pipe.unet.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fused(tiny_pipe.unet, eye).items())
    text = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(projected(text, eye), text)


def test_a_projection_keeps_the_conditionings_dtype_and_is_computed_in_float32() -> None:
    text = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)).half()
    matrix = near_identity(dtype=torch.float32)
    found = projected(text, matrix)
    assert found.dtype == torch.float16
    naive = torch.einsum("...d,ed->...e", text.float(), matrix)
    torch.testing.assert_close(found.float(), naive, rtol=1e-3, atol=1e-3)


def test_export_and_back(tiny_pipe: Any, tmp_path: Path) -> None:
    matrix = near_identity(dtype=torch.float32)
    path = export_key_values(tmp_path / "new" / "edit.safetensors", tiny_pipe.unet, matrix)
    found = load_file(path)
    assert set(found) == {f"{name}.weight" for name in key_value_layers(tiny_pipe.unet)}
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    expected = fused(tiny_pipe.unet, matrix)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
    tiny_pipe.unet.load_state_dict({**tiny_pipe.unet.state_dict(), **found})
    assert all(torch.equal(tiny_pipe.unet.get_parameter(name), tensor) for name, tensor in expected.items())
    assert [p.name for p in path.parent.iterdir()] == ["edit.safetensors"]


def test_export_replaces_nothing_unasked(tiny_pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"expected nothing at .*; choose another name, or set overwrite"):
        export_key_values(path, tiny_pipe.unet, torch.eye(16))
    assert path.read_bytes() == b"mine"
    export_key_values(path, tiny_pipe.unet, torch.eye(16), overwrite=True)
    assert len(load_file(path)) == 8


def test_another_width_and_infinite_values_are_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"expected a projection of shape \(16, 16\) .* found \(8, 8\)"):
        fused(tiny_pipe.unet, torch.eye(8))
    with pytest.raises(IntegrityError, match="found NaN or infinity"):
        require_square(torch.full((16, 16), float("nan")), 16)
    with pytest.raises(IntegrityError, match=r"in torch\.int64"):
        require_square(torch.zeros(16, 16, dtype=torch.int64), 16)
    with pytest.raises(IntegrityError):
        export_key_values(tmp_path / "edit.safetensors", tiny_pipe.unet, torch.eye(8))
    assert list(tmp_path.glob("edit*")) == []
