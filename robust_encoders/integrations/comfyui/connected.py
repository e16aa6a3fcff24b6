"""The models that a ComfyUI graph connects: a CLIP, which holds text encoders, and a MODEL, which holds the UNet.

No module of ComfyUI is imported. This module reads attributes of its objects, as ``comfy/sd.py`` and
``comfy/sd1_clip.py`` of ComfyUI 0.30.0 define them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from robust_encoders.clip.state_dict import PREFIX, PROJECTION
from robust_encoders.conversion.export_checkpoint import unet_names
from robust_encoders.conversion.text_config import layer_numbers
from robust_encoders.integrations.comfyui.patched import Patched
from robust_encoders.pipeline.slots import FIRST, SECOND, ReadOutput, Slots

UNET = "diffusion_model."
# ComfyUI's names of the text encoders: CLIP ViT-L of SD 1, SDXL, SD 3 and FLUX, OpenCLIP ViT-H of SD 2; OpenCLIP
# ViT-bigG of SDXL and SD 3.
SLOTS: Mapping[str, tuple[str, ...]] = {FIRST: ("clip_l", "clip_h"), SECOND: ("clip_g",)}
_INSIDE = ".transformer."


@dataclass(frozen=True, eq=False)
class Connected:
    """The CLIP and the MODEL that a graph connects with a node.

    Args:
        clip: ComfyUI's CLIP.
        model: ComfyUI's MODEL; None if it is not connected.
        layers: Number of layers of the artifact's text encoder; None if it has none.
        component: Component of a pipeline that the artifact changes.
    """

    clip: Any
    model: Any = None
    layers: int | None = None
    component: str = FIRST

    @property
    def path(self) -> str:
        """Name of the base in messages."""
        return "the connected CLIP and MODEL"

    @cached_property
    def text(self) -> Patched:
        """Weights of the CLIP."""
        return Patched.of(self.clip.patcher)

    @cached_property
    def unet(self) -> Patched:
        """Weights of the UNet; empty if no MODEL is connected."""
        return Patched({}) if self.model is None else Patched.of(self.model, UNET)

    @cached_property
    def encoders(self) -> tuple[str, ...]:
        """Names of the CLIP's text encoders, in the order of a pipeline's slots: ``clip_l``, ``clip_g``, others."""
        known = [name for names in SLOTS.values() for name in names]
        found = dict.fromkeys(key.partition(_INSIDE)[0] for key in self.text.entries if _INSIDE in key)
        return tuple(sorted(found, key=lambda name: known.index(name) if name in known else len(known)))

    @cached_property
    def slot(self) -> str:
        """Name of the text encoder in whose place the artifact's belongs; empty if there is none."""
        return next((name for name in SLOTS.get(self.component, SLOTS[FIRST]) if name in self.encoders), "")

    @property
    def encoder(self) -> Any:
        """Module of that text encoder, which states which layer is read."""
        return getattr(self.clip.patcher.model, self.slot)

    @cached_property
    def text_keys(self) -> Mapping[str, str]:
        """Mapping of ``text_model.*`` names to ComfyUI's names of that text encoder."""
        start = f"{self.slot}{_INSIDE}"
        inside = {key.removeprefix(start): key for key in self.text.entries if self.slot and key.startswith(start)}
        # ComfyUI keeps a matrix behind the pooled vector of every CLIP. Only an encoder for the second slot brings one.
        return {
            name: key
            for name, key in inside.items()
            if name.startswith(PREFIX) or (name == PROJECTION and self.component == SECOND)
        }

    @cached_property
    def unet_keys(self) -> Mapping[str, str]:
        """Mapping of the UNet's parameter names in diffusers to ComfyUI's names."""
        names = unet_names(f"model.{key}" for key in self.unet.entries)
        return {name: theirs.removeprefix("model.") for name, theirs in names.items()}

    @cached_property
    def unet_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the UNet's tensors, under the names of diffusers."""
        return {name: tuple(self.unet.stored(key).shape) for name, key in self.unet_keys.items()}

    def text_encoder(self) -> dict[str, Tensor]:
        """Return the tensors of the text encoder, without the last layer of SD 2, which is not read."""
        found = {name: self.text.value(key) for name, key in self.text_keys.items()}
        surplus = f"{PREFIX}encoder.layers.{self.layers}." if self.has_surplus_layer else ""
        return {name: tensor for name, tensor in found.items() if not (surplus and name.startswith(surplus))}

    def unet_tensor(self, name: str) -> Tensor:
        """Return one tensor of the UNet, with what attached artifacts changed.

        Args:
            name: Name of the parameter in diffusers.
        """
        return self.unet.value(self.unet_keys[name])

    @cached_property
    def depth(self) -> int:
        """Number of layers of the text encoder in the CLIP."""
        return len(layer_numbers(self.text_keys))

    @property
    def has_surplus_layer(self) -> bool:
        """True if the CLIP has one layer more than the artifact, and by default does not read it, as in SD 2."""
        return self.depth - 1 == self.layers == self._read_layers(*_default_layer(self.encoder))

    def slots(self, concept: str) -> Slots:
        """Return the text encoders of the CLIP as the artifact sees them.

        Args:
            concept: Concept that the artifact erases.
        """
        kinds = {name: type(getattr(self.clip.patcher.model, name)).__name__ for name in self.encoders}
        erased = {
            name: {patch.concept for patch in self.text.attached(self._keys_of(name)).values()}
            for name in self.encoders
        }
        return Slots(self.slot, kinds, tuple(name for name in kinds if name != self.slot and concept in erased[name]))

    def _keys_of(self, encoder: str) -> list[str]:
        return [key for key in self.text.entries if key.startswith(f"{encoder}{_INSIDE}")]

    @property
    def reading(self) -> ReadOutput:
        """Output of the text encoder that is read, as far as the CLIP tells."""
        if len(self.encoders) > 1 and not set(SLOTS[SECOND]) & set(self.encoders):
            return "pooled"  # FLUX and HunyuanVideo, which read words by T5 or Llama
        known: Mapping[int, ReadOutput] = {
            self.layers or self.depth: "last",
            (self.layers or self.depth) - 1: "last but one",
        }
        return known.get(self.read_layers, "unknown")

    @property
    def read_layers(self) -> int:
        """Number of layers whose output is the conditioning, with the node CLIP Set Last Layer before this one."""
        chosen = getattr(self.clip, "layer_idx", None)
        if chosen is None:
            return self._read_layers(*_default_layer(self.encoder))
        return self._read_layers("last" if abs(chosen) > self.depth else "hidden", chosen)

    def _read_layers(self, layer: str, index: int | None) -> int:
        if layer != "hidden" or index is None:
            return self.depth
        return index + 1 + (self.depth if index < 0 else 0)


def _default_layer(encoder: Any) -> tuple[str, int | None]:
    layer, index = getattr(encoder, "options_default", ("last", None))[:2]
    return str(layer), index
