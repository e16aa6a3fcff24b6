"""Files of adapters, byte for byte those of SPM's release."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from overlays import adapter_tensors
from safetensors import safe_open
from torch import Tensor

from robust_encoders import IntegrityError
from robust_encoders.artifact.adapter_file import read, write_bytes
from robust_encoders.overlays.adapters import DOWN, TEXT_PREFIX, UNET_PREFIX, UP, Adapter

EVERYWHERE = (UNET_PREFIX, TEXT_PREFIX)
METADATA = {"prompts": "nudity,naked", "rank": "1", "alpha": "1.0"}


def laid_out(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    """Write the release's layout by the format's specification alone."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, tensor in sorted(tensors.items()):
        values = struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(values)],
        }
        body += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def test_a_published_file_comes_back_bit_for_bit(tiny_pipe: Any, tmp_path: Path) -> None:
    tensors = adapter_tensors(tiny_pipe, 0)
    path = tmp_path / "nudity_last.safetensors"
    path.write_bytes(laid_out(tensors, METADATA))
    adapter = read(path)
    assert (adapter.prompts, adapter.rank, adapter.alpha) == (("nudity", "naked"), 1, 1.0)
    written = write_bytes(adapter)
    (tmp_path / "again.safetensors").write_bytes(written)
    with safe_open(tmp_path / "again.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(key), tensors[key]) for key in tensors)
    again = read(written)
    assert write_bytes(again) == written
    assert all(torch.equal(again.tensors[key], tensors[key]) for key in tensors)


def test_the_same_adapters_give_the_same_bytes(tiny_pipe: Any) -> None:
    tensors = adapter_tensors(tiny_pipe, 0, EVERYWHERE)
    backwards = dict(reversed(list(tensors.items())))
    assert len({write_bytes(Adapter(each, ("a star",), 1, 1.0)) for each in (tensors, backwards)}) == 1


def test_the_release_writes_its_rank_as_it_likes(tiny_pipe: Any) -> None:
    assert read(laid_out(adapter_tensors(tiny_pipe, 0), {**METADATA, "rank": "1.0"})).rank == 1


@pytest.mark.parametrize("metadata", [None, {"prompts": "nudity"}, {**METADATA, "rank": "one"}])
def test_a_file_without_what_gates_need_is_refused(tiny_pipe: Any, metadata: dict[str, str] | None) -> None:
    with pytest.raises(IntegrityError, match="expected prompts, rank and alpha"):
        read(laid_out(adapter_tensors(tiny_pipe, 0), metadata))


def test_other_files_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(IntegrityError, match="expected safetensors"):
        read(b"odd")
    with pytest.raises(IntegrityError, match="expected no such tensor"):
        read(laid_out({"weight": torch.zeros(2)}, METADATA))
    with pytest.raises(IntegrityError, match=r"expected \(2, in\)"):
        read(laid_out(adapter_tensors(tiny_pipe, 0), {**METADATA, "rank": "2"}))


@pytest.mark.parametrize("prompt", ["red, blue", " star"])
def test_what_the_layout_cannot_hold_is_refused(tiny_pipe: Any, prompt: str) -> None:
    with pytest.raises(ValueError, match="without commas and without space"):
        write_bytes(Adapter(adapter_tensors(tiny_pipe, 0), (prompt,), 1, 1.0))


def test_diffusers_takes_our_files_for_a_lora(tiny_pipe: Any, tmp_path: Path) -> None:
    """Ungated, for every prompt alike, it draws what a constant gate of one draws."""
    pytest.importorskip("peft")
    tensors = adapter_tensors(tiny_pipe, 0, EVERYWHERE)
    (tmp_path / "spm.safetensors").write_bytes(write_bytes(Adapter(tensors, ("a star",), 1, 1.0)))
    before = {name: one.clone() for name, one in tiny_pipe.unet.state_dict().items()}
    tiny_pipe.load_lora_weights(tmp_path, weight_name="spm.safetensors")
    tiny_pipe.fuse_lora()
    tiny_pipe.unload_lora_weights()
    after = tiny_pipe.unet.state_dict()
    changed = {name for name, one in before.items() if not torch.equal(after[name], one)}
    stems = {key.removeprefix(UNET_PREFIX).removesuffix(DOWN) for key in tensors if key.startswith(UNET_PREFIX)}
    layers = {name.removesuffix(".weight").replace(".", "_") for name in changed}
    assert layers == {stem for stem in stems if not stem.endswith(DOWN) and not stem.endswith((UP, ".alpha"))}
    for name in changed:
        stem = UNET_PREFIX + name.removesuffix(".weight").replace(".", "_")
        expected = tensors[stem + UP].flatten(1) @ tensors[stem + DOWN].flatten(1)
        assert torch.allclose(after[name] - before[name], expected.view_as(before[name]), atol=1e-5)
