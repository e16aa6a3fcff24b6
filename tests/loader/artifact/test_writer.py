"""An artifact is written whole or not at all, and what lies beside it is kept."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from robust_encoders import FileRecord, Manifest, ManifestError, RobustEncoder
from robust_encoders.artifact import writer
from robust_encoders.artifact.fingerprint import content_sha256


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_saving_twice_gives_the_same_bytes(tiny_encoder: RobustEncoder, artifact: Path, tmp_path: Path) -> None:
    RobustEncoder.from_pretrained(artifact).save_pretrained(str(tmp_path / "deep" / "again"))
    assert snapshot(tmp_path / "deep" / "again") == snapshot(artifact)


def test_the_weights_file_is_what_other_applications_look_for(artifact: Path) -> None:
    with safe_open(artifact / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118 - safe_open is no mapping
        assert file.metadata()["format"] == "pt"
    config = json.loads((artifact / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["CLIPTextModel"], "clip_text_model")
    assert config["robust_encoders"]["concept"] == "circle"


def test_stock_transformers_loads_the_artifact(tiny_encoder: RobustEncoder, artifact: Path) -> None:
    from transformers import CLIPTextModel

    loader: Any = CLIPTextModel
    model, info = loader.from_pretrained(artifact, output_loading_info=True)
    assert not any(info.values())
    assert content_sha256(dict(model.state_dict())) == content_sha256(dict(tiny_encoder.text_encoder().state_dict()))


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
    real, at_once = writer._fill, [0]

    def slow(*arguments: Any) -> None:
        at_once.append(at_once[-1] + 1)
        time.sleep(0.05)
        real(*arguments)
        at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(writer, "_fill", slow)
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
