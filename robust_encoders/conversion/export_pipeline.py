"""Folders of diffusers pipelines: an artifact is merged into a copy, the UNet tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.fingerprint import dtype_name
from robust_encoders.artifact.forms import CONFIG_NAME, WEIGHTS_NAME
from robust_encoders.clip.state_dict import nested
from robust_encoders.conversion.export_changes import Changes
from robust_encoders.conversion.export_checkpoint import with_earlier
from robust_encoders.conversion.export_stream import Edits, TensorFile, require_plain, rewrite, size_after
from robust_encoders.conversion.files import PICKLES
from robust_encoders.conversion.precision import cast
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.bounded_files import read_small

INDEX_NAME = "model_index.json"
TEXT_ENCODER, UNET = "text_encoder", "unet"
_OTHERS = ("text_encoder_2", "text_encoder_3", "transformer", "prior")


@dataclass(frozen=True, eq=False)
class PipelineFolder:
    """The folder of a pipeline of Stable Diffusion 1 or 2, of whose UNet only the headers were read.

    Args:
        path: Path of the folder.
        text_files: Files of the text encoder; several if it is stored in several precisions.
        unet_files: Files of the UNet; several for several precisions or parts.
    """

    path: Path
    text_files: tuple[TensorFile, ...]
    unet_files: tuple[TensorFile, ...]

    @classmethod
    def opened(cls, path: Path) -> PipelineFolder:
        """Read the headers of a pipeline's files.

        Args:
            path: Path of the folder.

        Raises:
            IntegrityError: If it is no such folder, or its weights are no safetensors files.
        """
        index = _index(path)
        other = [name for name in _OTHERS if index.get(name, [None])[0]]
        missing = [name for name in (TEXT_ENCODER, UNET) if not (path / name / CONFIG_NAME).is_file()]
        if other or missing:
            found = f"one with {', '.join(other)}" if other else f"one without {' and '.join(missing)}"
            raise IntegrityError(
                f"expected the folder of a pipeline of Stable Diffusion 1 or 2 in {path}, found {found}; pass the "
                "folder of the base that the artifact was made for"
            )
        return cls(path, _files(path / TEXT_ENCODER), _files(path / UNET))

    @cached_property
    def _places(self) -> Mapping[str, TensorFile]:
        return {name: file for file in self.unet_files for name in file.entries}

    @property
    def unet_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the UNet's tensors."""
        return {name: file.entries[name].shape for name, file in self._places.items()}

    def text_encoder(self) -> dict[str, Tensor]:
        """Return the tensors of the text encoder, under ``text_model.*`` names."""
        file = self.text_files[0]
        return nested({name: file.read(name) for name in file.entries})

    def unet_tensor(self, name: str) -> Tensor:
        """Return one tensor of the UNet.

        Args:
            name: Name of the parameter.
        """
        return self._places[name].read(name)

    def size_after(self, changes: Changes, dtype: torch.dtype | None) -> int:
        """Return the size of the new folder in bytes, at most.

        Args:
            changes: Changes by the artifact.
            dtype: Dtype of the weights of changed components; None to keep those of the files.
        """
        files = [*(self.text_files if changes.text else ()), *(self.unet_files if changes.unet else ())]
        more = sum(max(0, size_after(file, Edits(dtype=dtype)) - file.state.st_size) for file in files)
        return more + sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def copy(
        self, target: Path, changes: Changes, metadata: Mapping[str, str], dtype: torch.dtype | None, facts: Any
    ) -> None:
        """Write the folder with an artifact merged into it.

        Args:
            target: Path of the new folder, which must not exist.
            changes: Changes by the artifact.
            metadata: Metadata that the artifact adds to those of the files.
            dtype: Dtype of the weights of changed components; None to keep those of the files.
            facts: Provenance for the configuration of a changed text encoder.

        Raises:
            IntegrityError: If tensors that change are quantised, or values are beyond the range of their dtype.
        """
        for file in self.unet_files if changes.unet else ():
            require_plain(file, changes.unet.keys() & file.entries.keys())
        changed = [name for name, has in ((TEXT_ENCODER, changes.text), (UNET, changes.unet)) if has]
        shutil.copytree(self.path, target, ignore=lambda where, names: self._left_out(Path(where), names, changed))
        if changes.text:
            self._write_text(target / TEXT_ENCODER, changes.text, metadata, dtype)
            _write_config(self.path / TEXT_ENCODER, target / TEXT_ENCODER, facts, dtype)
        for file in self.unet_files if changes.unet else ():
            own = {name: change for name, change in changes.unet.items() if name in file.entries}
            edits = Edits(own, dtype=dtype, metadata=with_earlier(file.metadata, metadata))
            rewrite(file, target / UNET / file.path.name, edits)

    def _left_out(self, where: Path, names: list[str], changed: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".")}
        if where.parent != self.path or where.name not in changed:
            return hidden
        # A second copy of the unchanged weights beside the changed ones could be the one that is loaded.
        written = {name for name in names if name.endswith((".safetensors", *PICKLES)) or "index." in name}
        return hidden | {name for name in written if where.name == TEXT_ENCODER or "safetensors.index" not in name}

    def _write_text(
        self, folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype | None
    ) -> None:
        parts = len(self.text_files) > 1 and any("-of-" in file.path.name for file in self.text_files)
        for file in self.text_files[:1] if parts else self.text_files:
            name = WEIGHTS_NAME if parts else file.path.name
            own = next(entry.dtype for entry in file.entries.values() if entry.dtype.is_floating_point)
            made = {n: cast(n, t.detach().cpu(), dtype or own, file.path).contiguous() for n, t in tensors.items()}
            tensor_files.write(folder / name, made, with_earlier(file.metadata, metadata))


def _index(path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(read_small(path / INDEX_NAME))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"expected the folder of a diffusers pipeline in {path}, cannot read its {INDEX_NAME}: {error}; pass the "
            "folder that holds it"
        ) from error
    return index if isinstance(index, Mapping) else {}


def _files(folder: Path) -> tuple[TensorFile, ...]:
    paths = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise IntegrityError(
            f"expected weights as safetensors in {folder}, found none; load the pipeline with diffusers and save it "
            "again, which writes such files"
        )
    return tuple(map(TensorFile.opened, paths))


def _write_config(source: Path, target: Path, facts: Any, dtype: torch.dtype | None) -> None:
    config = json.loads(read_small(source / CONFIG_NAME))
    named = {key: dtype_name(dtype) for key in ("dtype", "torch_dtype") if dtype is not None and key in config}
    body = {**config, **named, "robust_encoders": facts}
    (target / CONFIG_NAME).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
