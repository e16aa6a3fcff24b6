"""Errors of the loader and its commands, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from overlays import drawn, make_adapter, make_delta
from tiny_models import packed

from robust_encoders import AlreadyAttachedError, IncompatibleError, IntegrityError, RobustEncoder, StaleAttachmentError
from robust_encoders.clip.state_dict import nested_state

MakeEncoder = Callable[..., RobustEncoder]
FACTS = ("--concept", "circle", "--method", "esd", "--license", "mit")


def call(pipe: Any, told: str) -> None:
    """Do what a message says: call the method of the pipeline that it names, with its arguments."""
    found = re.search(r"call pipe\.(\w+)\((\[.*?\])?\)", told)
    assert found is not None, told
    getattr(pipe, found[1])(*([json.loads(found[2].replace("'", '"'))] if found[2] else []))


@pytest.mark.parametrize("way", ["detach", "replace"])
def test_an_encoder_in_the_place_of_another(way: str, tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    first, second = make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2)
    first.attach(tiny_pipe)
    with pytest.raises(AlreadyAttachedError, match="detach it first, or pass replace=True"):
        second.attach(tiny_pipe)
    if way == "detach":
        first.detach(tiny_pipe)
    second.attach(tiny_pipe, replace=way == "replace")
    assert RobustEncoder.status(tiny_pipe).intact


@pytest.mark.parametrize("way", ["detach", "replace"])
def test_a_delta_in_the_place_of_another(way: str, tiny_pipe: Any) -> None:
    first, second = make_delta(tiny_pipe), make_delta(tiny_pipe, "blue", seed=2)
    first.attach(tiny_pipe)
    with pytest.raises(AlreadyAttachedError, match="detach it first, or pass replace=True"):
        second.attach(tiny_pipe)
    if way == "detach":
        first.detach(tiny_pipe)
    second.attach(tiny_pipe, replace=way == "replace")
    name, tensor = next(iter(second.tensors.items()))
    assert torch.equal(tiny_pipe.unet.get_parameter(name), tensor)


def test_fusing_adapters_of_the_official_transport(tiny_pipe: Any) -> None:
    adapter = make_adapter(tiny_pipe)
    adapter.attach(tiny_pipe, transport="official")
    with pytest.raises(AlreadyAttachedError, match="attach it again with transport='paper'"):
        adapter.fuse(tiny_pipe)
    adapter.detach(tiny_pipe)
    adapter.attach(tiny_pipe, transport="paper")
    adapter.fuse(tiny_pipe)
    assert bool(torch.isfinite(drawn(tiny_pipe, "a red circle")).all())


def test_fused_projections_and_overlays(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe)
    tiny_pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(IncompatibleError, match=r"call pipe\.unfuse_qkv_projections\(\)") as refusal:
        overlay.attach(tiny_pipe)
    call(tiny_pipe, str(refusal.value))
    overlay.attach(tiny_pipe)
    tiny_pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(StaleAttachmentError, match=r"call pipe\.unfuse_qkv_projections\(\)"):
        overlay.detach(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match="found them fused, so that an overlay") as stale:
        drawn(tiny_pipe, "a red circle")
    call(tiny_pipe, str(stale.value))
    overlay.detach(tiny_pipe)


def test_a_quantised_text_encoder(make_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe()
    pipe.text_encoder.hf_quantizer = object()
    with pytest.raises(IncompatibleError, match=r"text_encoder=encoder\.text_encoder\(\) instead"):
        tiny_encoder.attach(pipe)
    loaded = with_encoder(pipe, tiny_encoder.text_encoder())
    assert bool(torch.isfinite(drawn(loaded, "a red circle")).all())


def with_encoder(pipe: Any, encoder: Any) -> Any:
    """Return a pipeline that was loaded with another object in the slot of the text encoder."""
    loaded = type(pipe)(**{**pipe.components, "text_encoder": encoder}, requires_safety_checker=False)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("way", ["loaded", "attached"])
@pytest.mark.parametrize("kind", ["meta", "packed"])
def test_a_text_encoder_whose_weights_cannot_be_read(
    kind: str, way: str, make_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    pipe = make_pipe()
    if kind == "meta":
        pipe.text_encoder.to("meta")
    else:
        pipe.text_encoder = packed(pipe.text_encoder)
    with pytest.raises(
        IncompatibleError, match=r"with text_encoder=encoder\.text_encoder\(\), or with text_encoder=None"
    ):
        tiny_encoder.attach(pipe)
    loaded = with_encoder(pipe, tiny_encoder.text_encoder() if way == "loaded" else None)
    if way == "attached":
        tiny_encoder.attach(loaded)
    assert bool(torch.isfinite(drawn(loaded, "a red circle")).all())


@pytest.mark.parametrize("way", ["unload", "merge_and_unload"])
def test_a_wrapper_of_peft(way: str, tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    plain, settings = tiny_pipe.text_encoder, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    before = nested_state(plain)["text_model.final_layer_norm.weight"]
    tiny_pipe.text_encoder = peft.get_peft_model(plain, settings)
    report = tiny_encoder.check(tiny_pipe)
    for name in ("class", "adapters"):
        assert f"pipe.text_encoder.{way}()" in report[name].remedy
        assert "peft's wrapper is around the text encoder" in report[name].remedy
    tiny_pipe.text_encoder = getattr(tiny_pipe.text_encoder, way)()
    tiny_encoder.attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).intact
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is plain
    assert torch.equal(nested_state(plain)["text_model.final_layer_norm.weight"], before)


def test_tokens_without_vectors(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.tokenizer.add_tokens(["<thing>"])
    with pytest.raises(IncompatibleError, match=r"and not to the text encoder: call pipe\.unload") as refusal:
        tiny_encoder.attach(tiny_pipe)
    call(tiny_pipe, str(refusal.value))
    tiny_encoder.attach(tiny_pipe)


@pytest.mark.parametrize("later", [False, True])
def test_learned_tokens(later: bool, tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    if later:
        tiny_encoder.attach(tiny_pipe)
    tiny_pipe.load_textual_inversion({"<thing>": torch.full((16,), 0.05)})
    if later:
        with pytest.raises(StaleAttachmentError, match=r"call pipe\.unload_textual_inversion") as refusal:
            tiny_encoder.detach(tiny_pipe)
        told = str(refusal.value)
    else:
        told = tiny_encoder.check(tiny_pipe)["learned tokens"].remedy
    call(tiny_pipe, told)
    assert all(check.ok for check in tiny_encoder.check(tiny_pipe).checks if check.name == "learned tokens")
    if later:
        tiny_encoder.detach(tiny_pipe)


class Weighting:
    """A tool that took hold of the text encoder."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder


def test_a_search_for_references(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tool = Weighting(tiny_pipe.text_encoder)
    tiny_encoder.attach(tiny_pipe)
    assert any("status with references=True searches" in way for way in RobustEncoder.status(tiny_pipe).bypasses)
    assert any("Weighting" in way for way in RobustEncoder.status(tiny_pipe, references=True).bypasses)
    assert tool.encoder is not tiny_pipe.text_encoder


def test_a_configuration_without_fields(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    manifest, tensors = tiny_encoder.manifest, nested_state(tiny_pipe.text_encoder)
    with pytest.raises(IntegrityError, match=r"pass the encoder's own config\.to_dict\(\)"):
        RobustEncoder(manifest, tensors, {"hidden_size": 16})
    RobustEncoder(manifest, tensors, tiny_pipe.text_encoder.config.to_dict())
