"""The kind of a base is told by its configurations, before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import StableDiffusionImg2ImgPipeline, UNet2DConditionModel

from robust_encoders import BaseLoadError, embedded_pipeline
from robust_encoders.training.diffusion import load
from robust_encoders.training.diffusion.base_configs import BaseConfigs, configs_of
from robust_encoders.training.diffusion.base_kind import kind_problems
from robust_encoders.training.diffusion.load import open_base

UNET = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768, "sample_size": 64}
TEXT = {"hidden_size": 768}
INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "PNDMScheduler"],
}


def configs(index: dict[str, Any] | None = None, **parts: dict[str, Any]) -> BaseConfigs:
    """Return the configurations of a base, with changes."""
    default: dict[str, dict[str, Any]] = {"unet": UNET, "text_encoder": TEXT, "vae": {"latent_channels": 4}}
    changed = {name: {**default.get(name, {}), **parts.get(name, {})} for name in {*default, *parts}}
    return BaseConfigs({**INDEX, **(index or {})}, changed)


OTHERS = {
    "inpainting": (configs({"_class_name": "StableDiffusionInpaintPipeline"}, unet={"in_channels": 9}), "inpainting"),
    "depth": (configs(unet={"in_channels": 5}), "depth-to-image"),
    "InstructPix2Pix": (configs(unet={"in_channels": 8}), "InstructPix2Pix"),
    "upscaler": (configs(unet={"in_channels": 7}), "upscaler"),
    "something with more channels": (configs(unet={"in_channels": 12}), "12 channels and predicts 4"),
    "SDXL": (
        configs({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}),
        "StableDiffusionXLPipeline with text_encoder_2",
    ),
    "SDXL's refiner": (configs(unet={"addition_embed_type": "text_time"}), "sizes"),
    "unCLIP": (configs(unet={"class_embed_type": "projection"}), "class embedding"),
    "a noise level": (configs(unet={"num_class_embeds": 1000}), "noise level"),
    "SD 3": (configs({"transformer": ["diffusers", "SD3Transformer2DModel"], "unet": None}), "a transformer"),
    "image variations": (configs({"text_encoder": None, "tokenizer": None}), "without tokenizer, text_encoder"),
    "AltDiffusion": (
        configs({"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}), "RobertaSeries",
    ),
    "AnimateDiff": (configs({"unet": ["diffusers", "UNetMotionModel"]}), "UNetMotionModel"),
    "two widths": (configs(text_encoder={"hidden_size": 1024}), "width 1024"),
    "a model of samples": (configs(scheduler={"prediction_type": "sample"}), "'sample'"),
    "an autoencoder of 16 channels": (configs(vae={"latent_channels": 16}), "autoencoder of 16"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "said"), OTHERS.values(), ids=OTHERS.keys())
def test_other_kinds_are_refused_by_name_with_bases_that_fit(found: BaseConfigs, said: str) -> None:
    (problem,) = kind_problems(found)
    assert said in problem
    assert "CompVis/stable-diffusion-v1-4" in problem


def test_bases_of_sd_1_and_2_fit() -> None:
    for fit in (
        configs(),
        configs(unet={"cross_attention_dim": 1024}, text_encoder={"hidden_size": 1024}),
        configs(scheduler={"prediction_type": "v_prediction"}),
        configs({"vae": None, "safety_checker": [None, None]}, vae={}),
    ):
        assert kind_problems(fit) == []
    assert configs().latent_shape == (4, 64, 64)


def test_pictures_need_a_pipeline_that_draws_from_prompts() -> None:
    assert kind_problems(configs(), draws=True) == []
    img2img = configs({"_class_name": "StableDiffusionImg2ImgPipeline"})
    assert kind_problems(img2img) == []
    assert "StableDiffusionPipeline" in kind_problems(img2img, draws=True)[0]
    assert "vae" in kind_problems(configs({"vae": None}), draws=True)[0]
    assert kind_problems(configs({"_class_name": "ACustomPipeline"}), draws=True) == []


def test_pipelines_in_memory_are_told_apart_too(tiny_pipe: Any) -> None:
    assert kind_problems(BaseConfigs.of_pipeline(embedded_pipeline()), draws=True) == []
    assert kind_problems(BaseConfigs.of_pipeline(tiny_pipe), draws=True) == []
    other = StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False)
    assert "draws from a picture" in kind_problems(BaseConfigs.of_pipeline(other), draws=True)[0]
    plain = {name: value for name, value in tiny_pipe.unet.config.items() if not name.startswith("_")}
    tiny_pipe.unet = UNet2DConditionModel(**{**plain, "in_channels": 9})
    assert "inpainting" in kind_problems(BaseConfigs.of_pipeline(tiny_pipe))[0]
    assert kind_problems(BaseConfigs.of_pipeline(SimpleNamespace()), draws=True) == []


@pytest.fixture
def inpainting(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A folder with an inpainting base whose weights cannot be read."""
    folder = tmp_path / "inpainting"
    tiny_pipe.save_pretrained(folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"")
    return folder


def test_a_folder_is_refused_before_its_weights_are_read(inpainting: Path) -> None:
    with pytest.raises(BaseLoadError, match="an inpainting base: its UNet takes 9 channels"):
        open_base(inpainting, device="cpu")


def test_a_base_on_the_hub_is_refused_by_its_configurations(inpainting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(repo: str, name: str, **options: Any) -> str:
        fetched.append(name)
        return str(inpainting / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(load, "load_pipeline", lambda *args: pytest.fail("weights were loaded"))
    with pytest.raises(BaseLoadError, match="inpainting"):
        open_base("org/inpainting", device="cpu")
    assert all(name.endswith(".json") for name in fetched)


def test_what_cannot_be_read_is_left_to_the_loading(tmp_path: Path) -> None:
    assert configs_of(tmp_path) is None
    assert configs_of(tmp_path / "none") is None
    (tmp_path / "model_index.json").write_text("[")
    assert configs_of(tmp_path) is None


def test_kind_and_device_are_told_together(inpainting: Path) -> None:
    with pytest.raises(BaseLoadError, match=r"banana.*inpainting"):
        open_base(inpainting, device="banana")
