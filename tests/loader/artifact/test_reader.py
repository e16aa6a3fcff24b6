"""Artifacts come back bit for bit, or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch

from robust_encoders import ConversionNeededError, IntegrityError, Manifest, ManifestError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import MANIFEST_NAME


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


def rewrite(artifact: Path, name: str, data: bytes, **record: Any) -> None:
    """Replace a file and, as a careful forger would, its record in the manifest."""
    (artifact / name).write_bytes(data)
    manifest = Manifest.read(artifact)
    old = manifest.files[name]
    new = replace(old, **{"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), **record})
    replace(manifest, files={**manifest.files, name: new}).write(artifact)


def test_loading_gives_back_what_was_saved(tiny_encoder: RobustEncoder, artifact: Path) -> None:
    loaded = RobustEncoder.from_pretrained(artifact)
    assert loaded.tensors.keys() == tiny_encoder.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tiny_encoder.tensors[name]) for name in loaded.tensors)
    assert loaded.config == tiny_encoder.config
    assert loaded.manifest == tiny_encoder.manifest
    assert loaded.content_sha256 == tiny_encoder.content_sha256


def test_a_subfolder_and_a_variant_are_found(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    saved = tiny_encoder.save_pretrained(tmp_path / "all" / "sub")
    (tmp_path / "all" / "sub" / "model.safetensors").rename(tmp_path / "all" / "sub" / "model.fp32.safetensors")
    files = {"config.json": saved.files["config.json"], "model.fp32.safetensors": saved.files["model.safetensors"]}
    replace(saved, files=files).write(tmp_path / "all" / "sub")
    loaded = RobustEncoder.from_pretrained(tmp_path / "all", subfolder="sub", variant="fp32")
    assert loaded.content_sha256 == tiny_encoder.content_sha256
    with pytest.raises(ManifestError, match=r"expected model\.fp16\.safetensors among .* found config\.json, model"):
        RobustEncoder.from_pretrained(tmp_path / "all", subfolder="sub", variant="fp16")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_refused(artifact: Path, name: str, damage: str) -> None:
    path = artifact / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(IntegrityError, match=name):
        RobustEncoder.from_pretrained(artifact)


def test_a_wrong_content_hash_is_refused(artifact: Path) -> None:
    rewrite(artifact, "model.safetensors", (artifact / "model.safetensors").read_bytes(), content_sha256="0" * 64)
    with pytest.raises(IntegrityError, match="content hash 000000"):
        RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(artifact: Path, value: float) -> None:
    tensors = safetensors.torch.load((artifact / "model.safetensors").read_bytes())
    tensors["text_model.final_layer_norm.bias"][3] = value
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    rewrite(artifact, "model.safetensors", data, content_sha256=content_sha256(tensors))
    with pytest.raises(IntegrityError, match=r"final_layer_norm\.bias: expected finite values"):
        RobustEncoder.from_pretrained(artifact)


def test_a_pickle_by_another_name_is_refused(artifact: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle")
    rewrite(artifact, "model.safetensors", (tmp_path / "pickle").read_bytes())
    with pytest.raises(IntegrityError, match="expected safetensors"):
        RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize(("data", "words"), [(b"{", "expected JSON"), (b"[]", "without vocab_size")])
def test_a_senseless_configuration_is_refused(artifact: Path, data: bytes, words: str) -> None:
    rewrite(artifact, "config.json", data)
    with pytest.raises(IntegrityError, match=words):
        RobustEncoder.from_pretrained(artifact)


def test_a_manifest_without_files_is_refused(artifact: Path) -> None:
    replace(Manifest.read(artifact), files={}).write(artifact)
    with pytest.raises(ManifestError, match=r"expected config\.json among the manifest's files, found none"):
        RobustEncoder.from_pretrained(artifact)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found nothing"):
        RobustEncoder.from_pretrained(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ManifestError, match=r"found notes\.txt"):
        RobustEncoder.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConversionNeededError, match=r"found pickles \(pytorch_model\.bin\)"):
        RobustEncoder.from_pretrained(tmp_path)


def test_the_hub_gives_the_same_as_the_folder(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, str | None, str | None]] = []

    def download(repo: str, name: str, *, subfolder: str | None, revision: str | None, **_: Any) -> str:
        fetched.append((f"{repo}/{name}", subfolder, revision))
        return str(artifact / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = RobustEncoder.from_pretrained("org/name", subfolder="sub", revision="v1")
    assert loaded.content_sha256 == RobustEncoder.from_pretrained(artifact).content_sha256
    names = (MANIFEST_NAME, "config.json", "model.safetensors")
    assert fetched == [(f"org/name/{name}", "sub", "v1") for name in names]
