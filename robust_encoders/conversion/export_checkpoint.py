"""Single-file checkpoints of Stable Diffusion 1 and 2: an artifact is merged into a copy, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from robust_encoders.artifact.provenance import METADATA_KEY
from robust_encoders.conversion.export_changes import Changes
from robust_encoders.conversion.export_stream import Change, Edits, TensorFile, require_plain
from robust_encoders.conversion.files import PICKLES
from robust_encoders.conversion.formats import A1111, A1111_OLD, A1111_SD2, LAYOUTS, Layout, read, write
from robust_encoders.conversion.lookalikes import what_else
from robust_encoders.conversion.text_config import layer_numbers, without_last_layer
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.broken_libraries import broken_libraries_named

UNET, EMA = "model.diffusion_model.", "model_ema."
_DOWNSAMPLER = UNET + "input_blocks.{}.0.op.weight"
_MOST_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A single-file checkpoint, of which only the header was read.

    Args:
        file: The file.
        layout: Layout of its text encoder.
        unet_names: Mapping of the UNet's parameter names in diffusers to the names in the file.
        layers: Number of layers of the artifact's text encoder; None if it has none. A checkpoint of SD 2 has one more,
            which is kept.
    """

    file: TensorFile
    layout: Layout
    unet_names: Mapping[str, str]
    layers: int | None = None

    @classmethod
    def opened(cls, path: Path, layers: int | None = None) -> Checkpoint:
        """Read the header of a checkpoint.

        Args:
            path: Path of the file.
            layers: Number of layers of the artifact's text encoder; None if it has none.

        Raises:
            IntegrityError: If it is no safetensors file, or no checkpoint of Stable Diffusion 1 or 2.
        """
        if path.suffix in PICKLES:
            raise IntegrityError(
                f"expected a checkpoint as .safetensors in {path}, found {path.suffix}, a pickle that may "
                "run code; save it as .safetensors, for example by the checkpoint merger of A1111"
            )
        file = TensorFile.opened(path)
        found = [layout for layout in LAYOUTS if layout.shared and any(map(layout.holds, file.entries))]
        names = unet_names(file.entries)
        if len(found) != 1 or found[0] not in (A1111, A1111_OLD, A1111_SD2) or not names:
            what = " and ".join(layout.name for layout in found) or what_else(file.entries).what or "other tensors"
            raise IntegrityError(
                f"expected a single-file checkpoint of Stable Diffusion 1 or 2 in {path}, with a text encoder under "
                f"cond_stage_model and a UNet under model.diffusion_model, found {what}; pass such a checkpoint"
            )
        return cls(file, found[0], names, layers)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @cached_property
    def unet_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the UNet's tensors, under the names of diffusers."""
        return {name: self.file.entries[theirs].shape for name, theirs in self.unet_names.items()}

    def text_encoder(self) -> dict[str, Tensor]:
        """Return the tensors of the text encoder, without the last layer of SD 2 that no pipeline computes."""
        found = read({name: self.file.read(name) for name in self.file.entries if self.layout.holds(name)})
        layers = len(layer_numbers(found.tensors)) - 1 if self.layers is None else self.layers
        return without_last_layer(found, {"num_hidden_layers": layers})[0]

    def unet_tensor(self, name: str) -> Tensor:
        """Return one tensor of the UNet.

        Args:
            name: Name of the parameter in diffusers.
        """
        return self.file.read(self.unet_names[name])

    def edits(self, changes: Changes, metadata: Mapping[str, str], dtype: torch.dtype | None) -> Edits:
        """Return what becomes of the file.

        Args:
            changes: Changes by the artifact.
            metadata: Metadata that the artifact adds to that of the file.
            dtype: Dtype of all weights; None to keep those of the file.

        Raises:
            IntegrityError: If tensors that change are quantised.
        """
        named: dict[str, Change] = {self.unet_names[name]: change for name, change in changes.unet.items()}
        if changes.text:
            written = write(changes.text, self.layout)
            named |= {name: partial(_other, new=tensor) for name, tensor in written.items()}
        require_plain(self.file, named)
        # A second, averaged copy of the UNet, which would still draw the concept.
        averaged = frozenset(name for name in self.file.entries if changes.unet and name.startswith(EMA))
        return Edits(named, averaged, dtype, with_earlier(self.file.metadata, metadata))


def _other(old: Tensor, new: Tensor) -> Tensor:
    return new.detach().cpu()


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """Map the parameter names of a UNet in diffusers to those in a single file, by diffusers' own conversion.

    Args:
        names: Names of the tensors in the file.

    Returns:
        The names; empty if the file holds no such UNet.
    """
    with broken_libraries_named():
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # The conversion moves values from name to name, so the names themselves can be the values.
    own = {name: name for name in names if name.startswith(UNET)}
    layers = next((n - 1 for n in range(2, _MOST_BLOCKS) if _DOWNSAMPLER.format(n) in own), 0)
    if not layers:
        return {}
    found: dict[str, str] = convert_ldm_unet_checkpoint(own, {"layers_per_block": layers})
    return found


def with_earlier(present: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file with those of an artifact; provenance of an earlier export gets a number.

    Args:
        present: Metadata of the file.
        added: Metadata of the artifact.
    """
    kept = dict(present)
    if METADATA_KEY in kept:
        number = next(n for n in range(1, len(kept) + 2) if f"{METADATA_KEY}_{n}" not in kept)
        kept[f"{METADATA_KEY}_{number}"] = kept.pop(METADATA_KEY)
    return {**kept, **added}
