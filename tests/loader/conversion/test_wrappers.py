"""What trainers and wrappers put around a state dict comes off, and the same bits are read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust_encoders import IntegrityError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.conversion.convert import convert
from robust_encoders.conversion.formats import SDXL_G, SDXL_L, read, write
from robust_encoders.conversion.unet_release import find_unet_release, unet_artifact

Tensors = dict[str, Tensor]
PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.")
ATTRIBUTES = ("clip.", "transformer.", "encoder.te.model.", "model.text_encoder.")
ENTRIES = ("model_state_dict", "state_dict", "model", "text_encoder", "module", "net")
BESIDE: dict[str, Any] = {
    "epoch": 3, "best": 0.25, "args": {"lr": 1e-4, "names": ["a", "b"], "path": None}, "rng": torch.arange(8),
    "optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4)}}, "groups": [{"params": [0]}]},
}  # fmt: skip


@pytest.fixture
def state(tiny_pipe: Any) -> Tensors:
    return nested_state(tiny_pipe.text_encoder)


def require_same(path: Path, folder: Path, state: Tensors) -> Manifest:
    manifest = convert(path, folder / "out", config=folder / "config.json")
    assert RobustEncoder.from_pretrained(folder / "out").content_sha256 == content_sha256(state)
    return manifest


def prefixed(state: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", [*PREFIXES, *ATTRIBUTES])
@pytest.mark.parametrize("kind", ["safetensors", "pickle", "flat", "open_clip"])
def test_prefixes_come_off(state: Tensors, config_folder: Path, prefix: str, kind: str) -> None:
    from robust_encoders.conversion.formats import FLAT, OPEN_CLIP

    named = {"flat": write(state, FLAT), "open_clip": write(state, OPEN_CLIP)}.get(kind, state)
    path = config_folder / ("a.pt" if kind == "pickle" else "a.safetensors")
    if kind == "pickle":
        torch.save(prefixed(named, prefix), path)
    else:
        save_file(prefixed(named, prefix), path)
    require_same(path, config_folder, state)


def test_a_wrapper_inside_the_encoder_comes_off(state: Tensors, config_folder: Path) -> None:
    inner = {
        name.replace("text_model.encoder.", "text_model._checkpoint_wrapped_module.encoder._orig_mod."): tensor
        for name, tensor in state.items()
    }
    save_file(inner, config_folder / "a.safetensors")
    require_same(config_folder / "a.safetensors", config_folder, state)


def test_a_tensor_with_and_without_a_prefix_is_refused(state: Tensors, config_folder: Path) -> None:
    torch.save({**state, **prefixed(state, "module.")}, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match="with and without the prefix of a wrapper"):
        convert(config_folder, config_folder / "out")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("new", [True, False])
def test_entries_of_trainers_are_read_with_plain_arguments_beside_them(
    state: Tensors, config_folder: Path, entry: str, new: bool
) -> None:
    torch.save({entry: state, **BESIDE}, config_folder / "a.pt", _use_new_zipfile_serialization=new)
    manifest = require_same(config_folder / "a.pt", config_folder, state)
    assert manifest.recipe["source"]["entry"] == entry


def test_nested_entries_are_read(state: Tensors, config_folder: Path) -> None:
    torch.save({"model": {"state_dict": prefixed(state, "module.")}, "epoch": 1}, config_folder / "a.pt")
    manifest = require_same(config_folder / "a.pt", config_folder, state)
    assert manifest.recipe["source"]["entry"] == "model.state_dict"


def test_two_models_in_one_file_are_refused_by_name(state: Tensors, config_folder: Path) -> None:
    torch.save({"model": state, "student": state}, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match="found 2: model, student; save the one"):
        convert(config_folder, config_folder / "out")


def test_other_objects_beside_the_model_are_named(state: Tensors, config_folder: Path) -> None:
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"asks for argparse\.Namespace: .* save its state dict alone"):
        convert(config_folder, config_folder / "out")


def test_a_module_saved_whole_is_named(config_folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        convert(config_folder, config_folder / "out")


def test_a_state_dict_with_its_versions_is_read(tiny_pipe: Any, state: Tensors, config_folder: Path) -> None:
    torch.save(tiny_pipe.text_encoder.state_dict(), config_folder / "a.pt")  # an OrderedDict with ``_metadata``
    require_same(config_folder / "a.pt", config_folder, state)


def test_a_head_beside_the_encoder_is_named(state: Tensors, config_folder: Path) -> None:
    save_file({**prefixed(state, "clip."), "head.weight": torch.zeros(3)}, config_folder / "a.safetensors")
    with pytest.raises(IntegrityError, match=r"head\.weight: expected no such tensor"):
        convert(config_folder, config_folder / "out")


def test_two_encoders_of_sdxl_are_named(state: Tensors) -> None:
    assert read({**write(state, SDXL_L), "first_stage_model.x": torch.zeros(1)}).layout is SDXL_L
    with pytest.raises(IntegrityError, match="SDXL, CLIP-L; single file of SDXL, OpenCLIP-G; remove all but one"):
        read({**write(state, SDXL_L), **write(state, SDXL_G)})


def test_many_names_of_one_storage_are_not_written_each(state: Tensors, config_folder: Path) -> None:
    layer = {name: state[name.replace("layers.1.", "layers.0.")] for name in state}
    torch.save(layer, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match="several share their numbers; save a copy of each"):
        convert(config_folder, config_folder / "out")


def test_a_changed_unet_is_unwrapped_too_and_not_copied_a_thousand_times(tiny_pipe: Any, tmp_path: Path) -> None:
    weight = tiny_pipe.unet.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    torch.save({"state_dict": {f"module.{name}": weight.clone()}}, tmp_path / "a.pt")
    found = find_unet_release(tmp_path / "a.pt")
    assert found is not None
    assert list(unet_artifact(found, tiny_pipe).tensors) == [name]
    torch.save({f"mid_block.{i}": weight for i in range(1000)}, tmp_path / "a.pt")
    found = find_unet_release(tmp_path / "a.pt")
    assert found is not None
    with pytest.raises(IntegrityError, match="1000 tensors: several share their numbers"):
        unet_artifact(found, tiny_pipe)


KINDS = {
    "a LoRA": "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "a LoRA; merge": "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "a T5": "encoder.block.0.layer.0.SelfAttention.q.weight",
    "a UNet": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "a VAE": "encoder.down_blocks.0.resnets.0.conv1.weight",
    "a ControlNet": "controlnet_cond_embedding.conv_in.weight",
    "a textual inversion": "<cat>",
    "the image part": "vision_model.post_layernorm.bias",
    "a language model": "model.layers.0.mlp.up_proj.weight",
}


@pytest.mark.parametrize("words", KINDS)
def test_files_of_other_models_are_named(words: str) -> None:
    with pytest.raises(IntegrityError, match=f"found .*{words}"):
        read({KINDS[words]: torch.zeros(1)})
