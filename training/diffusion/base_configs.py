"""The configurations of a base, read without its weights: in a folder, on the Hub, or of a pipeline in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_encoders.hub.base_files import INDEX_NAME
from robust_encoders.hub.connection import unreachable
from robust_encoders.hub.pipelines import HUB_NAME
from robust_encoders.utils.home import expanded

Config = Mapping[str, Any]
_WITH_CONFIG = ("unet", "text_encoder", "text_encoder_2", "vae", "scheduler")


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
        wanted = [part for part in _WITH_CONFIG if part in index and part not in without]
        names = {"scheduler": "scheduler_config.json"}
        parts = {part: config(f"{part}/{names.get(part, 'config.json')}") for part in wanted}
        return cls(index, {part: one for part, one in parts.items() if one})

    @classmethod
    def of_pipeline(cls, pipe: Any) -> BaseConfigs:
        """Return the configurations of a pipeline in memory."""
        components: Config = getattr(pipe, "components", {})
        index = {name: list(_class_of(part)) for name, part in components.items()}
        parts = {}
        for name in _WITH_CONFIG:
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
    folder = expanded(name)
    if folder.exists():
        return BaseConfigs.of_folder(folder)
    found = None if isinstance(name, Path) else HUB_NAME.fullmatch(name)
    return (
        None
        if found is None
        else BaseConfigs.of_hub(found["repo"], found["revision"], without=() if draws else ("vae",))
    )


def _class_of(part: Any) -> tuple[str | None, str | None]:
    if part is None:
        return None, None
    return type(part).__module__.partition(".")[0], type(part).__name__
