"""Changed UNets that others published become artifacts: four layouts, written here as their authors write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from diffusers import StableDiffusionPipeline
from overlays import drawn
from safetensors.torch import load_file, save_file
from torch import Tensor

from robust_encoders import IntegrityError, Overlay, RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.conversion.convert import Origin
from robust_encoders.conversion.unet_release import find_unet_release, unet_artifact

PROMPT = "a red circle"
STATED = ("--concept", "circle", "--kind", "object", "--license", "mit", "--publisher", "org/name")
BLOCK = "mid_block.attentions.0"


def changed(unet: Any, wanted: Callable[[str], bool], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: (value + 0.3 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in unet.state_dict().items()
        if wanted(name)
    }


def esd(unet: Any, folder: Path) -> Path:
    """The tensors of esd-x in half precision, without metadata: ``esd_diffusers.py`` of rohitgandikota/erasing."""
    path = folder / "esd-circle-from-circle-esdx.safetensors"
    save_file(changed(unet, lambda name: "attn2" in name, torch.bfloat16), path)
    return path


def uce(unet: Any, folder: Path) -> Path:
    """K and V of every cross-attention: ``trained_scripts/uce_sd_erase.py`` of unified-concept-editing."""
    path = folder / "uce_circle.safetensors"
    save_file(changed(unet, lambda name: name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))), path)
    return path


def receler(unet: Any, folder: Path, rank: int = 8) -> Path:
    """One entry for each ``Transformer2DModel``: ``save_eraser`` of Receler."""
    place, generator = folder / "receler-circle", torch.Generator().manual_seed(3)
    place.mkdir()
    entries = {}
    for name, module in unet.named_modules():
        if type(module).__name__ == "BasicTransformerBlock":
            width = module.attn2.to_q.weight.shape[1]
            entries[".".join(name.split(".")[: name.split(".").index("attentions") + 2])] = {
                "down.weight": torch.randn(rank, width, generator=generator),
                "down.bias": torch.randn(rank, generator=generator),
                "up.weight": torch.randn(width, rank, generator=generator),
                "up.bias": torch.randn(width, generator=generator),
            }
    torch.save(entries, place / "eraser_weights.pt")
    (place / "eraser_config.json").write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": rank}))
    return place


def ablation(unet: Any, folder: Path, **others: Any) -> Path:
    """``delta.bin`` of nupurkmr9/concept-ablation, also DoCo's."""
    path = folder / "delta.bin"
    chosen = changed(unet, lambda name: "attn2.to_k" in name or "attn2.to_v" in name)
    torch.save({"unet": chosen, **others}, path)
    return path


@pytest.fixture
def base(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def run(source: Path, out: Path, base: Path, *more: str) -> int:
    return main(["convert", str(source), str(out), "--base", str(base), *STATED, *more])


@pytest.mark.parametrize("layout", [esd, uce, ablation])
def test_parameters_of_a_unet_become_a_delta(
    tiny_pipe: Any, tmp_path: Path, base: Path, layout: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = layout(tiny_pipe.unet, tmp_path)
    assert run(source, tmp_path / "out", base, "--method", "uce", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["form"], told["component"], told["method"]["name"]) == ("delta", "unet", "uce")
    assert (told["concept"]["name"], told["license"]) == ("circle", "mit")
    assert (told["recipe"]["source"]["file"], told["recipe"]["source"]["publisher"]) == (source.name, "org/name")
    assert None not in (told["base"]["unet"], told["base"]["text_encoder"], told["base"]["tokenizer"])
    raw = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=True)["unet"]
    written = load_file(tmp_path / "out" / "delta.safetensors")
    assert written.keys() == raw.keys()
    assert all(torch.equal(value, raw[name]) for name, value in written.items())
    by_hand = type(tiny_pipe).from_pretrained(base, safety_checker=None)
    by_hand.set_progress_bar_config(disable=True)
    by_hand.unet.load_state_dict({**by_hand.unet.state_dict(), **raw})
    with RobustEncoder.from_pretrained(tmp_path / "out").attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), drawn(by_hand, PROMPT))


def test_a_file_that_does_not_name_its_method_is_not_given_one(
    tiny_pipe: Any, tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert run(uce(tiny_pipe.unet, tmp_path), tmp_path / "out", base) == 0
    assert "UCE, ESD-x-strict and Ablating Concepts write such files; state it by --method NAME" in caplog.text
    assert RobustEncoder.from_pretrained(tmp_path / "out").manifest.method == {"name": "not stated"}


@pytest.mark.parametrize("named", ["", "eraser_weights.pt"])
def test_a_folder_of_receler_becomes_an_eraser(
    tiny_pipe: Any, tmp_path: Path, base: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = receler(tiny_pipe.unet, tmp_path)
    assert run(source / named, tmp_path / "out", base) == 0
    assert "eraser_weights.pt (Receler)" in capsys.readouterr().out
    overlay = RobustEncoder.from_pretrained(tmp_path / "out")
    assert isinstance(overlay, Overlay)
    assert (overlay.manifest.form, overlay.manifest.method["name"], overlay.config) == (
        "eraser",
        "receler",
        {"rank": 8},
    )
    theirs = torch.load(source / "eraser_weights.pt", weights_only=True)
    assert len(overlay.tensors) == 4 * len(theirs) == 16
    for block, tensors in theirs.items():
        for name, value in tensors.items():
            assert torch.equal(overlay.tensors[f"{block}.transformer_blocks.0.attn2.{name}"], value)
    plain = drawn(tiny_pipe, PROMPT)
    with overlay.attached(tiny_pipe):
        assert not torch.equal(drawn(tiny_pipe, PROMPT), plain)


def test_a_release_of_receler_that_does_not_fit_together_is_refused(
    tiny_pipe: Any, tmp_path: Path, make_pipe: Callable[..., Any]
) -> None:
    source = receler(tiny_pipe.unet, tmp_path)
    weights, config = source / "eraser_weights.pt", source / "eraser_config.json"

    def convert() -> object:
        found = find_unet_release(source)
        assert found is not None
        return unet_artifact(found, tiny_pipe)

    config.write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": 128}))
    with pytest.raises(IntegrityError, match=r"'eraser_rank': 8.*found .*'eraser_rank': 128"):
        convert()
    config.write_text(json.dumps({"eraser_type": "lora", "eraser_rank": 8}))
    with pytest.raises(IntegrityError, match="lora"):
        convert()
    config.write_text("[1]")
    with pytest.raises(IntegrityError, match=r"found \[1\]"):
        convert()
    config.write_text("{")
    with pytest.raises(IntegrityError, match="expected JSON in"):
        convert()
    config.unlink()  # the tensors say all of it
    convert()
    entries = torch.load(weights, weights_only=True)
    torch.save({**entries, "mid_block.attentions.4": entries[BLOCK]}, weights)
    with pytest.raises(IntegrityError, match=r"'mid_block.attentions.4' with 0 cross-attentions in the UNet.*--base"):
        convert()
    torch.save({**entries, BLOCK: {**entries[BLOCK], "extra": torch.ones(1)}}, weights)
    with pytest.raises(IntegrityError, match="extra, which names no part"):
        convert()
    torch.save({**entries, BLOCK: {**entries[BLOCK], "up.bias": "text"}}, weights)
    with pytest.raises(IntegrityError, match=r"found 1 others: 'up.bias': a str"):
        convert()
    torch.save({**entries, BLOCK: torch.ones(2)}, weights)
    with pytest.raises(IntegrityError, match="found a Tensor"):
        convert()


def test_a_unet_and_a_text_encoder_in_one_file_become_two_artifacts(
    tiny_pipe: Any, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {name: value + 0.1 for name, value in tiny_pipe.text_encoder.state_dict().items()}
    source = ablation(tiny_pipe.unet, tmp_path, text_encoder=text)
    assert run(source, tmp_path / "none", base) == 2
    assert "--component unet and --component text_encoder" in capsys.readouterr().err
    assert run(source, tmp_path / "delta", base, "--component", "unet") == 0
    config = ["--config", str(base / "text_encoder" / "config.json")]
    assert run(source, tmp_path / "weights", base, "--component", "text_encoder", *config) == 0
    encoder, delta = (RobustEncoder.from_pretrained(tmp_path / name) for name in ("weights", "delta"))
    assert isinstance(encoder, RobustEncoder)
    found = {name.removeprefix("text_model."): value for name, value in encoder.tensors.items()}
    wanted = {name.removeprefix("text_model."): value for name, value in text.items()}
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert delta.manifest.form == "delta"


def test_other_parts_are_named(tiny_pipe: Any, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ablation(tiny_pipe.unet, tmp_path, modifier_token={})
    assert run(source, tmp_path / "empty", base) == 0
    source = ablation(tiny_pipe.unet, tmp_path, modifier_token={"<new1>": torch.ones(16)})
    assert run(source, tmp_path / "out", base) == 1
    assert "found modifier_token, too" in capsys.readouterr().err
    source = ablation(tiny_pipe.unet, tmp_path)
    assert run(source, tmp_path / "out", base, "--component", "text_encoder") == 1
    assert "expected an entry 'text_encoder' with a state dict" in capsys.readouterr().err
    mixed = tmp_path / "mixed.safetensors"
    save_file({**changed(tiny_pipe.unet, lambda n: "attn2" in n), "text_model.final_layer_norm.bias": torch.ones(16)},
              mixed)  # fmt: skip
    assert run(mixed, tmp_path / "out", base) == 1
    assert "found those of a UNet and of a text encoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", [esd, uce, ablation, receler])
def test_the_base_is_needed_and_has_to_fit(
    make_pipe: Callable[..., Any],
    tiny_pipe: Any,
    tmp_path: Path,
    base: Path,
    layout: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = layout(tiny_pipe.unet, tmp_path)
    assert main(["convert", str(source), str(tmp_path / "out"), *STATED]) == 2
    assert "expected --base PIPELINE_FOLDER" in capsys.readouterr().err
    if layout is receler:
        other = make_pipe()
        other.unet = full_size.filled(full_size.unet_of(full_size.SIZES["small"]), torch.float32)
    else:
        other = make_pipe(width=32)
    other.save_pretrained(tmp_path / "other")
    assert run(source, tmp_path / "out", tmp_path / "other") == 1
    assert "problem(s)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_is_no_changed_unet(
    tiny_pipe: Any, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = base / "text_encoder" / "model.safetensors"
    assert find_unet_release(source) is None
    assert run(source, tmp_path / "out", base, "--component", "unet") == 2
    assert "expected a changed UNet" in capsys.readouterr().err
    assert run(source, tmp_path / "out", base) == 0
    assert RobustEncoder.from_pretrained(tmp_path / "out").manifest.form == "weights"
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    assert find_unet_release(tmp_path / "odd.safetensors") is None
    torch.save([1, 2], tmp_path / "list.pt")
    assert find_unet_release(tmp_path / "list.pt") is None


class Hostile:
    """Would make a file if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["delta.bin", "eraser_weights.pt"])
def test_a_pickle_that_would_run_code_is_refused_before_it_does(
    tmp_path: Path, base: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"unet": {"conv_in.bias": torch.ones(8)}, BLOCK: Hostile(tmp_path / "ran")}, tmp_path / name)
    assert run(tmp_path / name, tmp_path / "out", base) == 1
    assert "refused, and nothing in it was run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_values_that_are_none_are_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    nan = changed(tiny_pipe.unet, lambda name: name == "conv_in.bias")
    save_file({"conv_in.bias": nan["conv_in.bias"] * float("nan")}, tmp_path / "nan.safetensors")
    found = find_unet_release(tmp_path / "nan.safetensors")
    assert found is not None
    with pytest.raises(IntegrityError, match=r"conv_in\.bias with NaN"):
        unet_artifact(found, tiny_pipe)


def test_tensors_that_share_memory_are_written_apart(tiny_pipe: Any, tmp_path: Path) -> None:
    one = torch.arange(16.0)
    torch.save({"unet": {"conv_in.bias": one[:8], "conv_norm_out.bias": one[8:], "conv_norm_out.weight": one[8:]}},
               tmp_path / "delta.bin")  # fmt: skip
    found = find_unet_release(tmp_path / "delta.bin")
    assert found is not None
    made = unet_artifact(found, tiny_pipe, origin=Origin(method="ablation", family="tiny"))
    Overlay(made.manifest, made.tensors, made.config).save_pretrained(tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "delta.safetensors")["conv_norm_out.bias"], one[8:])


@pytest.mark.slow
@pytest.mark.parametrize("layout", [esd, uce, ablation, receler])
def test_the_size_of_stable_diffusion(tmp_path: Path, layout: Callable[..., Path]) -> None:
    """SD 1.4 with random weights: 16 cross-attentions, 32 matrices of K and V, 3.2 M values in modules of rank 128."""
    parts = full_size.base(full_size.SIZES["sd1"], tmp_path)
    none = {"vae": None, "safety_checker": None, "feature_extractor": None}
    pipe: Any = StableDiffusionPipeline(**vars(parts), **none, requires_safety_checker=False)
    source = layout(pipe.unet, tmp_path, 128) if layout is receler else layout(pipe.unet, tmp_path)
    found = find_unet_release(source)
    assert found is not None
    made = unet_artifact(found, pipe)
    overlay = Overlay(made.manifest, made.tensors, made.config)
    assert overlay.manifest.base.family == "sd1"
    counts = {esd: 16 * 5, uce: 32, ablation: 32, receler: 64}
    assert len(overlay.tensors) == counts[layout]
    if layout is receler:
        assert sum(value.numel() for value in overlay.tensors.values()) == 3_209_408
    overlay.save_pretrained(tmp_path / "out")
    read = RobustEncoder.from_pretrained(tmp_path / "out")
    x, c = torch.randn(1, 4, 16, 16).to(torch.bfloat16), torch.randn(1, 77, 768).to(torch.bfloat16)
    with torch.no_grad():
        before = pipe.unet(x, 500, encoder_hidden_states=c).sample
        with read.attached(pipe):
            assert not torch.equal(pipe.unet(x, 500, encoder_hidden_states=c).sample, before)
        assert torch.equal(pipe.unet(x, 500, encoder_hidden_states=c).sample, before)
