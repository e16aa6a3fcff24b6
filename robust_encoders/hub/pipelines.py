"""Loading of diffusers pipelines: the embedded base, a folder, or a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robust_encoders.errors import BaseLoadError
from robust_encoders.hub.client import asked
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.utils.devices import require_device
from robust_encoders.utils.home import expanded

INDEX_NAME = "model_index.json"
_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHED = re.compile(r"/models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})/?$")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Options for loading a pipeline.

    Args:
        dtype: Precision of all weights, or a mapping of component names to precisions, where ``default`` stands for
            the other components; None leaves the precision to diffusers.
        device: Device of the models; empty leaves them on the CPU.
        without: Names of components that are neither downloaded nor loaded; their slots stay empty.
        safetensors: Switch that refuses weights stored as pickles.
        local: Switch that accepts only a local folder.
    """

    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None
    device: str = ""
    without: tuple[str, ...] = ()
    safetensors: bool = False
    local: bool = False


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline and its origin.

    Args:
        pipe: The diffusers pipeline.
        ids: Hub ids of the pipeline; empty for the embedded base, and for a folder outside of the Hub's cache.
        revision: Commit of the first id; empty if unknown.
    """

    pipe: Any
    ids: tuple[str, ...] = ()
    revision: str = ""


def load_pipeline(name: str | Path | None, options: PipelineOptions | None = None) -> LoadedPipeline:
    """Load a diffusers pipeline.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub. None stands for
            the embedded base, which always has all its components; of the dtypes, only a single one applies to it.
        options: Precision, device and components of the pipeline.

    Raises:
        BaseLoadError: If the pipeline or the device does not exist, or diffusers cannot load the pipeline.
        AssetsMissingError: If the package was installed without the embedded base.
    """
    options = options or PipelineOptions()
    require_device(options.device)
    if name is None:
        single = options.dtype if isinstance(options.dtype, torch.dtype) else None
        return LoadedPipeline(_placed(embedded_pipeline(single), options.device))
    folder, ids, revision = _located(name, options)
    return LoadedPipeline(_placed(_loaded(folder, options), options.device), ids, revision)


def _located(name: str | Path, options: PipelineOptions) -> tuple[Path, tuple[str, ...], str]:
    """Return the folder of a pipeline (downloaded if necessary), its Hub ids and its commit."""
    folder = expanded(name)
    if (folder / INDEX_NAME).is_file():
        return folder, *_cached(folder)
    if options.local:
        raise BaseLoadError(
            f"expected a folder with a diffusers pipeline, found no {INDEX_NAME} in {folder}; pass a folder that "
            "pipe.save_pretrained wrote"
        )
    found = None if isinstance(name, Path) else _HUB.fullmatch(name)
    if found is None or folder.exists():
        raise BaseLoadError(
            f"expected a folder with a diffusers pipeline, or its Hub id as ORG/NAME or ORG/NAME@REVISION, found no "
            f"{INDEX_NAME} in {str(name)!r}"
        )
    from diffusers import DiffusionPipeline

    fetched = asked(
        lambda: DiffusionPipeline.download(found["repo"], revision=found["revision"], **_selection(options)),
        lambda _: BaseLoadError(f"expected a diffusers pipeline as {name!r} on the Hub, cannot fetch it"),
        token=None,
        kind=BaseLoadError,
    )
    # The Hub client keeps every commit in a folder named after it.
    commit = Path(fetched).name
    return Path(fetched), (found["repo"],), commit if _COMMIT.fullmatch(commit) else ""


def _cached(folder: Path) -> tuple[tuple[str, ...], str]:
    """Return the Hub ids and the commit of a folder in the Hub's cache; empty for any other folder."""
    found = _CACHED.search(folder.resolve().as_posix())
    return ((f"{found['org']}/{found['name']}",), found["commit"]) if found else ((), "")


def _loaded(folder: Path, options: PipelineOptions) -> Any:
    from diffusers import DiffusionPipeline

    dtype = {} if options.dtype is None else {"torch_dtype": options.dtype}
    checker = {"requires_safety_checker": False} if "safety_checker" in options.without else {}
    try:
        return DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, **dtype, **checker, **_selection(options)
        )
    except (OSError, ValueError) as error:
        complete = "a complete pipeline with safetensors" if options.safetensors else "a complete pipeline"
        raise BaseLoadError(f"expected {complete} in {folder}, diffusers cannot load it: {error}") from error


def _selection(options: PipelineOptions) -> dict[str, Any]:
    # diffusers leaves a component out if None is passed for it.
    selection: dict[str, Any] = dict.fromkeys(options.without)
    return {**selection, "use_safetensors": True} if options.safetensors else selection


def _placed(pipe: Any, device: str) -> Any:
    return pipe.to(device) if device else pipe
