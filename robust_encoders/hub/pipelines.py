"""Loading of diffusers pipelines: an embedded base, a folder, or a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from robust_encoders.conversion.text_config import family_of
from robust_encoders.errors import BaseLoadError
from robust_encoders.hub.base_files import INDEX_NAME, files_of, read_index, variant_of
from robust_encoders.hub.client import Failure, asked, cause_of_download
from robust_encoders.hub.download import offline
from robust_encoders.hub.embedded import embedded_name, embedded_pipeline, warn_of_namesake
from robust_encoders.pipeline.slots import is_sdxl
from robust_encoders.redaction import get_logger
from robust_encoders.utils.broken_libraries import broken_libraries_named
from robust_encoders.utils.devices import require_device
from robust_encoders.utils.dtypes import dtype_of, dtype_or_none
from robust_encoders.utils.home import expanded

T = TypeVar("T")
logger = get_logger(__name__)
HUB_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SDXL = ((768, 12), (1280, 32))  # width and layers of the two text encoders
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHED = re.compile(r"/models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})/?$")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Options for loading a pipeline.

    Args:
        dtype: Precision of all weights, a dtype of torch or its name; or a mapping of component names to precisions,
            where ``default`` stands for the other components. None leaves the precision to diffusers.
        device: Device of the models; empty leaves them on the CPU.
        without: Names of components that are neither downloaded nor loaded; their slots stay empty.
        safetensors: Switch that refuses weights stored as pickles.
    """

    dtype: torch.dtype | str | Mapping[str, torch.dtype | str] | None = None
    device: str = ""
    without: tuple[str, ...] = ()
    safetensors: bool = False


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline and its origin.

    Args:
        pipe: The diffusers pipeline.
        ids: Hub ids of the pipeline; empty for an embedded base, and for a folder outside of the Hub's cache.
        revision: Commit of the first id; empty if unknown.
        embedded: Name of the embedded base; empty for any other pipeline.
    """

    pipe: Any
    ids: tuple[str, ...] = ()
    revision: str = ""
    embedded: str = ""

    @property
    def family(self) -> str:
        """Family of the pipeline: name of the embedded base, else by the sizes of its text encoders, such as ``sdxl``.

        It is ``"not stated"`` for other sizes.
        """
        if self.embedded:
            return self.embedded
        second = getattr(self.pipe, "text_encoder_2", None)
        first = getattr(self.pipe, "text_encoder", None)
        configs = [one.config.to_dict() for one in (first, second) if one is not None]
        if second is None and configs:
            return family_of(configs[0])
        sizes = tuple((one.get("hidden_size"), one.get("num_hidden_layers")) for one in configs)
        return "sdxl" if is_sdxl(self.pipe) and sizes == _SDXL else "not stated"


def load_pipeline(name: str | Path | None, options: PipelineOptions | None = None) -> LoadedPipeline:
    """Load a diffusers pipeline.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub. The
            name of an embedded base always stands for it, and None for the default one; ``./shapes`` is the folder of
            that name. An embedded base has all its components; of the dtypes, only a single one applies to it.
        options: Precision, device and components of the pipeline.

    Raises:
        BaseLoadError: If the pipeline or the device does not exist, or diffusers cannot load the pipeline.
        AssetsMissingError: If the package was installed without that base.
        BrokenLibraryError: If diffusers imports an installed library that fails.
        ValueError: If the dtype is no precision.
    """
    options = _with_dtypes(options or PipelineOptions())
    require_device(options.device)
    base = embedded_name(name)
    if name is None or base:
        single = options.dtype if isinstance(options.dtype, torch.dtype) else None
        if name is not None:
            warn_of_namesake(base)
        return LoadedPipeline(_placed(embedded_pipeline(base, dtype=single), options.device), embedded=base)
    with broken_libraries_named():
        folder, ids, revision = _located(name, options)
        return LoadedPipeline(_placed(_loaded(folder, options), options.device), ids, revision)


def _with_dtypes(options: PipelineOptions) -> PipelineOptions:
    """Return options with dtypes of torch, because diffusers loads float32 for a name."""
    if isinstance(options.dtype, Mapping):
        return replace(options, dtype={name: dtype_of(given) for name, given in options.dtype.items()})
    return replace(options, dtype=dtype_or_none(options.dtype))


def require_place(name: str | Path) -> re.Match[str] | None:
    """Return the parts of a Hub id, or None for a folder with a pipeline; nothing is loaded.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub.

    Raises:
        BaseLoadError: If the name is neither.
    """
    folder = expanded(name)
    if (folder / INDEX_NAME).is_file():
        return None
    found = None if isinstance(name, Path) else HUB_NAME.fullmatch(name)
    if found is None or folder.exists():
        raise BaseLoadError(
            f"expected a folder with a diffusers pipeline, or its Hub id as ORG/NAME or ORG/NAME@REVISION, found no "
            f"{INDEX_NAME} in {str(name)!r}"
        )
    return found


def _located(name: str | Path, options: PipelineOptions) -> tuple[Path, tuple[str, ...], str]:
    """Return the folder of a pipeline (downloaded if necessary), its Hub ids and its commit."""
    folder = expanded(name)
    found = require_place(name)
    if found is None:
        return folder, *_cached(folder)
    fetched = _fetched(found["repo"], found["revision"], options)
    # The Hub client keeps every commit in a folder named after it.
    return fetched, (found["repo"],), fetched.name if _COMMIT.fullmatch(fetched.name) else ""


def _fetched(repo: str, revision: str | None, options: PipelineOptions) -> Path:
    """Return the folder in the Hub's cache with the needed files of a pipeline; without a network, what is there."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import HfApi, constants, hf_hub_download

    name, why = f"{repo}@{revision}" if revision else repo, offline(None)
    local = bool(why) or constants.HF_HUB_OFFLINE

    def ask(call: Callable[[], T]) -> T:
        return asked(
            call,
            lambda failure: _in_words(failure, name, why),
            token=None,
            kind=BaseLoadError,
            cause=cause_of_download,
            quoted=not why,
        )

    index = ask(lambda: Path(hf_hub_download(repo, INDEX_NAME, revision=revision, local_files_only=local)))
    if local:
        if why:
            logger.warning("the Hub cannot be reached (%s): %s is the one in the cache", why, name)
        return index.parent
    commit = index.parent.name if _COMMIT.fullmatch(index.parent.name) else revision
    listed = ask(lambda: HfApi().model_info(repo, revision=commit).siblings or [])
    variant = _variant(index, [file.rfilename for file in listed], name, options)
    return Path(ask(lambda: DiffusionPipeline.download(repo, revision=commit, variant=variant, **_selection(options))))


def _variant(index: Path, names: list[str], where: str, options: PipelineOptions) -> str | None:
    return variant_of(read_index(index), names, where, without=options.without, safe=options.safetensors)


def _in_words(failure: Failure, name: str, why: str) -> BaseLoadError:
    from huggingface_hub import errors

    texts: dict[type[Exception], str] = {
        errors.LocalEntryNotFoundError: f"it is not in the cache, and "
        f"{f'the Hub cannot be reached ({why})' if why else 'the client is offline'}; connect once, or pass a folder",
        errors.GatedRepoError: "it is gated: accept its terms on the Hub, and log in with `hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository, or it is private; check the spelling, or log in "
        "with `hf auth login`",
        errors.RevisionNotFoundError: "it has no such revision; use a branch, a tag or a full commit id",
        errors.EntryNotFoundError: f"it has no {INDEX_NAME}, so it is no pipeline of diffusers; name another one",
        Exception: "see the client's error, and try again",
    }
    return BaseLoadError(
        f"expected a diffusers pipeline as {name!r} on the Hub, cannot fetch it: {failure.chosen(texts)}"
    )


def _cached(folder: Path) -> tuple[tuple[str, ...], str]:
    """Return the Hub ids and the commit of a folder in the Hub's cache; empty for any other folder."""
    found = _CACHED.search(folder.resolve().as_posix())
    return ((f"{found['org']}/{found['name']}",), found["commit"]) if found else ((), "")


def _loaded(folder: Path, options: PipelineOptions) -> Any:
    from diffusers import DiffusionPipeline

    variant = _variant(folder / INDEX_NAME, files_of(folder), str(folder), options)
    dtype = {} if options.dtype is None else {"torch_dtype": options.dtype}
    # A pipeline does not know components and options of another class, and would say so.
    index = read_index(folder / INDEX_NAME)
    known = replace(options, without=tuple(name for name in options.without if name in index))
    checker = {"requires_safety_checker": False} if "safety_checker" in known.without else {}
    try:
        return DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, variant=variant, **dtype, **checker, **_selection(known)
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
