"""A checkpoint is rewritten tensor by tensor, completely or not at all."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robust_encoders.artifact.provenance import METADATA_KEY
from robust_encoders.conversion.export_places import placed, require_place
from robust_encoders.conversion.export_stream import Edits, TensorFile, rewrite, size_after
from robust_encoders.errors import IntegrityError, NotReadyError

TENSORS = {
    "unet.a": torch.arange(3.0),
    "unet.b": torch.arange(2),
    "unet.c": torch.arange(5.0).half(),
    "betas": torch.arange(3.0),
}


@pytest.fixture
def source(tmp_path: Path) -> TensorFile:
    save_file(TENSORS, tmp_path / "base.safetensors", {"format": "pt", "title": "mine"})
    return TensorFile.opened(tmp_path / "base.safetensors")


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float32])
def test_a_copy_has_the_same_numbers(dtype: torch.dtype | None, source: TensorFile, tmp_path: Path) -> None:
    edits = Edits({"unet.a": lambda old: old.double() + 1}, dtype=dtype, metadata=source.metadata)
    rewrite(source, tmp_path / "out.safetensors", edits)
    assert (tmp_path / "out.safetensors").stat().st_size == size_after(source, edits)
    found = load_file(tmp_path / "out.safetensors")
    expected = {**TENSORS, "unet.a": TENSORS["unet.a"] + 1}
    for name, tensor in expected.items():
        weight = dtype is not None and name in ("unet.a", "unet.c")
        assert torch.equal(found[name], tensor.to(dtype) if weight else tensor)
        assert found[name].dtype == (dtype if weight else tensor.dtype)
    assert TensorFile.opened(tmp_path / "out.safetensors").metadata == {"format": "pt", "title": "mine"}


def test_at_most_one_tensor_of_the_file_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"unet.{n}": torch.full((4, 4), float(n)) for n in range(20)}
    save_file(tensors, tmp_path / "base.safetensors")
    source = TensorFile.opened(tmp_path / "base.safetensors")
    seen: list[weakref.ref[Tensor]] = []
    read = TensorFile.tensor

    def counted(self: TensorFile, file: FileIO, name: str) -> Tensor:
        assert [ref for ref in seen if ref() is not None] == []
        found = read(self, file, name)
        seen.append(weakref.ref(found))
        return found

    monkeypatch.setattr(TensorFile, "tensor", counted)
    changes: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(list(tensors)[:10], lambda old: old + 1)
    rewrite(source, tmp_path / "out.safetensors", Edits(changes, dtype=torch.float16))
    assert len(seen) == 20
    monkeypatch.undo()
    assert torch.equal(load_file(tmp_path / "out.safetensors")["unet.3"], torch.full((4, 4), 4.0).half())


def test_a_failure_leaves_what_was_there_and_nothing_else(source: TensorFile, tmp_path: Path) -> None:
    target = tmp_path / "out" / "made.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    edits = Edits({"unet.a": lambda old: old + 1e6}, dtype=torch.float16)
    with pytest.raises(IntegrityError, match="within the range of float16"), placed(target) as aside:
        rewrite(source, aside, edits)
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_base_that_changes_meanwhile_is_refused(source: TensorFile, tmp_path: Path) -> None:
    def change(old: Tensor) -> Tensor:
        with source.path.open("ab") as file:
            file.write(b"\0")
        return old

    with pytest.raises(IntegrityError, match="unchanged while it was read, found it changed; export again when"):
        rewrite(source, tmp_path / "out.safetensors", Edits({"unet.a": change}))


def test_an_interrupted_replacement_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out" / "pipeline"
    target.mkdir(parents=True)
    (target / "earlier").write_text("here")

    def killed(one: Any, other: Any) -> None:
        if Path(other) == target and Path(one).name == "new":
            raise KeyboardInterrupt
        shutil.move(one, other)

    monkeypatch.setattr("robust_encoders.conversion.export_places.os.replace", killed)
    with pytest.raises(KeyboardInterrupt), placed(target) as aside:
        aside.mkdir()
    assert (target / "earlier").read_text() == "here"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "made.safetensors"
    require_place(target, 10, force=False)
    save_file({"a.b": torch.ones(1)}, target)
    with pytest.raises(FileExistsError, match="pass --force to replace"):
        require_place(target, 10, force=False)
    with pytest.raises(FileExistsError, match="found something else, which is not replaced"):
        require_place(target, 10, force=True)
    save_file({"a.b": torch.ones(1)}, target, {METADATA_KEY: "{}"})
    require_place(target, 10, force=True)
    with pytest.raises(FileExistsError, match="expected a place outside of the base"):
        require_place(target, 10, force=True, source=target)
    for inside in (tmp_path / "pipe" / "made", tmp_path / "pipe"):
        with pytest.raises(FileExistsError, match="expected a place outside of the base"):
            require_place(inside, 10, force=True, source=tmp_path / "pipe")
    (tmp_path / "made").mkdir()
    shutil.copy(target, tmp_path / "made")
    require_place(tmp_path / "made", 10, force=True)
    (tmp_path / "made" / "made.safetensors").unlink()
    with pytest.raises(FileExistsError, match="found something else"):
        require_place(tmp_path / "made", 10, force=True)
    with pytest.raises(NotReadyError, match="expected 1e\\+06 TB of free space"):
        require_place(tmp_path / "new.safetensors", 10**18, force=False)


def test_a_file_cut_off_is_no_base(source: TensorFile, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(source.path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="expected safetensors in"):
        TensorFile.opened(tmp_path / "cut.safetensors")
