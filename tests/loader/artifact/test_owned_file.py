"""A file is read into memory once: what other programs do to it later changes nothing that was loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from changing_files import cut_off, deleted, emptied, meanwhile, overwritten
from overlays import drawn, make_adapter, make_delta, make_eraser, make_projection
from random_encoders import CLIP_L, saved

from robust_encoders import IntegrityError, RobustEncoder
from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.owned_file import OwnedFile, read_owned
from robust_encoders.conversion.convert import convert
from robust_encoders.conversion.files import file_record, read_file

TENSORS = {
    "f32": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "f64": torch.arange(4, dtype=torch.float64),
    "f16": torch.ones(2, 2, dtype=torch.float16),
    "bf16": torch.full((7,), 0.1, dtype=torch.bfloat16),
    "f8": torch.full((3,), 0.5).to(torch.float8_e4m3fn),
    "f8 of another kind": torch.full((3,), 0.5).to(torch.float8_e5m2),
    "i64": torch.arange(3),
    "i32": torch.arange(3, dtype=torch.int32),
    "i16": torch.arange(3, dtype=torch.int16),
    "i8": torch.tensor([-1, 2], dtype=torch.int8),
    "u8": torch.tensor([1, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "a number": torch.tensor(2.5),
    "nothing": torch.empty(0, 4),
}
Damage = Callable[[Path], object]
DAMAGES = (overwritten, cut_off, emptied, deleted)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    safetensors.torch.save_file(TENSORS, tmp_path / "file.safetensors", metadata={"format": "pt", "about": "ü"})
    return tmp_path / "file.safetensors"


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    def raw(tensor: torch.Tensor) -> list[int]:
        values: list[int] = tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
        return values

    return found.keys() == expected.keys() and all(
        (found[n].dtype, found[n].shape, raw(found[n])) == (expected[n].dtype, expected[n].shape, raw(expected[n]))
        for n in expected
    )


def test_tensors_are_those_of_the_library(file: Path) -> None:
    read = read_owned(file)
    assert same(read.tensors, safetensors.torch.load_file(file))
    assert same(read.tensors, TENSORS)
    assert (read.sha256(), read.size) == (file_record(file).sha256, file_record(file).size)
    assert read.state is not None
    assert set(tensor_files.names(file)) == set(TENSORS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_read_stays(file: Path, damage: Damage) -> None:
    read = read_owned(file)
    digest = read.sha256()
    damage(file)
    assert same(read.tensors, TENSORS)
    assert read.sha256() == digest


def test_tensors_are_plain_ones_whatever_the_caller_has_set(file: Path) -> None:
    with torch.inference_mode(), torch.device("meta"):
        tensor = read_owned(file).tensors["f32"]
    assert not tensor.is_inference()
    assert tensor.device.type == "cpu"
    assert torch.equal(tensor, TENSORS["f32"])
    assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a tensor that is dropped frees its own memory"


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(begin: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "too short": b"1234567",
    "header longer than the file": (10**6).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"abcd",
    "no text": (2).to_bytes(8, "little") + b"\xff\xfe",
    "a list": (2).to_bytes(8, "little") + b"[]",
    "deep": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "a text for an entry": header(a="text"),
    "no offsets": header(a={"dtype": "F32", "shape": [1]}) + bytes(4),
    "three offsets": header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}) + bytes(4),
    "an unknown dtype": header(a=entry(0, 4, [1], "F5")) + bytes(4),
    "a negative size": header(a=entry(0, 4, [-1, -1])) + bytes(4),
    "a fraction": header(a=entry(0, 4, [1.0])) + bytes(4),
    "a truth value": header(a=entry(0, 4, [True])) + bytes(4),
    "another size than its shape": header(a=entry(0, 8, [1])) + bytes(8),
    "huge": header(a=entry(0, 4, [2**40])) + bytes(4),
    "beyond the end": header(a=entry(0, 8, [2])) + bytes(4),
    "bytes of nobody at the end": header(a=entry(0, 4, [1])) + bytes(5),
    "bytes of nobody before": header(a=entry(4, 8, [1])) + bytes(8),
    "overlap": header(a=entry(0, 8, [2]), b=entry(4, 12, [2])) + bytes(12),
    "backwards": header(a=entry(4, 0, [1])) + bytes(4),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(IntegrityError, match=r"expected safetensors in .*broken"):
        read_owned(path)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4, [1]))
    text = f'{{"a": {one}, "a": {one}}}'.encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(IntegrityError, match=r"every name once .* found a twice"):
        read_owned(path)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "missing"
    with pytest.raises(IntegrityError, match="cannot read it"):
        read_owned(path)


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda path: os.truncate(path, path.stat().st_size - 1))
    with pytest.raises(IntegrityError, match=r"expected .* more bytes .* cut off while it was read"):
        read_owned(file)


def test_a_change_while_a_file_is_read_shows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, overwritten)
    assert read_owned(file).state is None
    assert read_owned(file).state is not None


@pytest.fixture(params=["weights", "adapter", "projection", "delta", "eraser"])
def artifact(request: pytest.FixtureRequest, tiny_pipe: Any, tiny_encoder: RobustEncoder) -> Any:
    """One artifact of every form, for ``tiny_pipe``."""
    makers: dict[str, Callable[[Any], Any]] = {
        "weights": lambda _: tiny_encoder,
        "adapter": make_adapter,
        "projection": make_projection,
        "delta": make_delta,
        "eraser": make_eraser,
    }
    return makers[request.param](tiny_pipe)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_attached_stays_as_it_was_verified(
    artifact: Any, tiny_pipe: Any, tmp_path: Path, damage: Damage
) -> None:
    artifact.save_pretrained(tmp_path / "saved")
    loaded = RobustEncoder.from_pretrained(tmp_path / "saved")
    with loaded.attached(tiny_pipe):
        before = drawn(tiny_pipe, "a red circle")
        (path,) = (tmp_path / "saved").glob("*.safetensors")
        damage(path)
        assert torch.equal(drawn(tiny_pipe, "a red circle"), before)
        assert same(dict(loaded.tensors), dict(artifact.tensors))
    loaded.save_pretrained(tmp_path / "again")
    assert RobustEncoder.from_pretrained(tmp_path / "again").content_sha256 == artifact.content_sha256


def maps() -> str:
    return Path("/proc/self/maps").read_text()


LARGE = {**CLIP_L, "hidden_size": 96, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_no_file_stays_mapped_whatever_its_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "large", LARGE)
    path = folder / "model.safetensors"
    assert path.stat().st_size > 2**24
    mapped = safetensors.torch.load_file(path)
    assert str(path) in maps(), "this test can see a mapped file"
    del mapped
    encoder = RobustEncoder.from_pretrained(folder)
    assert isinstance(encoder, RobustEncoder)
    modules = [encoder.text_encoder(), encoder.text_encoder()]
    content = read_file(path)
    record, data = content.record, content.data
    assert str(path) not in maps()
    cut_off(path)
    ids = torch.tensor([[49406, 320, 49407]])
    with torch.no_grad():
        assert torch.equal(modules[0](ids)[0], modules[1](ids)[0])
    assert same(data, dict(encoder.tensors))
    assert record.sha256 == encoder.manifest.files["model.safetensors"].sha256


def test_a_file_behind_a_link_is_overwritten(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    """As in the cache of the Hub, where the folder of a commit holds links to blobs."""
    tiny_encoder.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    blob = path.rename(tmp_path / "blob")
    path.symlink_to(blob)
    loaded = RobustEncoder.from_pretrained(tmp_path / "saved")
    overwritten(blob)
    assert same(dict(loaded.tensors), dict(tiny_encoder.tensors))
    with pytest.raises(IntegrityError, match="fetch the artifact again"):
        RobustEncoder.from_pretrained(tmp_path / "saved")


def test_a_folder_that_cannot_be_written_is_read(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").chmod(0o444)
    (tmp_path / "saved").chmod(0o555)
    assert RobustEncoder.from_pretrained(tmp_path / "saved").content_sha256 == tiny_encoder.content_sha256
    (tmp_path / "saved").chmod(0o755)


def test_an_attached_encoder_is_saved_over_its_own_folder(
    tiny_encoder: RobustEncoder, tiny_pipe: Any, tmp_path: Path
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "saved")
    loaded = RobustEncoder.from_pretrained(tmp_path / "saved")
    loaded.attach(tiny_pipe)
    before = drawn(tiny_pipe, "a red circle")
    loaded.save_pretrained(tmp_path / "saved")
    assert torch.equal(drawn(tiny_pipe, "a red circle"), before)
    assert RobustEncoder.from_pretrained(tmp_path / "saved").content_sha256 == tiny_encoder.content_sha256


def test_a_source_is_converted_over_itself(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "saved")
    assert RobustEncoder.from_pretrained(tmp_path / "saved").content_sha256 == tiny_encoder.content_sha256


def test_a_source_that_changes_while_it_is_converted_gives_what_was_read_or_nothing(
    tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "source")
    real = OwnedFile.sha256

    def overwritten_after_it_was_read(self: OwnedFile) -> str:
        overwritten(tmp_path / "source" / "model.safetensors")
        return real(self)

    monkeypatch.setattr(OwnedFile, "sha256", overwritten_after_it_was_read)
    manifest = convert(tmp_path / "source", tmp_path / "out")
    monkeypatch.undo()
    assert manifest.recipe["source"]["sha256"] == file_record(tmp_path / "saved" / "model.safetensors").sha256
    assert manifest.files["model.safetensors"].content_sha256 == tiny_encoder.content_sha256


def test_a_pickle_is_never_mapped(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(4)}, path)
    from torch.utils.serialization import config

    before = config.load.mmap
    config.load.mmap = True
    try:
        data = read_file(path).data
    finally:
        config.load.mmap = before
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(data["a"], torch.ones(4))
