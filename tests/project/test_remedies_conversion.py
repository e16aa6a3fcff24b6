"""Errors of convert and annotate, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from commands import refused
from overlays import eraser_tensors
from safetensors.torch import save_file

from robust_encoders import RobustEncoder
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main

MakeEncoder = Callable[..., RobustEncoder]
FACTS = ("--concept", "circle", "--method", "esd", "--license", "mit")


@pytest.fixture
def base(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def weights(tiny_encoder: RobustEncoder, config_folder: Path) -> Path:
    """A file of weights as others publish it, beside its configuration."""
    return save(tiny_encoder.tensors, config_folder / "a.safetensors")


def save(tensors: Any, path: Path) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def commands(text: str) -> list[list[str]]:
    """Return the commands that a text names in backticks, without the name of the program."""
    return [shlex.split(one)[1:] for one in re.findall(r"`(robust-encoders [^`]+)`", text)]


def filled(command: list[str], **values: object) -> list[str]:
    """Return a command with values in the place of its words in capitals."""
    return [str(values.get(word.replace("/", "_"), word)) for word in command]


@pytest.mark.parametrize("option", ["--concept", "--method", "--license", "--base"])
def test_annotate_without_facts(
    option: str, base: Path, tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    told = refused(capsys, 2, "annotate", str(tmp_path / "a"))
    assert option in told.partition("found none; pass ")[2]
    value = str(base) if option == "--base" else "gpl-3.0"
    assert main(["annotate", str(tmp_path / "a"), option, value]) == 0


def test_a_base_id_that_is_none(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    told = refused(capsys, 2, "annotate", str(tmp_path / "a"), "--base-id", "sd14", "--license", "mit")
    assert "--base-id sd14, which is no ORG/NAME; state each fact, or leave its option out" in told.replace("'", "")
    assert main(["annotate", str(tmp_path / "a"), "--base-id", "org/name", "--license", "mit"]) == 0
    assert "org/name" in Manifest.read(tmp_path / "a").base.ids
    assert main(["annotate", str(tmp_path / "a"), "--license", "mit"]) == 0


def test_facts_that_publishing_needs(
    weights: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, values = tmp_path / "out", {"WORDS": "circle", "NAME": "sd1", "ORG_NAME": "org/name", "PIPELINE_FOLDER": base}
    assert main(["convert", str(weights), str(out)]) == 0
    assert "Not stated: whoever made these weights states it by" in (out / "README.md").read_text()
    told = capsys.readouterr().out
    assert "annotate FOLDER --concept WORDS" in told
    assert "annotate FOLDER --license NAME" in told
    assert "annotate FOLDER --method NAME" in told
    for text in (told, (out / "README.md").read_text(), _ready(out, capsys)):
        for command in commands(text):
            if command[0] == "annotate":
                assert main(filled(command, FOLDER=out, **values)) == 0, command
    manifest = Manifest.read(out)
    assert (manifest.concept.name, manifest.license, manifest.base.ids) == ("circle", "sd1", ("org/name",))
    assert manifest.base.family == "sd1"
    assert "push needs" not in capsys.readouterr().out.splitlines()[-1]
    lines = [line for line in _ready(out, capsys).splitlines() if "annotate" in line]
    assert not lines, lines


def _ready(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    main(["ready", str(folder)])
    told = capsys.readouterr()
    return told.out + told.err


def test_facts_in_python(weights: Path, tmp_path: Path) -> None:
    from robust_encoders import Concept
    from robust_encoders.artifact.stated import missing_facts

    assert main(["convert", str(weights), str(tmp_path / "out")]) == 0
    encoder = RobustEncoder.from_pretrained(tmp_path / "out")
    for one in missing_facts(encoder.manifest):
        keyword = re.search(r"encoder\.annotate\((\w+)=", one.remedy)
        assert keyword is not None
        fact: dict[str, Any] = {keyword[1]: Concept(name="circle", kind="object") if keyword[1] == "concept" else "mit"}
        encoder.annotate(**fact)
    assert not missing_facts(encoder.manifest)


def test_a_copy_from_the_catalog_takes_no_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    told = refused(capsys, 2, "convert", "shapes/circle-rece", out, "--license", "mit")
    assert main(["convert", "shapes/circle-rece", out]) == 0
    assert main([*commands(told)[0], out, "--license", "mit"]) == 0
    assert Manifest.read(out).license == "mit"


@pytest.mark.parametrize("way", ["--force", "another folder"])
def test_a_folder_that_holds_an_artifact(
    way: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(weights), str(tmp_path / "out")]
    assert main(command) == 0
    capsys.readouterr()
    assert "choose another folder, or pass --force" in refused(capsys, 2, *command)
    assert main([*command, "--force"] if way == "--force" else [*command[:2], str(tmp_path / "other")]) == 0


def test_a_component_that_is_not_there(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", str(weights), str(tmp_path / "out")]
    assert "leave out --component" in refused(capsys, 2, *command, "--component", "unet")
    assert main(command) == 0


def test_a_changed_unet_needs_its_base_and_no_dtype(
    tiny_pipe: Any,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    changed = {name: value + 0.1 for name, value in tiny_pipe.unet.state_dict().items() if "attn2.to_k" in name}
    changed |= {name: value + 0.1 for name, value in tiny_pipe.unet.state_dict().items() if "attn2.to_v" in name}
    command = ["convert", str(save(changed, tmp_path / "uce.safetensors")), str(tmp_path / "out")]
    assert "expected --base PIPELINE_FOLDER" in refused(capsys, 2, *command)
    assert "leave it out" in refused(capsys, 2, *command, "--base", str(base), "--dtype", "float16")
    with caplog.at_level("INFO"):
        assert main([*command, "--base", str(base)]) == 0
    assert "state it by --method NAME" in caplog.text
    assert main([*command, "--base", str(base), "--method", "uce", "--force"]) == 0
    assert Manifest.read(tmp_path / "out").method["name"] == "uce"


def test_pickles_in_a_folder(
    tiny_encoder: RobustEncoder, config_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(dict(tiny_encoder.tensors), config_folder / "pytorch_model.bin")
    told = refused(capsys, 1, "info", str(config_folder))
    assert main(filled(commands(told)[0], OUT=tmp_path / "out")) == 0
    assert main(["info", str(tmp_path / "out")]) == 0


def test_a_lora_is_merged_by_diffusers(
    tiny_pipe: Any, config_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tiny_pipe.text_encoder.add_adapter(lora)
    state = {name: value for name, value in tiny_pipe.text_encoder.state_dict().items() if "lora_" in name}
    told = refused(capsys, 1, "convert", str(save(state, tmp_path / "lora.safetensors")), str(tmp_path / "out"))
    assert "`fuse_lora` of diffusers" in told
    tiny_pipe.fuse_lora(components=["text_encoder"])
    tiny_pipe.unload_lora_weights()
    tiny_pipe.text_encoder.save_pretrained(tmp_path / "merged")
    assert main(["convert", str(tmp_path / "merged"), str(tmp_path / "out")]) == 0


def test_a_program_of_torchscript(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, out = torch.nn.Module(), str(config_folder / "out")
    for name, tensor in tiny_encoder.tensors.items():
        place = module
        for part in name.split(".")[:-1]:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(tensor.clone(), requires_grad=False))
    torch.jit.save(torch.jit.script(module), str(config_folder / "a.pt"))
    told = refused(capsys, 1, "convert", str(config_folder / "a.pt"), out)
    assert "load it by torch.jit.load and save its state_dict() alone" in told
    load: Any = torch.jit.load
    torch.save(dict(load(str(config_folder / "a.pt")).state_dict()), config_folder / "a.pt")
    assert main(["convert", str(config_folder / "a.pt"), out]) == 0


def test_weights_of_two_dtypes(
    tiny_encoder: RobustEncoder, config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {name: tensor.half() if "q_proj" in name else tensor for name, tensor in tiny_encoder.tensors.items()}
    command = ["convert", str(save(tensors, config_folder / "a.safetensors")), str(config_folder / "out")]
    told = refused(capsys, 1, *command)
    assert "expected tensors of one dtype" in told
    assert main([*command, *commands(told)[0][1:]]) == 0
    assert RobustEncoder.from_pretrained(command[2]).dtype == torch.float16


def test_weights_beyond_a_dtype(
    tiny_encoder: RobustEncoder, config_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {**tiny_encoder.tensors}
    name = next(name for name in tensors if "q_proj.weight" in name)
    tensors[name] = tensors[name] + 1e6
    command = ["convert", str(save(tensors, config_folder / "a.safetensors")), str(config_folder / "out"), "--force"]
    told = refused(capsys, 1, *command, "--dtype", "float16")
    for dtype in ("float32", "bfloat16"):
        assert dtype in told.partition("choose --dtype ")[2]
        assert main([*command, "--dtype", dtype]) == 0


def test_erasers_of_another_base(
    tiny_pipe: Any, base: Path, make_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "release"
    place.mkdir()
    entries: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in eraser_tensors(tiny_pipe).items():
        path, part = name.split(".transformer_blocks")[0], ".".join(name.split(".")[-2:])
        entries.setdefault(path, {})[part] = tensor
    torch.save(entries, place / "eraser_weights.pt")
    (place / "eraser_config.json").write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": 4}))
    wide = make_pipe()
    config = {name: value for name, value in wide.unet.config.items() if not name.startswith("_")}
    wide.unet = type(wide.unet)(**{**config, "transformer_layers_per_block": 2})
    wide.save_pretrained(tmp_path / "wide")
    command = ["convert", str(place), str(tmp_path / "out"), "--method", "receler", "--base"]
    told = refused(capsys, 1, *command, str(tmp_path / "wide"))
    assert "pass the pipeline that the eraser was trained on as --base" in told
    assert main([*command, str(base)]) == 0
