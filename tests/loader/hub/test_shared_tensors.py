"""A token table that an embedded base holds is stored once, and every way out of memory writes it whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from robust_encoders import AssetsMissingError, IntegrityError, Manifest, ManifestError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import SharedTensor
from robust_encoders.hub import embedded, shared_tensors
from robust_encoders.hub.shared_tensors import save_shared

TABLE = "text_model.embeddings.token_embedding.weight"


@pytest.fixture
def base(tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a base "emoji" with the token table of the encoder; return the file of its text encoder."""
    for module in (embedded, shared_tensors):
        monkeypatch.setattr(module, "embedded_folder", lambda name: tmp_path / "assets" / name)
    path = tmp_path / "assets" / "emoji" / "base" / "text_encoder" / "model.safetensors"
    path.parent.mkdir(parents=True)
    safetensors.torch.save_file({TABLE: tiny_encoder.tensors[TABLE].clone(), "other": torch.ones(2)}, path)
    return path


@pytest.fixture
def folder(tiny_encoder: RobustEncoder, base: Path, tmp_path: Path) -> Path:
    shared(tiny_encoder, tmp_path / "shared")
    return tmp_path / "shared"


def shared(encoder: RobustEncoder, folder: Path) -> Manifest:
    return save_shared(folder, encoder.manifest, encoder.tensors, encoder.config, base="emoji")


def stored(folder: Path) -> set[str]:
    return {*safetensors.torch.load((folder / "model.safetensors").read_bytes())}


def test_the_table_is_stored_once_and_loaded_exactly(tiny_encoder: RobustEncoder, folder: Path) -> None:
    assert stored(folder) == {*tiny_encoder.tensors} - {TABLE}
    assert Manifest.read(folder).shared[TABLE].base == "emoji"
    loaded = RobustEncoder.from_pretrained(folder)
    assert loaded.tensors.keys() == tiny_encoder.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tiny_encoder.tensors[name]) for name in loaded.tensors)
    assert loaded.content_sha256 == tiny_encoder.content_sha256


def test_a_second_load_is_equal(tiny_encoder: RobustEncoder, folder: Path) -> None:
    first, second = (RobustEncoder.from_pretrained(folder) for _ in range(2))
    assert first.content_sha256 == second.content_sha256 == tiny_encoder.content_sha256
    assert torch.equal(second.tensors[TABLE], tiny_encoder.tensors[TABLE])


def test_it_attaches_like_the_whole_encoder(tiny_encoder: RobustEncoder, tiny_pipe: Any, folder: Path) -> None:
    RobustEncoder.from_pretrained(folder).attach(tiny_pipe)
    table = tiny_pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table, tiny_encoder.tensors[TABLE])
    tiny_encoder.detach(tiny_pipe)  # they have one identity


def test_saving_writes_it_whole(tiny_encoder: RobustEncoder, folder: Path, base: Path, tmp_path: Path) -> None:
    loaded = RobustEncoder.from_pretrained(folder)
    written = loaded.save_pretrained(tmp_path / "whole")
    tiny_encoder.save_pretrained(tmp_path / "plain")
    assert not written.shared
    assert '"shared"' not in (tmp_path / "whole" / "robust_encoder.json").read_text()
    for name in ("model.safetensors", "config.json", "robust_encoder.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    base.unlink()
    assert RobustEncoder.from_pretrained(tmp_path / "whole").content_sha256 == tiny_encoder.content_sha256


def test_without_the_base_it_says_what_to_install(folder: Path, base: Path) -> None:
    base.unlink()
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        RobustEncoder.from_pretrained(folder)


def _other_values(path: Path, table: torch.Tensor) -> None:
    changed = table.clone()
    changed[0, 0] += 1
    safetensors.torch.save_file({TABLE: changed}, path)


def _other_dtype(path: Path, table: torch.Tensor) -> None:
    safetensors.torch.save_file({TABLE: table.half()}, path)


def _no_table(path: Path, table: torch.Tensor) -> None:
    safetensors.torch.save_file({"other": table.clone()}, path)


@pytest.mark.parametrize("change", [_other_values, _other_dtype, _no_table])
def test_another_table_is_refused_in_both_directions(
    tiny_encoder: RobustEncoder, folder: Path, base: Path, change: Callable[[Path, torch.Tensor], None], tmp_path: Path
) -> None:
    change(base, tiny_encoder.tensors[TABLE])
    with pytest.raises(IntegrityError, match="in the embedded base 'emoji', found"):
        RobustEncoder.from_pretrained(folder)
    with pytest.raises(IntegrityError, match="save_pretrained"):
        shared(tiny_encoder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_base_that_nobody_knows_is_refused(folder: Path) -> None:
    manifest = Manifest.read(folder)
    one = manifest.shared[TABLE]
    replace(manifest, shared={TABLE: SharedTensor(base="../etc", content_sha256=one.content_sha256)}).write(folder)
    with pytest.raises(IntegrityError, match=r"expected an embedded base that this version knows .*'\.\./etc'"):
        RobustEncoder.from_pretrained(folder)


def test_a_tensor_in_both_places_is_refused(tiny_encoder: RobustEncoder, folder: Path, tmp_path: Path) -> None:
    whole = tiny_encoder.save_pretrained(tmp_path / "whole")
    replace(whole, shared=Manifest.read(folder).shared).write(tmp_path / "whole")
    with pytest.raises(ManifestError, match=f"found {TABLE} in both"):
        RobustEncoder.from_pretrained(tmp_path / "whole")


def test_a_file_without_its_table_and_without_the_entry_is_refused(folder: Path) -> None:
    replace(Manifest.read(folder), shared={}).write(folder)
    with pytest.raises(IntegrityError, match="content hash"):
        RobustEncoder.from_pretrained(folder)


def test_the_entry_is_covered_by_the_manifests_hash(folder: Path) -> None:
    path = folder / "robust_encoder.json"
    path.write_text(path.read_text().replace('"base": "emoji"', '"base": "shapes"'))
    with pytest.raises(ManifestError, match="was edited after it was written"):
        RobustEncoder.from_pretrained(folder)


def test_a_note_of_an_earlier_check_does_not_vouch_for_the_bases_table(
    tiny_encoder: RobustEncoder, folder: Path, base: Path
) -> None:
    """The noted file is unchanged; another table in the base, and its hash in the manifest, are not the encoder."""
    RobustEncoder.from_pretrained(folder)
    _other_values(base, tiny_encoder.tensors[TABLE])
    found = content_sha256({TABLE: safetensors.torch.load(base.read_bytes())[TABLE]})
    replace(Manifest.read(folder), shared={TABLE: SharedTensor(base="emoji", content_sha256=found)}).write(folder)
    with pytest.raises(IntegrityError, match="content hash"):
        RobustEncoder.from_pretrained(folder)
