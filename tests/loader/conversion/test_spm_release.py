"""Adapter files that others published become artifacts, and say what they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from overlays import adapter_tensors

from robust_encoders import IntegrityError, Overlay, RobustEncoder
from robust_encoders.artifact.adapter_file import write_bytes
from robust_encoders.artifact.tensor_files import metadata_of
from robust_encoders.cli.main import main
from robust_encoders.conversion.spm_release import adapter_from_release, is_adapter_file
from robust_encoders.overlays.adapters import Adapter


def published(pipe: Any, folder: Path) -> Path:
    path = folder / "star_last.safetensors"
    path.write_bytes(write_bytes(Adapter(adapter_tensors(pipe, 3), ("a star", "stars"), 1, 1.0)))
    return path


def body_size(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def test_a_published_file_becomes_an_artifact(tiny_pipe: Any, tmp_path: Path) -> None:
    path = published(tiny_pipe, tmp_path)
    made = adapter_from_release(path, tiny_pipe)
    overlay = Overlay(made.manifest, made.tensors, made.config)
    assert overlay.content_sha256 == made.content_sha256
    manifest = overlay.save_pretrained(tmp_path / "out")
    assert (manifest.concept.name, manifest.method["name"], manifest.component) == ("a star", "spm", "unet")
    assert manifest.recipe["source"]["file"] == path.name
    # What is stored is the release's file with the provenance in its metadata.
    stored, release = tmp_path / "out" / "adapter.safetensors", path.read_bytes()
    assert stored.read_bytes()[-body_size(release) :] == release[-body_size(release) :]
    kept = {name: text for name, text in metadata_of(stored).items() if name not in ("format", "robust_encoders")}
    assert kept == metadata_of(path)
    with RobustEncoder.from_pretrained(tmp_path / "out").attached(tiny_pipe):
        assert RobustEncoder.status(tiny_pipe).overlays == (overlay.label,)


def test_a_file_of_another_pipeline_is_refused(
    tiny_pipe: Any, make_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(make_pipe(width=32), tmp_path)
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    assert main(["convert", str(path), str(tmp_path / "out"), "--base", str(tmp_path / "pipe")]) == 1
    assert "layers of the unet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(IntegrityError, match="cannot read it"):
        adapter_from_release(tmp_path / "none.safetensors", tiny_pipe)


def test_only_adapter_files_are_taken_for_such(tiny_pipe: Any, tmp_path: Path) -> None:
    assert is_adapter_file(published(tiny_pipe, tmp_path))
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    assert not is_adapter_file(tmp_path / "odd.safetensors")
    assert not is_adapter_file(tmp_path / "none.safetensors")
    assert not is_adapter_file(tmp_path)


def test_the_command_needs_the_base_and_states_what_it_is_told(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = published(tiny_pipe, tmp_path), tmp_path / "out"
    assert main(["convert", str(path), str(out)]) == 2
    assert "--base PIPELINE_FOLDER" in capsys.readouterr().err
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    stated = ["--concept", "star", "--kind", "object", "--license", "apache-2.0", "--publisher", "org", "--json"]
    assert main(["convert", str(path), str(out), "--base", str(tmp_path / "pipe"), *stated]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["concept"]["name"], told["license"], told["form"]) == ("star", "apache-2.0", "adapter")
