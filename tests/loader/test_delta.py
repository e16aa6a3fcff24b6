"""Deltas on pipelines: trained parameters of a UNet, put in, composed, saved and taken out bit for bit."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from overlays import delta_tensors, drawn, make_adapter, make_delta, make_eraser, make_projection, manifest_for
from torch import Tensor

from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    Overlay,
    RobustEncoder,
    UnsavableError,
)
from robust_encoders.artifact.forms import parsed
from robust_encoders.cli.main import main
from robust_encoders.overlays.projection import PROJECTION_TENSOR, key_value_layers
from robust_encoders.pipeline.composition import composition_of

PROMPT = "a red circle on a white background"


def state(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_only_its_tensors_are_other_and_they_come_out_bit_for_bit(tiny_pipe: Any) -> None:
    unet, before, picture = tiny_pipe.unet, state(tiny_pipe.unet), drawn(tiny_pipe, PROMPT)
    text_encoder = tiny_pipe.text_encoder
    delta = make_delta(tiny_pipe)
    assert delta.attach(tiny_pipe) is tiny_pipe
    assert same(state(tiny_pipe.unet), {**before, **delta.tensors})
    assert not torch.equal(drawn(tiny_pipe, PROMPT), picture)
    assert tiny_pipe.text_encoder is text_encoder
    assert RobustEncoder.status(tiny_pipe).overlays == (delta.label,)
    assert delta.attach(tiny_pipe) is tiny_pipe  # there already
    delta.detach(tiny_pipe)
    assert tiny_pipe.unet is unet
    assert same(state(unet), before)
    assert torch.equal(drawn(tiny_pipe, PROMPT), picture)


def test_it_equals_the_authors_way_of_loading(tiny_pipe: Any) -> None:
    """The authors of ESD put the trained tensors over those of the UNet's state dict."""
    by_hand = copy.deepcopy(tiny_pipe)
    delta = make_delta(tiny_pipe)
    by_hand.unet.load_state_dict({**by_hand.unet.state_dict(), **delta.tensors})
    with delta.attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), drawn(by_hand, PROMPT))


def test_a_pipeline_that_shares_the_unet_stays_as_it_was(tiny_pipe: Any) -> None:
    sibling = type(tiny_pipe)(**tiny_pipe.components, requires_safety_checker=False)
    before, picture = state(sibling.unet), drawn(sibling, PROMPT)
    make_delta(tiny_pipe).attach(tiny_pipe)
    with torch.no_grad():
        for name, parameter in tiny_pipe.unet.named_parameters():
            if "attn2" in name:
                parameter.mul_(3)
    assert same(state(sibling.unet), before)
    assert torch.equal(drawn(sibling, PROMPT), picture)


def test_what_it_does_not_name_shares_the_memory_of_the_original(tiny_pipe: Any) -> None:
    places = {name: value.data_ptr() for name, value in tiny_pipe.unet.named_parameters()}
    make_delta(tiny_pipe).attach(tiny_pipe)
    other = {name for name, value in tiny_pipe.unet.named_parameters() if value.data_ptr() != places[name]}
    assert other == delta_tensors(tiny_pipe).keys()


def test_a_second_one_is_refused_unless_it_replaces_the_first(tiny_pipe: Any) -> None:
    first, second = make_delta(tiny_pipe), make_delta(tiny_pipe, "a star", seed=1, part="conv_in")
    first.attach(tiny_pipe)
    before = drawn(tiny_pipe, PROMPT)
    with pytest.raises(AlreadyAttachedError, match=r"expected no delta of the unet, found .*; detach it first, or"):
        second.attach(tiny_pipe)
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)
    second.attach(tiny_pipe, replace=True)
    assert RobustEncoder.status(tiny_pipe).overlays == (second.label,)
    second.detach(tiny_pipe)
    with second.attached(tiny_pipe):
        alone = drawn(tiny_pipe, PROMPT)
    second.attach(tiny_pipe)
    assert torch.equal(drawn(tiny_pipe, PROMPT), alone)


def test_a_pipeline_with_it_is_saved_as_plain_weights(tiny_pipe: Any, tmp_path: Path) -> None:
    delta, adapter = make_delta(tiny_pipe), make_adapter(tiny_pipe)
    expected = {**state(tiny_pipe.unet), **delta.tensors}
    picture = drawn(delta.attach(tiny_pipe), PROMPT)
    delta.fuse(tiny_pipe)  # it lies in the weights already
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    loaded = type(tiny_pipe).from_pretrained(tmp_path / "pipe", safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert same(state(loaded.unet), expected)
    assert torch.equal(drawn(loaded, PROMPT), picture)
    adapter.attach(tiny_pipe)
    with pytest.raises(UnsavableError, match="detach it first"):
        tiny_pipe.save_pretrained(tmp_path / "no")


def test_it_has_no_strength(tiny_pipe: Any) -> None:
    delta = make_delta(tiny_pipe)
    with pytest.raises(ManifestError, match="an adapter, which can be scaled, found form 'delta'"):
        delta.attach(tiny_pipe, scale=0.5)
    delta.attach(tiny_pipe)
    with pytest.raises(ManifestError, match="detach the overlay to switch it off"):
        delta.set_scale(tiny_pipe, 0.5)


@pytest.mark.filterwarnings("error::robust_encoders.CompatibilityWarning")
@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::2])
def test_any_order_of_attaching_gives_the_same(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, order: tuple[int, ...]
) -> None:
    """With an adapter on the UNet, an eraser and a robust encoder, and no warning of a changed UNet."""
    plain, parts = drawn(tiny_pipe, PROMPT), (tiny_pipe.text_encoder, tiny_pipe.unet)
    made: list[Any] = [make_delta(tiny_pipe), make_adapter(tiny_pipe), make_eraser(tiny_pipe), tiny_encoder]
    pictures = []
    for turn in (range(4), order):
        for i in turn:
            made[i].attach(tiny_pipe)
        pictures.append(drawn(tiny_pipe, PROMPT))
        assert RobustEncoder.status(tiny_pipe).attached
        assert RobustEncoder.status(tiny_pipe).overlays == tuple(one.label for one in made[:3])
        for i in turn:
            made[i].detach(tiny_pipe)
        assert (tiny_pipe.text_encoder, tiny_pipe.unet) == parts
        assert torch.equal(drawn(tiny_pipe, PROMPT), plain)
    assert torch.equal(*pictures)
    assert not torch.equal(pictures[0], plain)


def test_in_the_weights_it_comes_first_then_adapters_then_projections(tiny_pipe: Any) -> None:
    delta, adapter, matrix = make_delta(tiny_pipe), make_adapter(tiny_pipe), make_projection(tiny_pipe)
    original = state(tiny_pipe.unet)
    matrix.attach(tiny_pipe)
    adapter.attach(tiny_pipe, transport="paper")
    with pytest.warns(CompatibilityWarning, match="loses"):
        adapter.fuse(tiny_pipe)
    matrix.fuse(tiny_pipe)
    delta.attach(tiny_pipe)  # the last one, and yet the first in the weights
    found = state(tiny_pipe.unet)
    assert original.keys() == found.keys()
    for name in key_value_layers(tiny_pipe.unet):
        stem = f"lora_unet_{name.replace('.', '_')}"
        up, down = (adapter.tensors[f"{stem}.lora_{part}.weight"] for part in ("up", "down"))
        weight = (delta.tensors[f"{name}.weight"] + up @ down) @ matrix.tensors[PROJECTION_TENSOR]
        assert torch.allclose(found[f"{name}.weight"], weight, atol=1e-5)


def test_a_live_projection_is_read_by_its_matrices(tiny_pipe: Any) -> None:
    delta, matrix = make_delta(tiny_pipe), make_projection(tiny_pipe)
    matrix.attach(tiny_pipe)
    live = drawn(delta.attach(tiny_pipe), PROMPT)
    matrix.fuse(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, PROMPT), live, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_takes_the_precision_of_the_unet(tiny_pipe: Any, dtype: torch.dtype) -> None:
    delta = make_delta(tiny_pipe)
    tiny_pipe.to(dtype)
    delta.attach(tiny_pipe)
    assert {value.dtype for value in tiny_pipe.unet.parameters()} == {dtype}
    name = next(iter(delta.tensors))
    assert torch.equal(tiny_pipe.unet.get_parameter(name), delta.tensors[name].to(dtype))
    tiny_pipe.to(torch.float32)
    delta.detach(tiny_pipe)
    assert tiny_pipe.unet.dtype == torch.float32


def test_values_that_half_precision_cannot_hold_are_refused(tiny_pipe: Any) -> None:
    overlay = make_delta(tiny_pipe)
    large = Overlay(overlay.manifest, {name: value * 1e6 for name, value in overlay.tensors.items()}, {})
    tiny_pipe.to(torch.float16)
    unet = tiny_pipe.unet
    with pytest.raises(IntegrityError, match=r"within the range of torch.float16"):
        large.attach(tiny_pipe)
    assert tiny_pipe.unet is unet
    assert composition_of(tiny_pipe).overlays == ()


def test_model_offload_is_carried_over(make_pipe: Callable[..., Any]) -> None:
    plain = make_pipe()
    delta = make_delta(plain)
    expected = drawn(delta.attach(plain), PROMPT)
    pipe = make_pipe()
    original = pipe.unet
    pipe.enable_model_cpu_offload(device="cpu")
    delta.attach(pipe)
    assert torch.equal(drawn(pipe, PROMPT), expected)
    delta.detach(pipe)
    assert pipe.unet is original
    assert hasattr(original, "_hf_hook")


def test_pipelines_made_from_one_with_it_have_it(tiny_pipe: Any) -> None:
    delta = make_delta(tiny_pipe)
    expected = drawn(delta.attach(tiny_pipe), PROMPT)
    sibling = type(tiny_pipe).from_pipe(tiny_pipe, requires_safety_checker=False)
    sibling.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(sibling, PROMPT), expected)
    delta.detach(tiny_pipe)
    assert torch.equal(drawn(sibling, PROMPT), expected)


def test_it_lies_beneath_a_lora_that_was_loaded_before(tiny_pipe: Any) -> None:
    from peft import LoraConfig

    delta = make_delta(tiny_pipe)
    expected = drawn(delta.attach(tiny_pipe), PROMPT)
    delta.detach(tiny_pipe)
    tiny_pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))  # changes nothing at first
    with pytest.warns(CompatibilityWarning, match="UNet fingerprint"):
        delta.attach(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, PROMPT), expected, atol=1e-5)


def test_another_unet_is_refused_with_a_count(tiny_pipe: Any, make_pipe: Callable[..., Any]) -> None:
    tensors = {**delta_tensors(tiny_pipe), "down_blocks.9.conv.weight": torch.ones(2), "conv_in.bias": torch.ones(3)}
    overlay = Overlay(manifest_for(tiny_pipe, "red circle", "delta", "unet", "esd"), tensors, {})
    (check,) = overlay.check(tiny_pipe).errors
    assert check.name == "tensors of the unet"
    assert check.found == (
        "2 problem(s): conv_in.bias of shape (8,) for (3,); no parameter down_blocks.9.conv.weight"
    )  # fmt: skip
    other = make_pipe(width=32, seed=4)
    names = {one.name for one in make_delta(tiny_pipe).check(other).errors}
    assert names == {"text encoder", "tensors of the unet"}
    assert "more" in make_delta(tiny_pipe).check(other)["tensors of the unet"].found
    assert "outputs it was trained on" in make_delta(tiny_pipe).check(other)["text encoder"].remedy
    with pytest.raises(IncompatibleError, match="tensors of the unet"):
        make_delta(tiny_pipe).attach(other)


def test_a_fine_tuned_unet_gets_a_warning(tiny_pipe: Any) -> None:
    overlay = make_delta(tiny_pipe)
    with torch.no_grad():
        tiny_pipe.unet.conv_in.weight.mul_(1.5)
    with pytest.warns(CompatibilityWarning, match="UNet fingerprint"):
        overlay.attach(tiny_pipe)


def test_a_quantised_parameter_is_refused(tiny_pipe: Any) -> None:
    overlay = make_delta(tiny_pipe)
    layer = tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    assert "quantised (torch.int8)" in overlay.check(tiny_pipe)["tensors of the unet"].found


BAD: dict[str, tuple[dict[str, Tensor], str]] = {
    "none": ({}, "no tensors"),
    "whole numbers": ({"conv_in.bias": torch.ones(8, dtype=torch.int64)}, r"conv_in.bias of torch.int64"),
    "not a number": ({"conv_in.bias": torch.full((8,), float("nan"))}, "conv_in.bias with NaN"),
    "many": ({f"p{i}": torch.full((1,), float("inf")) for i in range(5)}, r"5 problem\(s\): .*; and 2 more"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_tensors_are_refused_in_memory_and_in_a_file(tiny_pipe: Any, name: str) -> None:
    tensors, text = BAD[name]
    manifest = manifest_for(tiny_pipe, "red circle", "delta", "unet", "esd")
    with pytest.raises(IntegrityError, match=text):
        Overlay(manifest, tensors, {})
    with pytest.raises(IntegrityError, match=text):
        parsed("delta", safetensors.torch.save(tensors))
    with pytest.raises(IntegrityError, match="expected safetensors"):
        parsed("delta", b"a pickle?")


def test_it_belongs_to_the_unet(tiny_pipe: Any) -> None:
    manifest = manifest_for(tiny_pipe, "red circle", "delta", "text_encoder", "esd")
    with pytest.raises(ManifestError, match="found form 'delta' of 'text_encoder'"):
        Overlay(manifest, delta_tensors(tiny_pipe), {})


def test_it_survives_its_folder(tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay, folder = make_delta(tiny_pipe), tmp_path / "one"
    manifest = overlay.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"robust_encoder.json", "README.md", "delta.safetensors"}
    with safetensors.safe_open(folder / "delta.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(overlay.tensors)
    assert "Trained weights of the UNet" in (folder / "README.md").read_text()
    assert "changes the UNet alone" in (folder / "README.md").read_text()
    read = RobustEncoder.from_pretrained(folder)
    assert isinstance(read, Overlay)
    assert (read.identity, read.config, read.manifest) == (overlay.identity, {}, manifest)
    with overlay.attached(tiny_pipe):
        expected = drawn(tiny_pipe, PROMPT)
    with read.attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), expected)
    assert main(["verify", str(folder)]) == 0
    assert main(["info", str(folder)]) == 0
    assert "delta of unet" in capsys.readouterr().out
    data = bytearray((folder / "delta.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "delta.safetensors").write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="fetch the artifact again"):
        RobustEncoder.from_pretrained(folder)
    assert main(["verify", str(folder)]) == 1


def test_it_can_be_loaded_in_half_precision(tiny_pipe: Any, tmp_path: Path) -> None:
    make_delta(tiny_pipe).save_pretrained(tmp_path / "one")
    half = RobustEncoder.from_pretrained(tmp_path / "one", dtype=torch.float16)
    assert half.dtype == torch.float16
    with half.attached(tiny_pipe):
        assert torch.isfinite(drawn(tiny_pipe, PROMPT)).all()
        assert tiny_pipe.unet.dtype == torch.float32
