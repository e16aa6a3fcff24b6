"""Which file a path means: folders of the Hub, shards and their index, and paths that are no files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust_encoders import IntegrityError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.conversion import files
from robust_encoders.conversion.convert import convert
from robust_encoders.conversion.files import weights_in

Tensors = dict[str, Tensor]


@pytest.fixture
def state(tiny_pipe: Any) -> Tensors:
    return nested_state(tiny_pipe.text_encoder)


def shards(state: Tensors, folder: Path, suffix: str = "safetensors") -> dict[str, str]:
    """Write a state dict in two files, and return its weight map."""
    names = sorted(state)
    where: dict[str, str] = {}
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        content = {name: state[name].clone() for name in part}
        if suffix == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return where


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_that_transformers_wrote_are_read(
    tiny_pipe: Any, state: Tensors, tmp_path: Path, variant: str | None
) -> None:
    tiny_pipe.text_encoder.save_pretrained(tmp_path / "a", max_shard_size="20KB", variant=variant)
    assert len(list((tmp_path / "a").glob("*-of-*.safetensors"))) > 1
    convert(tmp_path / "a", tmp_path / "out")
    assert RobustEncoder.from_pretrained(tmp_path / "out").content_sha256 == content_sha256(state)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(state: Tensors, config_folder: Path, tmp_path: Path, suffix: str) -> None:
    where = shards(state, config_folder, suffix)
    manifest = convert(config_folder, tmp_path / "out")
    assert RobustEncoder.from_pretrained(tmp_path / "out").content_sha256 == content_sha256(state)
    assert manifest.recipe["source"]["shards"].keys() == set(where.values())


def rewritten(folder: Path, change: Any) -> None:
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    body["weight_map"] = change(body["weight_map"])
    index.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "file",
    ["../a.safetensors", "/dev/zero", "/tmp/a.safetensors", "a/b.bin", "..\\a.bin", "model.safetensors.index.json", 3],
)
def test_an_index_names_files_beside_itself_only(state: Tensors, config_folder: Path, file: Any) -> None:
    shards(state, config_folder)
    rewritten(config_folder, lambda found: dict.fromkeys(found, file))
    with pytest.raises(IntegrityError, match="is no name of a file of weights in the same folder"):
        convert(config_folder, config_folder / "out")


def test_a_missing_shard_a_pipe_and_a_wrong_place_are_named(state: Tensors, config_folder: Path) -> None:
    where = shards(state, config_folder)
    second = config_folder / "model-00002-of-00002.safetensors"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(IntegrityError, match=r"'model-00002-of-00002\.safetensors' is missing"):
        convert(config_folder, config_folder / "out")
    os.mkfifo(second)
    with pytest.raises(IntegrityError, match="is missing"):
        convert(config_folder, config_folder / "out")
    second.unlink()
    second.symlink_to("/dev/zero")
    with pytest.raises(IntegrityError, match="is missing"):
        convert(config_folder, config_folder / "out")
    second.unlink()
    second.write_bytes(kept)
    rewritten(config_folder, lambda found: dict.fromkeys(where, second.name))
    with pytest.raises(IntegrityError, match="others or missing"):
        convert(config_folder, config_folder / "out")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}', '{"weight_map": {}}', "[" * 10**5]
)
def test_a_malformed_index_is_refused(config_folder: Path, text: str) -> None:
    (config_folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"expected (an index|the names)"):
        convert(config_folder, config_folder / "out")


def test_an_index_of_gigabytes_is_refused_unread(config_folder: Path) -> None:
    with (config_folder / "model.safetensors.index.json").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(IntegrityError, match="has more than"):
        convert(config_folder, config_folder / "out", config="clip-vit-large-patch14")


def test_one_shard_alone_is_called_a_part(state: Tensors, config_folder: Path) -> None:
    shards(state, config_folder)
    with pytest.raises(IntegrityError, match=r"found part 2 of 2; pass the file \*\.index\.json"):
        convert(config_folder / "model-00002-of-00002.safetensors", config_folder / "out")
    (config_folder / "model.safetensors.index.json").unlink()
    with pytest.raises(IntegrityError, match=r"parts of a model whose index .* is missing"):
        convert(config_folder, config_folder / "out")


def test_the_usual_name_is_chosen_in_a_folder_of_the_hub(state: Tensors, config_folder: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save(state, config_folder / name)
    assert weights_in(config_folder).name == "pytorch_model.bin"
    for name in ("model.fp16.safetensors", "model.safetensors"):
        save_file(state, config_folder / name)
    assert weights_in(config_folder).name == "model.safetensors"
    (config_folder / "model.safetensors").unlink()
    (config_folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        IntegrityError, match=r"found model\.fp16\.safetensors, optimizer\.pt, training_args\.bin; name"
    ):
        weights_in(config_folder)
    assert weights_in(config_folder / "model.fp16.safetensors").name == "model.fp16.safetensors"


def test_the_text_encoder_of_a_pipelines_folder_is_read(tiny_pipe: Any, state: Tensors, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    convert(tmp_path / "pipe", tmp_path / "out")
    assert RobustEncoder.from_pretrained(tmp_path / "out").content_sha256 == content_sha256(state)


def test_what_is_no_file_is_named_and_nothing_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    (tmp_path / "b.pt").symlink_to("/dev/zero")
    (tmp_path / "c.pt").mkdir()
    (tmp_path / "d.pt").symlink_to("d.pt")
    for path, words in (("a.pt", "a named pipe"), ("b.pt", "a device"), ("c.pt", "found none"), ("d.pt", "found none")):
        with pytest.raises(IntegrityError, match=words):
            convert(tmp_path / path, tmp_path / "out")
    with pytest.raises(IntegrityError, match="a device"):
        convert("/dev/zero", tmp_path / "out")
    with pytest.raises(IntegrityError, match="found none"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "words"), [("a.gguf", "a GGUF file"), ("a.onnx", "an ONNX model"), ("a.h5", "TensorFlow")]
)
def test_formats_of_other_libraries_are_named(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match=words):
        convert(tmp_path / name, tmp_path / "out")


def test_an_unreadable_file_is_named(state: Tensors, config_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    save_file(state, config_folder / "a.safetensors")
    monkeypatch.setattr(files, "file_record", denied)  # root, who may run the tests, can read every file
    with pytest.raises(IntegrityError, match=r"cannot read it: .*Permission denied"):
        convert(config_folder, config_folder / "out")
