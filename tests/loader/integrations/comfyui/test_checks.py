"""Checks against ComfyUI's models: every fault of a graph is told at once, each with its remedy."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_models import Clip, Patcher, clip_of, clip_of_sdxl, model_of, tree
from overlays import make_adapter, make_delta, make_projection
from several_encoders import encoder_for, sdxl, second_tokenizer

from robust_encoders import Base, CompatReport, IncompatibleError, RobustEncoder
from robust_encoders.artifact.reader import Artifact
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.integrations.comfyui.attach import attach
from robust_encoders.integrations.comfyui.checks import check
from robust_encoders.integrations.comfyui.connected import Connected

KEY = "clip_l.transformer.text_model.final_layer_norm.bias"


def report(loaded: Any, clip: Any, model: Any = None) -> CompatReport:
    artifact = Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)
    return check(artifact, Connected(clip, model, loaded.config.get("num_hidden_layers"), loaded.manifest.component))


def failed(loaded: Any, clip: Any, model: Any = None) -> set[str]:
    return {one.name for one in report(loaded, clip, model).checks if not one.ok}


def test_a_clip_of_the_base_passes_every_check(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    found = report(tiny_encoder, clip_of(tiny_pipe))
    assert found.ok
    assert found.explain() == f"the encoder fits the connected models ({len(found.checks)} checks)"
    assert {"width", "layers", "heads", "activation", "tokenizer", "precision"} <= {one.name for one in found.checks}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"width": 32}, {"width"}),
        ({"layers": 3}, {"layers", "output"}),
        ({"heads": 4}, {"heads"}),
        ({"intermediate_size": 64}, {"feed-forward width"}),
        ({"hidden_act": "gelu"}, {"activation"}),
        ({"positions": 30}, {"positions"}),
        ({"merges": 60}, {"vocabulary", "tokenizer"}),
    ],
)
def test_another_text_encoder_is_refused(
    make_pipe: Any, tiny_encoder: RobustEncoder, change: dict[str, Any], names: set[str]
) -> None:
    found = report(tiny_encoder, clip_of(make_pipe(**change)))
    assert {one.name for one in found.checks if not one.ok} == names
    with pytest.raises(IncompatibleError, match="load a checkpoint of the base that the encoder was made for"):
        found.raise_if_incompatible()


def test_a_clip_without_such_an_encoder_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tensors = {"t5xxl.transformer.encoder.block.0.weight": torch.zeros(2), "t5xxl.logit_scale": torch.zeros(())}
    clip = SimpleNamespace(patcher=Patcher(tree(tensors)))
    assert "found a CLIP with t5xxl; connect the CLIP of a checkpoint" in report(tiny_encoder, clip).explain()
    empty = SimpleNamespace(patcher=Patcher(tree({})))
    assert "found a CLIP with no text encoder" in report(tiny_encoder, empty).explain()
    assert failed(tiny_encoder, clip_of(tiny_pipe, ("clip_g",))) == {"component"}, "the refiner of SDXL"


def test_an_encoder_of_sdxl_goes_into_its_own_slot_alone(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = sdxl(tiny_pipe)
    second, clip = encoder_for(pipe), clip_of_sdxl(pipe)
    assert failed(second, clip) == {"other text encoders"}
    assert report(second, clip).verdict == "fits slot 2 of 2: partial"
    told = report(second, clip_of(tiny_pipe)).explain()
    assert "expected a CLIP of SDXL, with the text encoder clip_g, found a CLIP with clip_l" in told
    refiner = Clip({"clip_g": nested_state(pipe.text_encoder_2)}, tiny_encoder.config, reads="sdxl")
    assert failed(second, refiner) == set()
    assert failed(tiny_encoder, refiner) == {"component"}


def test_a_base_that_pads_with_exclamation_marks_has_the_same_words(
    tiny_pipe: Any, make_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    own = tiny_pipe.tokenizer
    tiny_pipe.tokenizer = second_tokenizer(tiny_pipe)  # as published for SD 2
    encoder = make_encoder(tiny_pipe)
    tiny_pipe.tokenizer = own
    assert failed(encoder, clip_of(tiny_pipe)) == set()
    assert own.pad_token != "!", "the connected tokenizer stays as it is"
    assert "tokenizer" in failed(encoder, clip_of(make_pipe(merges=60)))


def test_of_flux_the_pooled_vector_is_read(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    t5 = {"text_model.final_layer_norm.weight": torch.ones(4), "text_model.encoder.layers.0.weight": torch.ones(4)}
    clip = clip_of(tiny_pipe)
    tensors = {**clip.patcher.model.state_dict(), **{f"t5xxl.transformer.{name}": one for name, one in t5.items()}}
    clip.patcher = Patcher(tree(tensors))
    assert failed(tiny_encoder, clip) == {"other text encoders", "output"}
    assert "found the pooled vector alone" in report(tiny_encoder, clip).explain()


def test_an_earlier_layer_is_told(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe)
    assert failed(tiny_encoder, clip) == set()
    for index, found in {-1: set(), -2: {"output"}, -24: set()}.items():
        clip.clip_layer(index)  # the node CLIP Set Last Layer; ComfyUI reads the last one for numbers beyond
        assert failed(tiny_encoder, clip) == found
        assert report(tiny_encoder, clip).ok


def test_what_changed_the_weights_before_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    for patch, strength, refused in (
        ((torch.ones(16),), 1.0, True),
        ((torch.ones(16),), 0.0, False),
        (("set", (torch.ones(16),)), 0.0, True),
    ):
        clip = clip_of(tiny_pipe)
        clip.add_patches({KEY: patch}, strength)
        assert failed(tiny_encoder, clip) == ({"other patches"} if refused else set())
    told = report(tiny_encoder, clip).explain()
    assert "found 1 patched weights, the first of them text_model.final_layer_norm.bias" in told
    merged = clip_of(tiny_pipe)
    merged.patcher.add_patches({KEY: (torch.zeros(16),)}, 0.0, 0.5)
    assert failed(tiny_encoder, merged) == {"other patches"}, "a merge scales the weights of the model"


def test_a_lora_on_the_unet_alone_does_not_concern_a_text_encoder(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    model = model_of(tiny_pipe)
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    model.add_patches({key: (torch.ones_like(model.model.state_dict()[key]),)})
    assert failed(tiny_encoder, clip_of(tiny_pipe), model) == set()
    for overlay in (make_delta(tiny_pipe), make_projection(tiny_pipe), make_adapter(tiny_pipe)):
        assert failed(overlay, clip_of(tiny_pipe), model) == {"other patches"}


def test_a_second_encoder_or_delta_is_refused(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> None:
    first = attach(make_encoder(tiny_pipe), clip_of(tiny_pipe), model_of(tiny_pipe))
    other = make_encoder(tiny_pipe, seed=2, name="square")
    assert failed(other, first.clip) == {"robust encoder"}
    assert "found 'circle' erased by test; it would be overwritten" in report(other, first.clip).explain()
    delta = attach(make_delta(tiny_pipe), first.clip, first.model)
    assert failed(make_delta(tiny_pipe, seed=2), delta.clip, delta.model) == {"robust encoder"}
    assert failed(make_projection(tiny_pipe), delta.clip, delta.model) == set()


def test_quantised_weights_are_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe)
    module = clip.patcher.model.clip_l.transformer.text_model.encoder.layers[0].mlp.fc1
    module.weight = torch.nn.Parameter(module.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert failed(tiny_encoder, clip) == {"precision"}
    module.register_parameter("weight_scale", torch.nn.Parameter(torch.ones(()), requires_grad=False))
    told = report(tiny_encoder, clip).explain()
    assert "found float8_e4m3fn, with text_model.encoder.layers.0.mlp.fc1.weight_scale" in told


def test_an_encoder_without_a_recorded_base_is_told(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> None:
    unrecorded = make_encoder(tiny_pipe, base=Base(family="tiny"))
    assert failed(unrecorded, clip_of(tiny_pipe)) == {"base fingerprint"}
    told = str(attach(unrecorded, clip_of(tiny_pipe)).status)
    assert told.startswith("'circle' erased by test\non: text encoder 1 of 1, 1 warning\n")
    assert "robust-encoders annotate" in told


def test_hooks_are_told(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    clip = clip_of(tiny_pipe)
    clip.patcher.forced_hooks = object()
    assert failed(tiny_encoder, clip) == {"hooks"}
    assert report(tiny_encoder, clip).ok


def test_a_model_without_a_unet_is_refused(tiny_pipe: Any) -> None:
    transformer = Patcher(tree({"diffusion_model.blocks.0.weight": torch.zeros(2)}))
    told = report(make_delta(tiny_pipe), clip_of(tiny_pipe), transformer).explain()
    assert "found a model that is no UNet of Stable Diffusion" in told


def test_a_version_with_other_attributes_is_checked_by_shapes_alone(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    clip = clip_of(tiny_pipe)
    for layer in clip.patcher.model.clip_l.transformer.text_model.encoder.layers:
        del layer.self_attn.heads
        del layer.mlp.activation
    del clip.tokenizer
    names = {one.name for one in report(tiny_encoder, clip).checks}
    assert names.isdisjoint({"heads", "activation", "tokenizer"})
    assert "width" in names
