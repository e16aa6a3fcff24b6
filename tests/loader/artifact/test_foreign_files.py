"""A file that is something else than its name says is called by its name, with what to do about it."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robust_encoders import IntegrityError, ManifestError, RobustEncoder
from robust_encoders.artifact.foreign_files import foreign, line_ends_changed
from robust_encoders.conversion.convert import convert

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 492265880\n"
KINDS = {
    "git lfs pull": POINTER,
    "an empty file": b"",
    "zeros": bytes(5000),
    "a web page": b"\n<!DOCTYPE html>\n<html>" + b"x" * 500,
    "GGUF": b"GGUF\x03\0\0\0" + b"\1" * 100,
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\1" * 100,
    "gzip": b"\x1f\x8b\x08" + b"\1" * 100,
    "a tar archive": b"name".ljust(257, b"\0") + b"ustar" + b"\0" * 250,
    'a text that begins with \'{"error":': b'{"error":"Repository not found"}',
    "restricted": b"Access to model X is restricted.",
}


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.mark.parametrize("words", KINDS)
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_the_converter_names_what_it_was_given(artifact: Path, tmp_path: Path, words: str, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[words])
    with pytest.raises(IntegrityError) as caught:
        convert(tmp_path / name, tmp_path / "out", config=artifact / "config.json")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "robust_encoder.json"])
def test_the_loader_names_a_pointer_of_git_lfs(artifact: Path, name: str) -> None:
    (artifact / name).write_bytes(POINTER)
    with pytest.raises((IntegrityError, ManifestError), match="git lfs pull"):
        RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_loader_names_changed_line_ends(artifact: Path, name: str) -> None:
    path = artifact / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(IntegrityError, match=r"changed line ends .* core\.autocrlf"):
        RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_loader_waits_for_no_pipe_and_reads_no_device(artifact: Path, name: str) -> None:
    (artifact / name).unlink()
    os.mkfifo(artifact / name)
    with pytest.raises(IntegrityError, match="is a named pipe"):
        RobustEncoder.from_pretrained(artifact)
    (artifact / name).unlink()
    (artifact / name).symlink_to("/dev/zero")
    with pytest.raises(IntegrityError, match="is a device"):
        RobustEncoder.from_pretrained(artifact)


def test_a_changed_configuration_is_called_changed(artifact: Path) -> None:
    path = artifact / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "gelu_new"}))
    with pytest.raises(IntegrityError, match="was changed or cut off"):
        RobustEncoder.from_pretrained(artifact)


def test_gigabytes_of_manifest_or_configuration_are_refused_unread(artifact: Path, tiny_encoder: RobustEncoder) -> None:
    for name in ("config.json", "robust_encoder.json"):
        tiny_encoder.save_pretrained(artifact)
        with (artifact / name).open("r+b") as file:
            file.truncate(2**33)
        with pytest.raises((IntegrityError, ManifestError)):
            RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize("new", [True, False])
def test_changed_line_ends_of_a_pickle_are_named(tmp_path: Path, artifact: Path, new: bool) -> None:
    data = BytesIO()
    torch.save({"x": torch.randn(10_000)}, data, _use_new_zipfile_serialization=new)
    (tmp_path / "a.pt").write_bytes(data.getvalue().replace(b"\n", b"\r\n"))
    with pytest.raises(IntegrityError, match="changed line ends"):
        convert(tmp_path / "a.pt", tmp_path / "out")


def test_weights_under_the_suffix_of_another_format_are_named(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    safetensors.torch.save_file(dict(tiny_encoder.tensors), tmp_path / "a.bin")
    torch.save(tiny_encoder.tensors, tmp_path / "a.safetensors")
    torch.save(tiny_encoder.tensors, tmp_path / "b.safetensors", _use_new_zipfile_serialization=False)
    for name, words in (
        ("a.bin", "a safetensors file"),
        ("a.safetensors", "a zip archive"),
        ("b.safetensors", "a pickle"),
    ):
        with pytest.raises(IntegrityError, match=rf"found {words}.*; give it the suffix \."):
            convert(tmp_path / name, tmp_path / "out")


def test_weights_are_nothing_foreign(tiny_encoder: RobustEncoder) -> None:
    data = safetensors.torch.save({**tiny_encoder.tensors, "x": torch.randn(10_000)})
    assert foreign(data, len(data)) is None
    assert line_ends_changed(data.replace(b"\n", b"\r\n"))
    assert not line_ends_changed(data)
