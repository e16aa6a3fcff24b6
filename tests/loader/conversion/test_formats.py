"""Whatever layout an encoder is published in, the same bits come out, or the reason why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders import IntegrityError
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.clip.text_model import require_fit
from robust_encoders.conversion.formats import (
    A1111,
    A1111_OLD,
    A1111_SD2,
    AUTHORS,
    COMFYUI,
    FLAT,
    LAYOUTS,
    OPEN_CLIP,
    TRANSFORMERS,
    Layout,
    detect,
    read,
    write,
)

FULL_SIZE = {
    "CLIP ViT-L/14": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                      "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    "OpenCLIP ViT-H": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                       "num_attention_heads": 16, "hidden_act": "gelu"},
}  # fmt: skip
Tensors = dict[str, Tensor]


@pytest.fixture
def state(tiny_pipe: Any) -> Tensors:
    return nested_state(tiny_pipe.text_encoder)


def authors_pt(state: Tensors) -> Tensors:
    """What the authors' trainer saves: every tensor twice, the position index too."""
    positions = {"text_model.embeddings.position_ids": torch.arange(24)[None]}
    inner = {name.removeprefix("text_model."): tensor for name, tensor in {**positions, **state}.items()}
    aliases = {name.replace("embeddings.", "embedding.", 1): tensor for name, tensor in inner.items()}
    return {**{f"text_encoder.text_model.{name}": tensor for name, tensor in inner.items()}, **aliases}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_recognised_and_gives_the_same_bits(state: Tensors, layout: Layout) -> None:
    written = write(state, layout)
    found = read(written)
    assert found.layout == layout
    assert content_sha256(found.tensors) == content_sha256(state)
    assert content_sha256(write(found.tensors, layout)) == content_sha256(written)


def test_the_names_are_those_that_the_applications_look_for(state: Tensors) -> None:
    layer = "encoder.layers.1.mlp.fc1.weight"
    assert f"text_model.{layer}" in write(state, TRANSFORMERS)
    assert layer in write(state, FLAT)
    assert f"cond_stage_model.transformer.text_model.{layer}" in write(state, A1111)
    assert f"cond_stage_model.transformer.{layer}" in write(state, A1111_OLD)
    assert f"clip_l.transformer.text_model.{layer}" in write(state, COMFYUI)
    assert {"positional_embedding", "transformer.resblocks.1.mlp.c_fc.weight"} <= write(state, OPEN_CLIP).keys()


def test_query_key_and_value_are_one_matrix_in_open_clip_in_that_order(state: Tensors) -> None:
    attention = "text_model.encoder.layers.0.self_attn."
    fused = write(state, A1111_SD2)["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    assert fused.shape == (48, 16)
    for start, part in enumerate("qkv"):
        assert torch.equal(fused[16 * start :][:16], state[f"{attention}{part}_proj.weight"])
    bias = read({"transformer.resblocks.0.attn.in_proj_bias": torch.arange(6.0)}).tensors
    assert {name.removeprefix(attention): tensor.tolist() for name, tensor in bias.items()} == {
        "q_proj.bias": [0, 1], "k_proj.bias": [2, 3], "v_proj.bias": [4, 5],
    }  # fmt: skip


def test_the_trainers_pt_is_read_without_its_second_names(state: Tensors) -> None:
    found = read(authors_pt({name: tensor.clone() for name, tensor in state.items()}))
    assert found.layout == AUTHORS
    assert content_sha256(found.tensors) == content_sha256(state)
    assert len(found.dropped) == 2
    assert all(name.endswith("position_ids") for name in found.dropped)


@pytest.mark.parametrize("value", [1.5, float("nan"), -0.0])
def test_second_names_that_mean_other_bits_are_refused_by_name(state: Tensors, value: float) -> None:
    saved = authors_pt(state)
    saved["text_encoder.text_model.final_layer_norm.bias"] = torch.zeros(16)
    saved["final_layer_norm.bias"] = torch.zeros(16)
    assert read(saved).layout == AUTHORS
    saved["final_layer_norm.bias"][3] = value
    with pytest.raises(IntegrityError, match=r"found 1 .*: final_layer_norm\.bias \(of text_encoder\.text_model\.fin"):
        read(saved)
    saved["final_layer_norm.bias"] = torch.zeros(16, dtype=torch.float16)
    with pytest.raises(IntegrityError, match=r"found 1 that differ"):
        read(saved)


def test_two_nans_with_the_same_bits_are_the_same(state: Tensors) -> None:
    saved = authors_pt(state)
    saved["final_layer_norm.bias"] = torch.full((16,), float("nan"))
    saved["text_encoder.text_model.final_layer_norm.bias"] = torch.full((16,), float("nan"))
    assert read(saved).layout == AUTHORS


def test_a_second_name_of_nothing_is_refused(state: Tensors) -> None:
    saved = authors_pt(state)
    del saved["text_encoder.text_model.encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(IntegrityError, match=r"stand alone: encoder\.layers\.1\.mlp\.fc1\.bias"):
        read(saved)


def test_other_parts_of_a_clip_model_are_dropped_and_named(state: Tensors) -> None:
    others = ("logit_scale", "text_projection.weight", "vision_model.post_layernorm.bias", "visual_projection.weight")
    found = read({**state, **dict.fromkeys(others, torch.zeros(1))})
    assert found.dropped == tuple(sorted(others))
    assert found.tensors.keys() == state.keys()


def test_other_models_in_a_single_file_are_left_alone(state: Tensors) -> None:
    others = {
        "model.diffusion_model.out.0.bias": torch.zeros(1),
        "first_stage_model.encoder.conv_in.bias": torch.zeros(1),
    }
    found = read({**write(state, A1111), **others})
    assert (found.dropped, found.tensors.keys()) == ((), state.keys())
    mask = {"cond_stage_model.model.attn_mask": torch.zeros(1), "cond_stage_model.model.logit_scale": torch.zeros(1)}
    assert read({**write(state, A1111_SD2), **mask, **others}).tensors.keys() == state.keys()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_what_has_no_place_in_the_encoder_is_named_by_the_strict_check(
    tiny_pipe: Any, state: Tensors, layout: Layout
) -> None:
    written = write(state, layout)
    strange = layout.prefix + ("text_model." if layout.naming == "nested" else "") + "strange.weight"
    lost = next(name for name in written if "ln_final" in name or "final_layer_norm" in name)
    found = read({**{name: t for name, t in written.items() if name != lost}, strange: torch.zeros(1)})
    with pytest.raises(IntegrityError, match=r"2 problem\(s\)") as caught:
        require_fit(found.tensors, tiny_pipe.text_encoder.config.to_dict())
    assert "text_model.final_layer_norm" in str(caught.value)
    assert "strange.weight: expected no such tensor" in str(caught.value)


def test_two_encoders_in_one_file_are_refused(state: Tensors) -> None:
    with pytest.raises(IntegrityError, match=r"found 2: A1111 single file; ComfyUI; remove"):
        detect({**write(state, A1111), **write(state, COMFYUI)})
    with pytest.raises(IntegrityError, match=r"found 2: transformers; transformers, flat"):
        read({**state, **write(state, FLAT)})


@pytest.mark.parametrize(("names", "shown"), [([], "no tensors"), (["a", "b", "c", "d", "e"], r"a, b, c, d, \.\.\.;")])
def test_a_file_without_a_text_encoder_is_refused(names: list[str], shown: str) -> None:
    with pytest.raises(IntegrityError, match=rf"in one of these layouts: transformers; .*found {shown}"):
        read(dict.fromkeys(names, torch.zeros(1)))


@pytest.mark.slow
@pytest.mark.parametrize("size", FULL_SIZE)
def test_full_size_encoders_come_back_bit_for_bit_from_every_layout(size: str) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **FULL_SIZE[size])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = nested_state(CLIPTextModel(config))
    expected = content_sha256(state)
    for layout in LAYOUTS:
        found = read(write(state, layout))
        require_fit(found.tensors, config.to_dict())
        assert (found.layout, content_sha256(found.tensors)) == (layout, expected)
    assert content_sha256(read(authors_pt(state)).tensors) == expected
