"""No header of a safetensors file costs much time or memory, whoever reads it."""

from __future__ import annotations

import ast
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from tree import ROOT

from robust_encoders import IntegrityError
from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.conversion.convert import convert

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def with_header(text: str | bytes, body: bytes = b"\0" * 4) -> bytes:
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text + body


def refused(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(IntegrityError, match=words):
        read_owned(path)
    with pytest.raises(IntegrityError, match=words):
        tensor_files.loads(data, "a file")
    with pytest.raises(IntegrityError, match=words):
        convert(path, path.with_name("out"))
    assert time.process_time() - started < 2


def test_tensors_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_owned(tmp_path / "a.safetensors").tensors
    assert found.keys() == tensors.keys() == set(tensor_files.names(tmp_path / "a.safetensors"))
    assert torch.equal(found["a"], tensors["a"])
    assert torch.equal(tensor_files.loads(save(tensors), "a file")["a"], tensors["a"])


def test_a_million_tensors_are_refused_unread(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    million = json.dumps({f"t{i}": empty for i in range(10**6)})
    refused(tmp_path / "a.safetensors", with_header(million, b""), "most that is read: no text encoder needs as much")


def test_more_tensors_than_any_encoder_has_are_refused(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"t{i}": empty for i in range(tensor_files.MOST_TENSORS + 2)}, separators=(",", ":"))
    assert len(text) < tensor_files.MOST_HEADER
    refused(tmp_path / "a.safetensors", with_header(text, b""), "16386 tensors, where 16384 tensors are the most")


def test_a_header_of_a_hundred_megabytes_is_refused_unread(tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": {"a": "x" * 99_000_000}, "b": ONE})
    refused(tmp_path / "a.safetensors", with_header(text), "4194304 bytes are the most")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"a": {json.dumps(ONE)}, "a": {json.dumps(ONE)}}}', "every name once .* found a twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "found dtype twice"),
        ("[" * 10**5, "no JSON"),
        ("{}]", "no JSON"),
        ("[1]", "no JSON object"),
        (b"\xff\xfe{}", "no JSON"),
        ('{"a": 3}', "something else"),
    ],
)
def test_a_malformed_header_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    refused(tmp_path / "a.safetensors", with_header(text), words)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**64 - 1])
def test_a_wrong_length_of_the_header_is_refused(tmp_path: Path, length: int) -> None:
    data = struct.pack("<Q", length) + json.dumps({"a": ONE}).encode() + b"\0" * 4
    refused(tmp_path / "a.safetensors", data, "expected safetensors|are the most")


def test_every_room_reads_safetensors_in_this_one_way() -> None:
    """The header limits hold for the loader, the converter and the caches of a training."""
    direct: set[str] = set()
    for folder in ("robust_encoders", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            if "robust_encoders/training" in path.as_posix():
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if reads_safetensors(node):
                    direct.add(path.relative_to(ROOT).as_posix())
    assert direct == {"robust_encoders/artifact/tensor_files.py"}


def reads_safetensors(node: Any) -> bool:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors"):
        return any(
            alias.name in ("load", "load_file", "safe_open", "load_model", "deserialize") for alias in node.names
        )
    return isinstance(node, ast.Attribute) and ast.unparse(node) in (
        "safetensors.torch.load",
        "safetensors.torch.load_file",
    )
