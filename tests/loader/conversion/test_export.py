"""An export holds the artifact's numbers under the names that the application looks for, and the rest of the base."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused
from diffusers import StableDiffusionPipeline
from overlays import make_adapter, make_delta, make_eraser, make_projection
from safetensors import safe_open
from safetensors.torch import load_file
from several_encoders import encoder_for, sdxl
from single_files import (
    OPEN_CLIP,
    UNET,
    clip_tensors,
    open_clip_tensors,
    save_checkpoint,
    tensors_of,
    unet_name,
)
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from robust_encoders import RobustEncoder
from robust_encoders.artifact.adapter_file import read as read_adapter
from robust_encoders.artifact.reader import Artifact
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.conversion.copied_file import copied_file
from robust_encoders.conversion.export import export, name_of
from robust_encoders.conversion.export_words import TARGETS, Target
from robust_encoders.errors import CompatibilityWarning, IntegrityError, ManifestError
from robust_encoders.overlay import Overlay
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX

Make = Callable[..., Any]
SINGLE: tuple[Target, ...] = ("comfyui", "a1111", "sdcpp")


def artifact(loaded: Any) -> Artifact:
    return Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
        return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    wrong = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert wrong == []
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in expected.items()}


@pytest.fixture
def checkpoint(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A single file of SD 1 as a user has it."""
    tensors = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder))
    return save_checkpoint(tensors, tmp_path / "base.safetensors", title="mine")


@pytest.fixture
def folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def fused(pipe: Any, overlay: Overlay) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts of both components after the overlay was attached and fused by the loader."""
    overlay.attach(pipe, transport="paper")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompatibilityWarning)  # an adapter loses its gates
        overlay.fuse(pipe)
    return {"text": nested_state(pipe.text_encoder), "unet": dict(pipe.unet.state_dict())}


OVERLAYS: dict[str, Make] = {
    "projection": make_projection,
    "adapter": make_adapter,
    "adapter of both": partial(make_adapter, prefixes=(UNET_PREFIX, TEXT_PREFIX)),
    "delta": make_delta,
}


# ComfyUI: comfy/sd.py detects a text encoder by one tensor of its last layer and then loads plain transformers names.
def test_comfyui_gets_a_text_encoder_with_plain_names(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    made = export(artifact(tiny_encoder), "comfyui", tmp_path, name="circle")
    found = load_file(made.path)
    assert made.path == tmp_path / "circle.safetensors"
    assert "text_model.encoder.layers.0.mlp.fc1.weight" in found
    assert not any(name.startswith("transformer.resblocks.") for name in found)
    same(found, dict(tiny_encoder.tensors))


def test_the_second_encoder_of_sdxl_is_a_folder_for_diffusers_and_refused_elsewhere(
    tiny_pipe: Any, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    encoder = artifact(encoder_for(sdxl(tiny_pipe)))
    made = export(encoder, "diffusers", tmp_path / "out", name="circle")
    assert made.path == tmp_path / "out" / "text_encoder_2"
    same(load_file(made.path / "model.safetensors"), encoder.tensors)
    kind: Any = CLIPTextModelWithProjection
    assert kind.from_pretrained(made.path).config.robust_encoders["concept"] == "circle"
    assert "CLIPTextModelWithProjection of transformers, and pass it to the pipeline as text_encoder_2" in made.place
    assert "the concept stays reachable through the other one" in made.notes[-1]
    for to in TARGETS:
        base = folder if to in ("diffusers", "invokeai") else checkpoint
        for into in (base, None):
            if into is not None or to != "diffusers":
                with pytest.raises(ManifestError, match="found the second one of SDXL; attach it with this package"):
                    export(encoder, to, tmp_path / to, name="circle", into=into)
        assert not (tmp_path / to).exists()


def test_a_checkpoint_gets_the_encoder_and_keeps_the_rest(
    tiny_encoder: RobustEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    expected = {**load_file(checkpoint), **clip_tensors(dict(tiny_encoder.tensors))}
    for to in SINGLE:
        made = export(artifact(tiny_encoder), to, tmp_path / to, name="circle", into=checkpoint)
        same(load_file(made.path), expected)
        facts = metadata(made.path)
        assert facts["title"] == "mine"
        assert json.loads(facts["robust_encoders"])["concept"] == "circle"
        assert unchanged(made.path)


def unchanged(path: Path) -> bool:
    found = copied_file(path)
    assert found is not None
    return found.unchanged


def test_an_old_checkpoint_keeps_its_flat_names(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    def old(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("transformer.text_model.", "transformer."): one for name, one in tensors.items()}

    base = old(tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder)))
    path = save_checkpoint(base, tmp_path / "old.safetensors")
    made = export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="circle", into=path)
    same(load_file(made.path), {**base, **old(clip_tensors(dict(tiny_encoder.tensors)))})


def test_sd2_is_packed_and_keeps_the_last_layer(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    base = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder), sd2=True)
    path = save_checkpoint(base, tmp_path / "sd2.safetensors")
    made = export(artifact(tiny_encoder), "sdcpp", tmp_path / "out", name="circle", into=path)
    found = load_file(made.path)
    same(found, {**base, **open_clip_tensors(dict(tiny_encoder.tensors))})
    packed = f"{OPEN_CLIP}transformer.resblocks.0.attn.in_proj_weight"
    width = tiny_encoder.config["hidden_size"]
    query = tiny_encoder.tensors["text_model.encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(found[packed][:width], query)
    kept = [name for name in base if "resblocks.2." in name]
    assert kept
    assert all(torch.equal(found[name], base[name]) for name in kept)
    assert unchanged(made.path)


@pytest.mark.parametrize(
    ("form", "sd2"),
    [("projection", False), ("adapter", False), ("adapter of both", True), ("delta", False), ("projection", True)],
)
def test_an_overlay_is_fused_into_a_checkpoint_as_the_loader_fuses_it(
    form: str, sd2: bool, tiny_pipe: Any, tmp_path: Path
) -> None:
    state = nested_state(tiny_pipe.text_encoder)
    base = tensors_of(tiny_pipe, state, sd2=sd2)
    path = save_checkpoint(base, tmp_path / "base.safetensors")
    overlay = OVERLAYS[form](tiny_pipe)
    made = export(artifact(overlay), "a1111", tmp_path / "out", name="circle", into=path)
    expected = fused(tiny_pipe, overlay)
    text = open_clip_tensors(expected["text"]) if sd2 else clip_tensors(expected["text"])
    unet = {unet_name(name, tiny_pipe.unet): tensor for name, tensor in expected["unet"].items()}
    found = load_file(made.path)
    same(found, {**base, **text, **unet})
    assert any(not torch.equal(found[name], base[name]) for name in unet)
    assert any(not torch.equal(found[name], base[name]) for name in text) == (form == "adapter of both")


def test_an_averaged_unet_does_not_bring_the_concept_back(tiny_pipe: Any, tmp_path: Path) -> None:
    base = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder))
    averaged = {"model_ema." + name.removeprefix("model.").replace(".", ""): one for name, one in base.items()
                if name.startswith(UNET)}  # fmt: skip
    path = save_checkpoint({**base, **averaged}, tmp_path / "base.safetensors")
    made = export(artifact(make_delta(tiny_pipe)), "a1111", tmp_path / "out", name="circle", into=path)
    assert load_file(made.path).keys() == base.keys()


def test_a_pipeline_gets_the_encoder_and_keeps_the_rest(
    tiny_encoder: RobustEncoder, folder: Path, tmp_path: Path
) -> None:
    torch.save({}, folder / "text_encoder" / "pytorch_model.bin")
    (folder / ".cache").mkdir()
    made = export(artifact(tiny_encoder), "invokeai", tmp_path / "out", name="circle", into=folder)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    written = {str(path.relative_to(made.path)) for path in made.path.rglob("*") if path.is_file()}
    assert written == files - {"text_encoder/pytorch_model.bin"}
    changed = {"text_encoder/model.safetensors", "text_encoder/config.json"}
    assert all((made.path / name).read_bytes() == (folder / name).read_bytes() for name in written - changed)
    pipe: Any = StableDiffusionPipeline.from_pretrained(made.path, safety_checker=None)
    same(nested_state(pipe.text_encoder), dict(tiny_encoder.tensors))
    assert pipe.text_encoder.config.robust_encoders["concept"] == "circle"


@pytest.mark.parametrize("form", ["projection", "adapter of both", "delta"])
def test_an_overlay_is_fused_into_a_pipeline_as_the_loader_fuses_it(
    form: str, tiny_pipe: Any, folder: Path, tmp_path: Path
) -> None:
    overlay = OVERLAYS[form](tiny_pipe)
    made = export(artifact(overlay), "invokeai", tmp_path / "out", name="circle", into=folder)
    expected = fused(tiny_pipe, overlay)
    pipe: Any = StableDiffusionPipeline.from_pretrained(made.path, safety_checker=None)
    same(nested_state(pipe.text_encoder), expected["text"])
    same(dict(pipe.unet.state_dict()), expected["unet"])
    unet = made.path / "unet" / "diffusion_pytorch_model.safetensors"
    assert json.loads(metadata(unet)["robust_encoders"])["form"] == overlay.manifest.form


def test_a_pipeline_of_two_precisions_has_the_encoder_in_both(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, folder: Path, tmp_path: Path
) -> None:
    tiny_pipe.to(torch.float16).save_pretrained(folder, variant="fp16")
    made = export(artifact(tiny_encoder), "diffusers", tmp_path / "out", name="circle", into=folder)
    same(load_file(made.path / "text_encoder" / "model.safetensors"), dict(tiny_encoder.tensors))
    half = {name: tensor.half() for name, tensor in tiny_encoder.tensors.items()}
    same(load_file(made.path / "text_encoder" / "model.fp16.safetensors"), half)


def test_diffusers_gets_a_text_encoder_without_a_base(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    made = export(artifact(tiny_encoder), "diffusers", tmp_path, name="circle", dtype=torch.float16)
    assert made.path == tmp_path / "text_encoder"
    model: Any = CLIPTextModel.from_pretrained(made.path)
    half = {name: tensor.half() for name, tensor in tiny_encoder.tensors.items()}
    same(load_file(made.path / "model.safetensors"), half)
    same({name: one.half() for name, one in nested_state(model).items()}, half)
    assert any("rounded to float16" in one for one in made.lost)


def test_diffusers_gets_a_delta_in_the_format_of_esd(tiny_pipe: Any, tmp_path: Path) -> None:
    delta = make_delta(tiny_pipe)
    made = export(artifact(delta), "diffusers", tmp_path, name="circle")
    same(load_file(made.path), dict(delta.tensors))
    assert main(["info", str(made.path)]) == 0


# open_clip/model.py: the text tower has token_embedding, positional_embedding, transformer.resblocks, ln_final.
def test_openclip_gets_its_own_names(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    made = export(artifact(tiny_encoder), "openclip", tmp_path, name="circle")
    same(load_file(made.path), open_clip_tensors(dict(tiny_encoder.tensors), prefix=""))


def test_an_adapter_without_a_base_is_a_lora(tiny_pipe: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_pipe, prefixes=(UNET_PREFIX, TEXT_PREFIX))
    # The names of kohya's scripts, which all of these applications read.
    layer = r"unet_(down|mid|up)_block\w*|te_text_model_encoder_layers_\d+_\w+"
    kohya = re.compile(rf"lora_({layer})\.(lora_(down|up)\.weight|alpha)")
    for to in (one for one in TARGETS if one != "openclip"):
        made = export(artifact(adapter), to, tmp_path / to, name="circle")
        found = load_file(made.path)
        same(found, dict(adapter.tensors))
        assert all(kohya.fullmatch(name) for name in found)
        assert read_adapter(made.path).prompts == tuple(adapter.config["prompts"])
        assert any("gates" in one for one in made.lost)


def test_a_lora_is_the_fused_adapter_in_diffusers(tiny_pipe: Any, make_pipe: Make, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_pipe)
    made = export(artifact(adapter), "diffusers", tmp_path, name="circle")
    other = make_pipe()
    other.load_lora_weights(made.path)
    other.fuse_lora()
    other.unload_lora_weights()
    expected = fused(tiny_pipe, adapter)["unet"]
    found = other.unet.state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize("to", ["a1111", "diffusers"])
def test_all_weights_are_cast_and_the_schedule_is_not(
    to: Any, tiny_encoder: RobustEncoder, checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    into = checkpoint if to == "a1111" else folder
    made = export(artifact(tiny_encoder), to, tmp_path / "out", name="circle", into=into, dtype=torch.bfloat16)
    file = made.path if to == "a1111" else made.path / "text_encoder" / "model.safetensors"
    found = load_file(file)
    names = clip_tensors(dict(tiny_encoder.tensors)) if to == "a1111" else dict(tiny_encoder.tensors)
    for name, tensor in names.items():
        assert torch.equal(found[name], tensor.bfloat16() if tensor.is_floating_point() else tensor)
    if to == "a1111":
        assert found["alphas_cumprod"].dtype == torch.float32
        assert {one.dtype for name, one in found.items() if name.startswith(UNET)} == {torch.bfloat16}
    assert not unchanged(file)


def test_a_half_precision_base_stays_one(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    base = {n: t.half() if t.is_floating_point() else t
            for n, t in tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder)).items()}  # fmt: skip
    path = save_checkpoint(base, tmp_path / "base.safetensors")
    made = export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="circle", into=path)
    text = {n: t.half() if t.is_floating_point() else t for n, t in clip_tensors(dict(tiny_encoder.tensors)).items()}
    same(load_file(made.path), {**base, **text})


def test_a_second_export_goes_into_the_first(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    first = export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="one", into=checkpoint)
    delta = make_delta(tiny_pipe)
    second = export(artifact(delta), "a1111", tmp_path / "out", name="two", into=first.path)
    found, facts = load_file(second.path), metadata(second.path)
    text = {name: tensor for name, tensor in clip_tensors(dict(tiny_encoder.tensors)).items() if name in found}
    same({name: found[name] for name in text}, text)
    assert json.loads(facts["robust_encoders_1"])["form"] == "weights"
    assert json.loads(facts["robust_encoders"])["form"] == "delta"
    assert any("text encoder there differs" in one for one in second.notes)
    assert not any("differs" in one for one in first.notes)


def test_the_unet_of_another_base_is_said_to_differ(tiny_pipe: Any, make_pipe: Make, tmp_path: Path) -> None:
    other = make_pipe(seed=5)
    path = save_checkpoint(tensors_of(other, nested_state(other.text_encoder)), tmp_path / "base.safetensors")
    made = export(artifact(make_projection(tiny_pipe)), "comfyui", tmp_path / "out", name="circle", into=path)
    assert any("the UNet there differs by" in one for one in made.notes)


def test_a_configuration_beside_the_checkpoint_is_named(
    tiny_encoder: RobustEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint.with_suffix(".yaml").write_text("model: {}")
    made = export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="circle", into=checkpoint)
    assert any(f"copy it to {tmp_path / 'out' / 'circle.yaml'}" in one for one in made.notes)


def test_a_pickle_is_no_base(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "base.ckpt")
    with pytest.raises(IntegrityError, match=r"found \.ckpt, a pickle"):
        export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="circle", into=tmp_path / "base.ckpt")


def test_an_eraser_is_refused_everywhere(tiny_pipe: Any, tmp_path: Path) -> None:
    for to in ("comfyui", "a1111", "invokeai", "sdcpp", "diffusers", "openclip"):
        with pytest.raises(ManifestError, match="found an eraser: its modules"):
            export(artifact(make_eraser(tiny_pipe)), to, tmp_path, name="circle")
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_base_of_another_size_is_refused(
    tiny_encoder: RobustEncoder, tiny_pipe: Any, make_pipe: Make, tmp_path: Path
) -> None:
    other = make_pipe(width=24, layers=3)
    path = save_checkpoint(tensors_of(other, nested_state(other.text_encoder)), tmp_path / "base.safetensors")
    other.save_pretrained(tmp_path / "base")
    for one in (tiny_encoder, make_projection(tiny_pipe), make_adapter(tiny_pipe), make_delta(tiny_pipe)):
        for to, into in (("a1111", path), ("invokeai", tmp_path / "base")):
            with pytest.raises(IntegrityError, match=r"expected the (layers|text encoder) of a base of family 'tiny'"):
                export(artifact(one), to, tmp_path / "out", name="circle", into=into)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_textless_file_and_sdxl_are_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    base = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder))
    without = {name: one for name, one in base.items() if not name.startswith("cond_stage_model.")}
    sdxl = {name.replace("cond_stage_model.", "conditioner.embedders.0."): one for name, one in base.items()}
    sdxl |= open_clip_tensors(nested_state(tiny_pipe.text_encoder), prefix="conditioner.embedders.1.model.")
    for tensors, what in (
        (without, "a UNet"),
        (sdxl, "single file of SDXL, CLIP-L and single file of SDXL, OpenCLIP-G"),
    ):
        path = save_checkpoint(tensors, tmp_path / "base.safetensors")
        with pytest.raises(IntegrityError, match=f"expected a single-file checkpoint of .* found {what}; pass"):
            export(artifact(tiny_encoder), "a1111", tmp_path / "out", name="circle", into=path)


def test_a_quantised_checkpoint_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    base = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder))
    base = {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 and t.is_floating_point() else t for n, t in base.items()}
    path = save_checkpoint(base, tmp_path / "base.safetensors")
    for one in (tiny_encoder, make_delta(tiny_pipe)):
        with pytest.raises(IntegrityError, match="a quantised checkpoint; pass the one that it was made from"):
            export(artifact(one), "a1111", tmp_path / "out", name="circle", into=path)


def test_a_pipeline_of_another_kind_is_refused(
    tiny_encoder: RobustEncoder, tiny_pipe: Any, folder: Path, tmp_path: Path
) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for change, what in (({"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "text_encoder_2"),):
        (folder / "model_index.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(IntegrityError, match=f"found one with {what}"):
            export(artifact(tiny_encoder), "invokeai", tmp_path / "out", name="circle", into=folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(IntegrityError, match=r"cannot read its model_index\.json"):
        export(artifact(tiny_encoder), "invokeai", tmp_path / "out", name="circle", into=folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    for path in folder.glob("unet/*.safetensors"):
        path.unlink()
    with pytest.raises(IntegrityError, match="expected weights as safetensors in"):
        export(artifact(make_delta(tiny_pipe)), "invokeai", tmp_path / "out", name="circle", into=folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("shapes/circle", "shapes-circle"), ("org/na me", "org-na-me"), ("v1.0", "v1.0"), ("..", "encoder")],
)
def test_names_of_exports(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/" if name == ".." else tmp_path)
    assert name_of(name) == expected
    assert name_of(str(tmp_path)) == tmp_path.name


def test_the_command_says_what_it_wrote_and_what_is_lost(
    tiny_encoder: RobustEncoder, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "circle")
    command = ["export", str(tmp_path / "circle"), "--to", "a1111", "--out", str(tmp_path / "out")]
    assert main([*command, "--into", str(checkpoint), "--dtype", "fp16"]) == 0
    told = capsys.readouterr().out
    place = tmp_path / "out" / "circle.safetensors"
    assert f"wrote    a whole checkpoint for A1111: {place}" in told
    assert "put it   models/Stable-diffusion" in told
    assert "names this file as Model" in told
    assert "lost     the checks before attaching and the hash" in told
    assert "width 16 and 2 layers" in told
    assert main([*command, "--into", str(checkpoint), "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["path"], answer["kind"], answer["app"]) == (str(place), "checkpoint", "A1111")
    assert main(["info", str(place)]) == 0
    assert "for A1111, merged into base.safetensors" in capsys.readouterr().out


def test_a_base_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("export", "shapes/circle", "--to", "a1111", "--out", str(tmp_path), "--into", str(tmp_path / "no"))
    assert "found nothing at" in refused(capsys, 2, *command)
