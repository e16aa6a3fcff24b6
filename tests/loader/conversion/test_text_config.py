"""The configuration of a text encoder: sparse files, files of open_clip, and names of published encoders."""

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
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested, nested_state
from robust_encoders.clip.text_model import require_fit
from robust_encoders.conversion.convert import convert
from robust_encoders.conversion.formats import OPEN_CLIP, TRANSFORMERS, Layout, Reading, read, write
from robust_encoders.conversion.text_config import PUBLISHED, configuration, family_of, without_last_layer

NAMES = [
    ("clip-vit-large-patch14", TRANSFORMERS, 768, 12, 12, "sd1"),
    ("openai/clip-vit-large-patch14", TRANSFORMERS, 768, 12, 12, "sd1"),
    ("CompVis/stable-diffusion-v1-4", OPEN_CLIP, 768, 12, 12, "sd1"),
    ("stable-diffusion-2-1", OPEN_CLIP, 1024, 24, 23, "sd2"),
    ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", OPEN_CLIP, 1024, 24, 24, "not stated"),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", TRANSFORMERS, 1280, 32, 32, "not stated"),
    ("clip-vit-base-patch32", TRANSFORMERS, 512, 12, 12, "not stated"),
]  # fmt: skip


@pytest.fixture
def state(tiny_pipe: Any) -> dict[str, Tensor]:
    return nested_state(tiny_pipe.text_encoder)


def full_size(layout: Layout, width: int, layers: int) -> Reading:
    """A bare state dict of a published size, without its numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    fields: Any = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(vocab_size=49408, num_attention_heads=4, **fields))
    return read(write(nested(model.state_dict()), layout))


@pytest.mark.parametrize(("name", "layout", "width", "layers", "kept", "family"), NAMES)
def test_a_bare_state_dict_needs_only_the_name_of_a_published_encoder(
    tmp_path: Path, name: str, layout: Layout, width: int, layers: int, kept: int, family: str
) -> None:
    found = full_size(layout, width, layers)
    settings, source = configuration(tmp_path / "a.safetensors", name, found)
    tensors, _ = without_last_layer(found, settings)
    require_fit(tensors, settings, finite=True)
    assert (settings["num_hidden_layers"], family_of(settings)) == (kept, family)
    assert source == f"{name.split('/')[-1].lower()}, by name"


def test_the_published_configurations_are_those_of_the_models() -> None:
    from transformers import CLIPTextConfig

    heads = {512: 8, 768: 12, 1024: 16, 1280: 20}
    for name, known in PUBLISHED.items():
        assert CLIPTextConfig(**known).hidden_size // known["num_attention_heads"] == 64, name
        assert (known["intermediate_size"], known["num_attention_heads"]) == (
            4 * known["hidden_size"], heads[known["hidden_size"]],
        ), name  # fmt: skip
        openai = "patch" in name or "v1" in name
        assert known["hidden_act"] == ("quick_gelu" if openai else "gelu"), name


def test_an_unknown_name_is_refused_with_the_closest(
    state: dict[str, Tensor], config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(state, config_folder / "a.safetensors")
    argv = ["convert", str(config_folder), str(config_folder / "out"), "--config"]
    assert main([*argv, "clip-vit-large-patch15"]) == 1
    assert "did you mean clip-vit-large-patch14?" in capsys.readouterr().err
    assert main([*argv, "nothing-like-it"]) == 1
    assert "pass one of them" in capsys.readouterr().err
    assert main([*argv, str(config_folder)]) == 0


def test_a_missing_configuration_names_the_encoders_of_that_width(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"published encoder: clip-vit-large-patch14, clip-vit-l-14.*v1-5$"):
        configuration(tmp_path / "a" / "a.pt", None, full_size(TRANSFORMERS, 768, 12))


@pytest.mark.parametrize("dropped", [("hidden_act",), ("hidden_act", "layer_norm_eps", "eos_token_id")])
def test_a_sparse_configuration_means_the_defaults_of_transformers(
    state: dict[str, Tensor], config_folder: Path, dropped: tuple[str, ...]
) -> None:
    place = config_folder / "config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps({name: value for name, value in config.items() if name not in dropped}))
    save_file(state, config_folder / "a.safetensors")
    convert(config_folder, config_folder / "out")
    loaded = RobustEncoder.from_pretrained(config_folder / "out")
    assert loaded.content_sha256 == content_sha256(state)
    assert loaded.config["hidden_act"] == "quick_gelu"


def test_the_defaults_are_those_of_transformers() -> None:
    from transformers import CLIPTextConfig

    from robust_encoders.conversion.text_config import _DEFAULTS

    theirs = CLIPTextConfig().to_dict()
    assert {name: theirs[name] for name in _DEFAULTS} == _DEFAULTS


def test_a_file_that_does_not_say_that_it_is_a_clip_is_not_completed(
    state: dict[str, Tensor], config_folder: Path
) -> None:
    place = config_folder / "config.json"
    config = json.loads(place.read_text())
    save_file(state, config_folder / "a.safetensors")
    place.write_text(json.dumps({name: config[name] for name in config if name not in ("hidden_act", "model_type")}))
    with pytest.raises(IntegrityError, match="without hidden_act"):
        convert(config_folder, config_folder / "out")
    place.write_text(json.dumps({"model_type": "t5", "d_model": 3}))
    with pytest.raises(IntegrityError, match="found one of model_type 't5'"):
        convert(config_folder, config_folder / "out")


def test_the_older_field_of_a_whole_clip_prevails(state: dict[str, Tensor], config_folder: Path) -> None:
    place = config_folder / "config.json"
    config = json.loads(place.read_text())
    whole = {"model_type": "clip", "text_config": {"hidden_size": 1}, "text_config_dict": config}
    place.write_text(json.dumps(whole))
    save_file(state, config_folder / "a.safetensors")
    convert(config_folder, config_folder / "out")


@pytest.mark.parametrize("quick", [True, False])
def test_the_configuration_of_open_clip_is_read(
    tiny_pipe: Any, state: dict[str, Tensor], config_folder: Path, quick: bool
) -> None:
    config = tiny_pipe.text_encoder.config
    (config_folder / "config.json").unlink()
    text = {
        "context_length": config.max_position_embeddings, "vocab_size": config.vocab_size, "width": config.hidden_size,
        "heads": config.num_attention_heads, "layers": config.num_hidden_layers,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }  # fmt: skip
    body = {"model_cfg": {"embed_dim": 8, "quick_gelu": quick, "vision_cfg": {}, "text_cfg": text}}
    (config_folder / "open_clip_config.json").write_text(json.dumps(body))
    save_file(
        {**write(state, OPEN_CLIP), "visual.conv1.weight": torch.zeros(1)},
        config_folder / "open_clip_model.safetensors",
    )
    manifest = convert(config_folder, config_folder / "out")
    assert manifest.recipe["configuration"] == "open_clip_config.json beside the file"
    loaded = RobustEncoder.from_pretrained(config_folder / "out")
    assert (loaded.content_sha256, loaded.config["hidden_act"]) == (
        content_sha256(state), "quick_gelu" if quick else "gelu",
    )  # fmt: skip


@pytest.mark.parametrize("text", [{"hf_model_name": "roberta"}, {"width": "8"}, None])
def test_another_tower_of_open_clip_is_refused(state: dict[str, Tensor], config_folder: Path, text: Any) -> None:
    (config_folder / "config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    save_file(state, config_folder / "a.safetensors")
    with pytest.raises(IntegrityError, match="another model's"):
        convert(config_folder, config_folder / "out")


def test_endless_files_as_configuration_are_refused(
    state: dict[str, Tensor], config_folder: Path, tmp_path: Path
) -> None:
    save_file(state, config_folder / "a.safetensors")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**33)
    for place, words in (
        ("/dev/zero", "a device"),
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "large", "more than"),
    ):
        with pytest.raises(IntegrityError, match=words):
            convert(config_folder, config_folder / "out", config=place)
