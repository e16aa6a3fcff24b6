"""Exports are read back by diffusers' reader of single files, on tiny checkpoints and on one of full size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from overlays import make_delta, make_projection
from random_encoders import CLIP_L, saved
from safetensors.torch import load_file
from single_files import save_checkpoint, tensors_of, unet_name
from tiny_models import make_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from robust_encoders import RobustEncoder
from robust_encoders.artifact.reader import Artifact
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.conversion.export import export


def artifact(loaded: Any) -> Artifact:
    return Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)


def from_single_file(path: Path, config: Path, **options: Any) -> Any:
    return StableDiffusionPipeline.from_single_file(
        str(path), config=str(config), local_files_only=True, safety_checker=None, **options
    )


@pytest.mark.parametrize("sd2", [False, True], ids=["SD 1", "SD 2"])
def test_diffusers_reads_an_exported_checkpoint(
    sd2: bool, tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "config")
    base = tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder), sd2=sd2)
    path = save_checkpoint(base, tmp_path / "base.safetensors")
    first = export(artifact(tiny_encoder), "comfyui", tmp_path, name="one", into=path)
    delta = make_delta(tiny_pipe)
    second = export(artifact(delta), "comfyui", tmp_path, name="two", into=first.path)
    found = from_single_file(second.path, tmp_path / "config")
    text = nested_state(found.text_encoder)
    assert all(torch.equal(text[name], tensor) for name, tensor in tiny_encoder.tensors.items())
    expected = {**tiny_pipe.unet.state_dict(), **delta.tensors}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.unet.state_dict().items())
    vae = tiny_pipe.vae.state_dict()
    assert all(torch.equal(tensor, vae[name]) for name, tensor in found.vae.state_dict().items())


def full_size(folder: Path) -> Any:
    """Return a pipeline of the sizes of SD 1.x with random weights in half precision."""
    channels = (320, 640, 1280, 1280)
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        text = CLIPTextModel(CLIPTextConfig(**CLIP_L))
    return StableDiffusionPipeline(
        vae=filled(vae), text_encoder=filled(text), tokenizer=make_tokenizer(folder, max_length=77),
        unet=filled(unet), scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def filled(module: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    module = module.to(torch.float16).to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.05, 0.05, generator=generator)
        for name, buffer in module.named_buffers():
            assert name.endswith("position_ids"), name
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module


@pytest.mark.slow
def test_a_full_size_checkpoint_is_streamed_and_read_by_diffusers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = full_size(tmp_path / "tokenizer")
    path = save_checkpoint(tensors_of(pipe, nested_state(pipe.text_encoder)), tmp_path / "base.safetensors")
    config = tmp_path / "config"
    pipe.save_config(config)
    pipe.unet.save_config(config / "unet")
    pipe.vae.save_config(config / "vae")
    pipe.text_encoder.config.save_pretrained(config / "text_encoder")
    pipe.tokenizer.save_pretrained(config / "tokenizer")
    pipe.scheduler.save_pretrained(config / "scheduler")
    encoder = saved(tmp_path / "encoder", CLIP_L)
    projection = make_projection(pipe)
    projection.save_pretrained(tmp_path / "projection")
    first, one = exported(encoder, path, tmp_path / "one")
    second, two = exported(tmp_path / "projection", first, tmp_path / "two")
    peak = max(one, two)
    size = path.stat().st_size
    with capsys.disabled():
        sys.stdout.write(f"\ncheckpoint {size / 1e9:.2f} GB, peak of the export {peak / 1e9:.2f} GB\n")
    assert peak < 0.9 * size
    changed = load_file(second)
    found = from_single_file(second, config, torch_dtype=torch.float16)
    text = nested_state(found.text_encoder)
    expected = RobustEncoder.from_pretrained(encoder).tensors
    assert all(torch.equal(text[name], tensor.half()) for name, tensor in expected.items())
    projection.attach(pipe)
    projection.fuse(pipe)
    fused = pipe.unet.state_dict()
    assert all(torch.equal(tensor, fused[name]) for name, tensor in found.unet.state_dict().items())
    assert all(torch.equal(changed[unet_name(name, pipe.unet)], tensor) for name, tensor in fused.items())
    vae = pipe.vae.state_dict()
    assert all(torch.equal(tensor, vae[name]) for name, tensor in found.vae.state_dict().items())


EXPORT = """
import re, sys
from pathlib import Path
from robust_encoders.cli.main import main
code = main(sys.argv[1:])
print(int(re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024)
raise SystemExit(code)
"""


def exported(source: Path, into: Path, out: Path) -> tuple[Path, int]:
    """Run the command in a process of its own; return the file and the process's peak of memory in bytes."""
    arguments = ["export", str(source), "--to", "a1111", "--out", str(out), "--into", str(into)]
    ran = subprocess.run([sys.executable, "-c", EXPORT, *arguments], check=True, capture_output=True, text=True)
    return out / f"{source.name}.safetensors", int(ran.stdout.split()[-1])
