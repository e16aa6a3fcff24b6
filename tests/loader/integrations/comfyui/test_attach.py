"""Attaching to ComfyUI's CLIP and MODEL: what the copies compute, and that the connected models stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from comfyui_models import Patcher, clip_of, clip_of_sdxl, model_of, unet_keys
from overlays import make_adapter, make_delta, make_eraser, make_projection
from several_encoders import encoder_for, sdxl
from torch import Tensor

from robust_encoders import IncompatibleError, IntegrityError, RobustEncoder
from robust_encoders.integrations.comfyui.attach import attach
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX

IDS = torch.tensor([[1, 5, 9, 17, 2, 2, 2, 2], [1, 30, 31, 32, 33, 2, 2, 2]])


def weights(model: Patcher, pipe: Any) -> dict[str, Tensor]:
    """Return the weights with which a MODEL would draw, under the names of diffusers."""
    model.load()
    state = model.model.state_dict()
    return {name: state[key].clone() for name, key in unet_keys(pipe).items()}


def encoded(encoder: RobustEncoder, ids: Tensor = IDS) -> Tensor:
    """Return what transformers computes with an encoder."""
    with torch.no_grad():
        found: Tensor = encoder.text_encoder()(ids).last_hidden_state
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_copy_computes_what_the_encoder_computes(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe)
    before = clip.encode(IDS)
    attached = attach(tiny_encoder, clip)
    torch.testing.assert_close(attached.clip.encode(IDS), encoded(tiny_encoder), atol=1e-5, rtol=1e-5)
    assert torch.equal(clip.encode(IDS), before), "the connected CLIP stays as it is, bit for bit"
    assert clip.patcher.patches == {}
    assert attached.model is None


def test_a_clip_that_was_used_with_an_encoder_is_read_without_it(
    tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    clip, first, second = clip_of(tiny_pipe), make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2, name="square")
    attach(first, clip).clip.encode(IDS)  # its weights now lie in the module that all copies share
    attached = attach(second, clip)
    torch.testing.assert_close(attached.clip.encode(IDS), encoded(second), atol=1e-5, rtol=1e-5)
    assert attached.status.notes == (), "the stored weights are those of the base"


def test_an_encoder_is_attached_once(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    once = attach(tiny_encoder, clip_of(tiny_pipe)).clip
    twice = attach(tiny_encoder, once)
    assert twice.clip is once
    assert "on, by an earlier node" in str(twice.status)
    assert {len(patches) for patches in once.patcher.patches.values()} == {1}


def test_half_precision_stays_half(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.text_encoder.half()
    clip = clip_of(tiny_pipe)
    attached = attach(tiny_encoder, clip)
    values = [patches[0][1].value for patches in attached.clip.patcher.patches.values()]
    assert {value.dtype for value in values} == {torch.float16}
    assert attached.status.notes == (), "rounding is no other text encoder"


def test_sd_2_keeps_the_layer_that_is_not_read(make_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> None:
    pipe = make_pipe(layers=3, hidden_act="gelu")
    whole = make_pipe(layers=4, hidden_act="gelu", seed=5)
    clip, encoder = clip_of(whole, ("clip_h",), reads="sd2"), make_encoder(pipe)
    attached = attach(encoder, clip)
    torch.testing.assert_close(attached.clip.encode(IDS, "clip_h"), encoded(encoder), atol=1e-5, rtol=1e-5)
    assert not [key for key in attached.clip.patcher.patches if "layers.3" in key]


def test_sdxl_is_covered_in_part(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe, ("clip_l", "clip_g"), reads="sdxl")
    with pytest.raises(
        IncompatibleError, match="the encoder fits slot 1 of 2: partial, and is attached only with consent"
    ):
        attach(tiny_encoder, clip)
    attached = attach(tiny_encoder, clip, allow_partial=True)
    assert {key.partition(".")[0] for key in attached.clip.patcher.patches} == {"clip_l"}
    told = " ".join(str(attached.status).split())
    assert told.startswith("'circle' erased by test on: text encoder 1 of 2, 2 warnings warnings: ")
    assert "prompts that are encoded with the CLIP of this node, by clip_l" in told
    assert "the other text encoders (clip_g): the concept is reachable through them" in told
    assert "output: expected the last hidden state, found the last hidden state but one" in told


def test_both_encoders_of_sdxl_are_replaced_one_after_the_other(tiny_pipe: Any) -> None:
    pipe = sdxl(tiny_pipe)
    clip, first, second = clip_of_sdxl(pipe), encoder_for(pipe, "text_encoder"), encoder_for(pipe)
    one = attach(first, clip, allow_partial=True)
    both = attach(second, one.clip)
    assert str(both.status).startswith("'circle' erased by test\non: text encoder 2 of 2\n")
    assert "by clip_g and clip_l" in str(both.status)
    for encoder, name in ((first, "clip_l"), (second, "clip_g")):
        with torch.no_grad():
            expected = encoder.text_encoder()(IDS, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(both.clip.encode(IDS, name), expected, atol=1e-5, rtol=1e-5)
    projection = both.clip.patcher.patches["clip_g.transformer.text_projection.weight"][0][1].value
    assert torch.equal(projection, second.tensors["text_projection.weight"])
    assert "clip_l.transformer.text_projection.weight" not in both.clip.patcher.patches
    other = encoder_for(pipe, seed=2, concept="square")
    with pytest.raises(IncompatibleError, match="found clip_l; the concept stays reachable"):
        attach(other, one.clip)


def test_every_overlay_changes_the_unet_as_diffusers_does(tiny_pipe: Any) -> None:
    for overlay in (make_projection(tiny_pipe), make_delta(tiny_pipe), make_adapter(tiny_pipe)):
        clip, model = clip_of(tiny_pipe), model_of(tiny_pipe)
        before = weights(model, tiny_pipe)
        attached = attach(overlay, clip, model)
        overlay.attach(tiny_pipe, transport="paper")
        overlay.fuse(tiny_pipe)
        expected = {name: one.clone() for name, one in tiny_pipe.unet.state_dict().items()}
        overlay.detach(tiny_pipe)
        found = weights(attached.model, tiny_pipe)
        for name, one in found.items():
            torch.testing.assert_close(one, expected[name], atol=1e-6, rtol=1e-5)
        assert not same(found, before)
        assert same(weights(model, tiny_pipe), before), "the connected MODEL stays as it is, bit for bit"
        assert attached.clip is clip
        assert attach(overlay, clip, attached.model).model is attached.model


def test_an_adapter_lies_on_both_models(tiny_pipe: Any) -> None:
    adapter = make_adapter(tiny_pipe, prefixes=(TEXT_PREFIX, UNET_PREFIX))
    attached = attach(adapter, clip_of(tiny_pipe), model_of(tiny_pipe))
    adapter.attach(tiny_pipe, transport="paper")
    adapter.fuse(tiny_pipe)
    with torch.no_grad():
        expected = tiny_pipe.text_encoder(IDS).last_hidden_state
    torch.testing.assert_close(attached.clip.encode(IDS), expected, atol=1e-5, rtol=1e-5)
    assert "its gates are lost" in " ".join(str(attached.status).split())


def test_an_adapter_on_one_of_two_models_is_attached_to_the_other(tiny_pipe: Any) -> None:
    adapter = make_adapter(tiny_pipe, prefixes=(TEXT_PREFIX, UNET_PREFIX))
    clip, model = clip_of(tiny_pipe), model_of(tiny_pipe)
    once = attach(adapter, clip, model)
    rewired = attach(adapter, once.clip, model)
    assert rewired.clip is once.clip
    assert same(weights(rewired.model, tiny_pipe), weights(once.model, tiny_pipe))
    assert "on, by an earlier node" not in str(rewired.status)
    assert "on, by an earlier node" in str(attach(adapter, rewired.clip, rewired.model).status)


def test_overlays_add_up(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    delta, projection = make_delta(tiny_pipe), make_projection(tiny_pipe)
    clip, model = clip_of(tiny_pipe), model_of(tiny_pipe)
    first = attach(tiny_encoder, clip, model)
    second = attach(delta, first.clip, first.model)
    both = attach(projection, second.clip, second.model)
    name = next(name for name in delta.tensors if name.endswith("attn2.to_k.weight"))
    expected = delta.tensors[name] @ projection.tensors["projection"]
    torch.testing.assert_close(weights(both.model, tiny_pipe)[name], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.clip.encode(IDS), encoded(tiny_encoder), atol=1e-5, rtol=1e-5)


def test_a_lora_after_the_node_acts_on_the_robust_weights(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = attach(tiny_encoder, clip_of(tiny_pipe)).clip.clone()
    key = "clip_l.transformer.text_model.final_layer_norm.bias"
    clip.add_patches({key: (torch.ones(16),)}, 0.5)
    torch.testing.assert_close(clip.encode(IDS), encoded(tiny_encoder) + 0.5, atol=1e-5, rtol=1e-5)
    told = " ".join(str(attach(tiny_encoder, clip).status).split())
    assert "a LoRA or a merge after it changes 1 of its weights" in told


def test_a_changed_base_is_told(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    with torch.no_grad():
        tiny_pipe.text_encoder.get_input_embeddings().weight.add_(0.5)
    told = " ".join(str(attach(tiny_encoder, clip_of(tiny_pipe)).status).split())
    assert "the text encoder there differs by" in told
    assert "from the base that the artifact was made for (tiny)" in told


def test_what_cannot_be_attached_changes_nothing(make_pipe: Any, tiny_pipe: Any) -> None:
    clip, model = clip_of(tiny_pipe), model_of(tiny_pipe)
    with pytest.raises(
        IncompatibleError, match="form: expected a whole text encoder, a projection, an adapter or a delta"
    ):
        attach(make_eraser(tiny_pipe), clip, model)
    with pytest.raises(IncompatibleError, match="connect MODEL of Load Checkpoint with this node"):
        attach(make_delta(tiny_pipe), clip)
    with pytest.raises(IntegrityError, match=r"found .* for .*: a model of another family or size"):
        attach(make_delta(make_pipe(width=32)), clip, model)
    assert (clip.patcher.patches, model.patches) == ({}, {})


def test_a_patch_that_comfyui_refuses_is_an_error(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe)
    clip.patcher.clone = lambda: Refusing(clip.patcher.model)  # type: ignore[method-assign]  # a version to come
    with pytest.raises(IntegrityError, match="found 1 refused, the first of them clip_l"):
        attach(tiny_encoder, clip)


class Refusing(Patcher):
    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        return list(patches)[1:]
