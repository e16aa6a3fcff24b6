"""What others published becomes an artifact of the same bits, or is refused; a pickle never runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from robust_encoders import Concept, IntegrityError, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested, nested_state
from robust_encoders.conversion.convert import Origin, convert
from robust_encoders.conversion.files import weights_in
from robust_encoders.conversion.formats import (
    A1111,
    A1111_SD2,
    COMFYUI,
    OPEN_CLIP,
    TRANSFORMERS,
    Layout,
    Reading,
    read,
    write,
)
from robust_encoders.conversion.text_config import configuration, family_of, without_last_layer

Tensors = dict[str, Tensor]
ORIGIN = Origin(
    concept=Concept(name="nudity", kind="content"),
    method="advunlearn",
    base_ids=("org/base",),
    license="cc-by-4.0",
    publisher="org/name",
    revision="f" * 40,
)


@pytest.fixture
def state(tiny_pipe: Any) -> Tensors:
    return nested_state(tiny_pipe.text_encoder)


def positions(state: Tensors) -> Tensors:
    """As OPTML-Group's files are: nested names, and the position index as a buffer."""
    return {"text_model.embeddings.position_ids": torch.arange(24)[None], **state}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.safetensors"])
def test_every_kind_of_file_gives_the_same_bits(state: Tensors, config_folder: Path, tmp_path: Path, name: str) -> None:
    saver: Callable[[Any, Path], None] = safetensors.torch.save_file if name.endswith("ors") else torch.save
    saver(positions(state), config_folder / name)
    convert(config_folder / name, tmp_path / "out", origin=ORIGIN)
    loaded = RobustEncoder.from_pretrained(tmp_path / "out")
    assert loaded.content_sha256 == content_sha256(state)


def test_the_manifest_says_what_it_was_made_from_and_nothing_else(
    state: Tensors, config_folder: Path, tmp_path: Path
) -> None:
    torch.save(positions(state), config_folder / "pytorch_model.bin")
    data = (config_folder / "pytorch_model.bin").read_bytes()
    manifest = convert(config_folder, tmp_path / "out", origin=ORIGIN)
    assert manifest.recipe == {
        "name": "convert",
        "source": {
            "file": "pytorch_model.bin",
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "layout": "transformers",
            "publisher": "org/name",
            "revision": "f" * 40,
        },
        "configuration": "config.json beside the file",
        "dropped": ["text_model.embeddings.position_ids"],
    }
    assert (manifest.license, manifest.method, manifest.concept) == (
        "cc-by-4.0", {"name": "advunlearn"}, ORIGIN.concept,
    )  # fmt: skip
    base = manifest.base
    assert (base.family, base.ids, base.text_encoder, base.tokenizer, base.unet) == (
        "not stated", ("org/base",), None, None, None,
    )  # fmt: skip
    assert "robust-encoders" in manifest.versions
    assert manifest.results == ()


def test_what_nobody_stated_is_said_to_be_not_stated(state: Tensors, config_folder: Path, tmp_path: Path) -> None:
    torch.save(state, config_folder / "a.pt")
    manifest = convert(config_folder / "a.pt", tmp_path / "out")
    said = (manifest.concept.name, manifest.method["name"], manifest.recipe["source"]["publisher"])
    assert said == ("not stated",) * 3
    assert manifest.license == ""


def test_converting_twice_gives_the_same_bytes(state: Tensors, config_folder: Path, tmp_path: Path) -> None:
    torch.save(state, config_folder / "a.pt")
    assert convert(config_folder, tmp_path / "1", origin=ORIGIN) == convert(
        config_folder, tmp_path / "2", origin=ORIGIN
    )


@pytest.mark.parametrize("layout", [A1111, COMFYUI, OPEN_CLIP], ids=lambda layout: layout.name)
def test_other_layouts_are_converted_too(state: Tensors, config_folder: Path, tmp_path: Path, layout: Layout) -> None:
    torch.save({"state_dict": write(state, layout), "global_step": 3}, config_folder / "a.ckpt")
    manifest = convert(config_folder / "a.ckpt", tmp_path / "out", config=config_folder / "config.json")
    assert manifest.recipe["source"]["layout"] == layout.name
    assert RobustEncoder.from_pretrained(tmp_path / "out").content_sha256 == content_sha256(state)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    config_folder: Path, tmp_path: Path, legacy: bool
) -> None:
    trace = tmp_path / "trace"
    path = config_folder / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1), "b": Hostile(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(IntegrityError, match=r"asks for posix\.mkdir: refused, and nothing in it was run") as caught:
        convert(config_folder, tmp_path / "out")
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    assert "weights_only" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert trace.is_dir(), "or this test could not fail"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02.", b"not a pickle", b"\x80\x02K\x01."])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_file_of_something_else_is_refused(config_folder: Path, tmp_path: Path, data: bytes, name: str) -> None:
    (config_folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="expected"):
        convert(config_folder / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "'extra': a int"),
        ([torch.zeros(1)], "'extra': a list"),
        (torch.zeros(2, 2).to_sparse(), "'extra': a sparse"),
        (torch.zeros(1).expand(10**9), r"'extra': shape \(1000000000,\), but 4 bytes"),
    ],
)
def test_what_is_no_plain_tensor_is_named(
    state: Tensors, config_folder: Path, tmp_path: Path, value: Any, words: str
) -> None:
    torch.save({**state, "extra": value}, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=words):
        convert(config_folder, tmp_path / "out")


@pytest.mark.parametrize("data", [[1, 2], torch.zeros(2), {7: torch.zeros(1)}])
def test_a_pickle_without_a_state_dict_is_refused(config_folder: Path, tmp_path: Path, data: Any) -> None:
    torch.save(data, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"expected names and (plain )?tensors"):
        convert(config_folder, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(
    state: Tensors, config_folder: Path, tmp_path: Path, value: float
) -> None:
    bias = torch.zeros(16)
    bias[2] = value
    torch.save({**state, "text_model.final_layer_norm.bias": bias}, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"final_layer_norm\.bias: expected finite values"):
        convert(config_folder, tmp_path / "out")


def test_every_wrong_tensor_is_named(state: Tensors, config_folder: Path, tmp_path: Path) -> None:
    wrong = {**state, "text_model.strange": torch.zeros(1), "text_model.final_layer_norm.bias": torch.zeros(3)}
    del wrong["text_model.encoder.layers.0.mlp.fc1.bias"]
    torch.save(wrong, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"3 problem\(s\)") as caught:
        convert(config_folder, tmp_path / "out")
    for name in ("text_model.strange: expected no", r"final_layer_norm.bias: expected shape", "mlp.fc1.bias: expected"):
        assert name in str(caught.value)


def test_the_configuration_of_a_whole_clip_model_is_understood(
    state: Tensors, config_folder: Path, tmp_path: Path
) -> None:
    config = json.loads((config_folder / "config.json").read_text())
    (config_folder / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": config}))
    torch.save({**state, "logit_scale": torch.zeros(())}, config_folder / "a.pt")
    assert convert(config_folder, tmp_path / "out").recipe["dropped"] == ["logit_scale"]


def test_a_configuration_that_could_be_two_is_not_guessed(state: Tensors, config_folder: Path, tmp_path: Path) -> None:
    (config_folder / "config.json").unlink()
    torch.save(state, config_folder / "a.pt")
    with pytest.raises(IntegrityError, match=r"expected a config\.json beside .*--config FILE"):
        convert(config_folder, tmp_path / "out")
    (config_folder / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match="expected JSON in"):
        convert(config_folder, tmp_path / "out")


def on_meta(layout: Layout, width: int, layers: int) -> Reading:
    """A full-size encoder in a file of that layout, without its numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    fields: Any = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(vocab_size=49408, num_attention_heads=4, **fields))
    return read(write(nested(model.state_dict()), layout))


def test_the_configuration_of_a_single_file_is_known_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # of the whole model, not of its text encoder
    settings, source = configuration(tmp_path / "v1-5.safetensors", None, on_meta(A1111, 768, 12))
    assert (settings["hidden_act"], settings["num_attention_heads"]) == ("quick_gelu", 12)
    assert family_of(settings) == "sd1"
    assert "A1111" in source
    with pytest.raises(IntegrityError, match="cannot be read off"):
        configuration(tmp_path / "model.pt", None, on_meta(A1111, 64, 2))
    with pytest.raises(IntegrityError, match="cannot be read off"):
        configuration(tmp_path / "a" / "model.pt", None, on_meta(TRANSFORMERS, 768, 12))


def test_sd_2_does_without_the_last_layer() -> None:
    found = on_meta(A1111_SD2, 1024, 24)
    settings, _ = configuration(Path("v2-1.ckpt"), None, found)
    assert (settings["num_hidden_layers"], settings["hidden_act"], family_of(settings)) == (23, "gelu", "sd2")
    kept, shorter = without_last_layer(found, settings)
    assert shorter
    assert found.tensors.keys() - kept.keys() == {
        n for n in found.tensors if n.startswith("text_model.encoder.layers.23.")
    }
    assert len(found.tensors) - len(kept) == 16
    nested = Reading(TRANSFORMERS, found.tensors, ())
    assert without_last_layer(nested, settings) == (found.tensors, False)


def test_the_last_layer_is_dropped_in_the_artifact_and_said_so(
    state: Tensors, config_folder: Path, tmp_path: Path
) -> None:
    config = json.loads((config_folder / "config.json").read_text())
    (config_folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    torch.save(write(state, OPEN_CLIP), config_folder / "a.pt")
    manifest = convert(config_folder, tmp_path / "out")
    assert "last layer" in manifest.recipe["dropped"][-1]
    assert not any(".layers.1." in name for name in RobustEncoder.from_pretrained(tmp_path / "out").tensors)


def test_one_file_of_weights_is_found_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="found none"):
        weights_in(tmp_path)
    (tmp_path / "a.pt").touch()
    assert weights_in(tmp_path) == weights_in(tmp_path / "a.pt") == tmp_path / "a.pt"
    (tmp_path / "b.bin").touch()
    with pytest.raises(IntegrityError, match=r"found a\.pt, b\.bin; name the file itself"):
        weights_in(tmp_path)
    (tmp_path / "c.txt").touch()
    with pytest.raises(IntegrityError, match="a file of another kind"):
        weights_in(tmp_path / "c.txt")


def test_an_existing_folder_of_something_else_is_kept(state: Tensors, config_folder: Path, tmp_path: Path) -> None:
    torch.save(state, config_folder / "a.pt")
    with pytest.raises(FileExistsError, match="choose another folder"):
        convert(config_folder / "a.pt", config_folder)
    assert sorted(path.name for path in config_folder.iterdir()) == ["a.pt", "config.json"]
