"""Artifacts come back bit for bit, or not at all; a folder is never half written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from robust_encoders import ConversionNeededError, FileRecord, IntegrityError, Manifest, ManifestError, RobustEncoder
from robust_encoders.artifact import storage
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


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_loading_gives_back_what_was_saved(tiny_encoder: RobustEncoder, artifact: Path) -> None:
    loaded = RobustEncoder.from_pretrained(artifact)
    assert loaded.tensors.keys() == tiny_encoder.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tiny_encoder.tensors[name]) for name in loaded.tensors)
    assert loaded.config == tiny_encoder.config
    assert loaded.manifest == tiny_encoder.manifest
    assert loaded.content_sha256 == tiny_encoder.content_sha256


def test_saving_twice_gives_the_same_bytes(tiny_encoder: RobustEncoder, artifact: Path, tmp_path: Path) -> None:
    RobustEncoder.from_pretrained(artifact).save_pretrained(str(tmp_path / "deep" / "again"))
    assert snapshot(tmp_path / "deep" / "again") == snapshot(artifact)


def test_the_weights_file_is_what_other_applications_look_for(artifact: Path) -> None:
    with safe_open(artifact / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118 - safe_open is no mapping
        assert file.metadata() == {"format": "pt"}
    config = json.loads((artifact / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["CLIPTextModel"], "clip_text_model")
    assert config["robust_encoders"]["concept"] == "circle"


def test_stock_transformers_loads_the_artifact(tiny_encoder: RobustEncoder, artifact: Path) -> None:
    from transformers import CLIPTextModel

    loader: Any = CLIPTextModel
    model, info = loader.from_pretrained(artifact, output_loading_info=True)
    assert not any(info.values())
    assert content_sha256(dict(model.state_dict())) == content_sha256(dict(tiny_encoder.text_encoder().state_dict()))


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


def test_what_lies_beside_an_artifact_is_kept(tiny_encoder: RobustEncoder, artifact: Path) -> None:
    (artifact / "README.md").write_text("the card")
    (artifact / "model.fp16.safetensors").write_bytes(b"of the old weights")
    tiny_encoder.save_pretrained(artifact)
    assert "\nthe card\n" in (artifact / "README.md").read_text()
    assert not (artifact / "model.fp16.safetensors").exists()
    assert [name for name in os.listdir(artifact.parent) if name.startswith(".")] == []


def test_a_folder_of_something_else_is_not_overwritten(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose another folder"):
        tiny_encoder.save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="found a file"):
        tiny_encoder.save_pretrained(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_filled(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tiny_encoder.save_pretrained(tmp_path / "empty")
    assert RobustEncoder.from_pretrained(tmp_path / "empty").content_sha256 == tiny_encoder.content_sha256


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_midway_leaves_everything_as_it_was(
    tiny_pipe: Any, make_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, there: bool
) -> None:
    target = tmp_path / "artifact"
    if there:
        make_encoder(tiny_pipe, seed=1).save_pretrained(target)
    before = snapshot(tmp_path / "artifact") if there else {}
    calls = []
    owner: Any = Path if failing == "write_bytes" else os
    real = getattr(owner, failing)

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        last = len(calls) == (2 if failing == "write_bytes" or there else 1)
        if last:
            raise OSError("disk full")
        return real(*arguments, **options)

    encoder = make_encoder(tiny_pipe, seed=2)
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(target)
    assert (snapshot(target) if target.exists() else {}) == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".artifact")] == []


def test_an_old_folder_that_cannot_be_put_back_is_kept_and_named(
    tiny_encoder: RobustEncoder, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact / "notes.txt").write_text("mine")
    real, moves = os.replace, []

    def fail(source: Path, target: Path) -> None:
        moves.append(source)
        if len(moves) > 1:
            raise OSError("no permission")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"no permission.*it lies in (.*old); move it back") as caught:
        tiny_encoder.save_pretrained(artifact)
    monkeypatch.undo()
    (kept,) = artifact.parent.glob(".artifact-*/old")
    assert str(kept) in str(caught.value)
    tiny_encoder.save_pretrained(artifact)
    assert (artifact / "notes.txt").read_text() == "mine"
    assert not kept.exists()


def test_two_saves_to_one_folder_wait_for_each_other(
    tiny_encoder: RobustEncoder, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, at_once = storage._fill, [0]

    def slow(*arguments: Any) -> None:
        at_once.append(at_once[-1] + 1)
        time.sleep(0.05)
        real(*arguments)
        at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(storage, "_fill", slow)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(tiny_encoder.save_pretrained, artifact) for _ in range(4)]:
            done.result()
    assert (len(at_once), max(at_once)) == (9, 1)
    assert [path.name for path in artifact.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "robust_encoder.json", "README.md"])
def test_saving_never_writes_through_a_link(tiny_encoder: RobustEncoder, artifact: Path, name: str) -> None:
    outside = artifact.with_name("outside")
    (artifact / name).rename(outside)
    (artifact / name).symlink_to(outside)
    before = outside.stat().st_mtime_ns
    tiny_encoder.save_pretrained(artifact)
    assert outside.stat().st_mtime_ns == before
    assert not (artifact / name).is_symlink()
    assert RobustEncoder.from_pretrained(artifact).content_sha256 == tiny_encoder.content_sha256


def test_a_link_to_a_folder_stays_one(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("run")
    for _ in range(2):
        tiny_encoder.save_pretrained(tmp_path / "latest")
        assert (tmp_path / "latest").is_symlink()
        assert RobustEncoder.from_pretrained(tmp_path / "run").content_sha256 == tiny_encoder.content_sha256


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_the_working_directory_is_not_replaced(
    tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    folder = tmp_path / "here"
    (folder / inside).mkdir(parents=True)
    monkeypatch.chdir(folder / inside)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=r"this process works in .*save to a subfolder") as caught:
        tiny_encoder.save_pretrained(os.path.relpath(folder))
    assert str(folder / "NAME") in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mount_point_is_not_replaced(
    tiny_encoder: RobustEncoder, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == artifact)
    before = snapshot(artifact.parent)
    with pytest.raises(FileExistsError, match=r"mounted there.*save to a subfolder"):
        tiny_encoder.save_pretrained(artifact)
    assert snapshot(artifact.parent) == before
    tiny_encoder.save_pretrained(artifact / "sub")


def test_a_recipe_without_a_json_form_writes_nothing(tiny_pipe: Any, make_encoder: Any, tmp_path: Path) -> None:
    encoder = make_encoder(tiny_pipe, recipe={"device": torch.device("cpu")})
    with pytest.raises(ManifestError, match="JSON cannot"):
        encoder.save_pretrained(tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_files_of_the_manifest_are_replaced_by_what_was_written(
    tiny_pipe: Any, make_encoder: Any, tmp_path: Path
) -> None:
    encoder = make_encoder(tiny_pipe, files={"old": FileRecord(sha256="0" * 64, size=1)})
    written = encoder.save_pretrained(tmp_path / "artifact")
    assert sorted(written.files) == ["config.json", "model.safetensors"]
    assert encoder.manifest == written == Manifest.read(tmp_path / "artifact")
