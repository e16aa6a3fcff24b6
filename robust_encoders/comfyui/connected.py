"""The models that a ComfyUI graph connects: a CLIP, which holds text encoders, and a MODEL, which holds the UNet.

No module of ComfyUI is imported. This module reads attributes of its objects, as ``comfy/sd.py`` and
``comfy/model_patcher.py`` of ComfyUI 0.30.0 define them. Both objects own a *patcher*. It holds a torch module, which
many graphs share, and patches, which belong to this graph alone. A patch of the kind ``set`` puts a tensor in the place
of a weight for as long as the module computes with this patcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from robust_encoders.clip.state_dict import PREFIX
from robust_encoders.conversion.export_checkpoint import unet_names
from robust_encoders.conversion.text_config import layer_numbers

UNET = "diffusion_model."
# CLIP ViT-L of SD 1, SDXL, SD 3 and FLUX; OpenCLIP ViT-H of SD 2.
SLOTS = ("clip_l", "clip_h")
_INSIDE = ".transformer."


class ArtifactPatch(tuple[str, tuple[Tensor]]):
    """A patch that sets a weight to the value of an artifact: ComfyUI's pair of kind and values, with its origin.

    Args:
        value: New value of the weight.
        identity: Hash that identifies the artifact.
        label: Name of the artifact in messages.
        form: Form of the artifact.
    """

    identity: str
    label: str
    form: str

    def __new__(cls, value: Tensor, *, identity: str, label: str, form: str) -> ArtifactPatch:
        """Return the pair; arguments as of the class."""
        made = super().__new__(cls, ("set", (value,)))
        made.identity, made.label, made.form = identity, label, form
        return made

    @property
    def value(self) -> Tensor:
        """New value of the weight."""
        return self[1][0]


@dataclass(frozen=True, eq=False)
class Patched:
    """The weights of one patcher, without the changes of other graphs that share its module.

    Args:
        entries: Mapping of ComfyUI's names to lists: the stored weight, then the patches in their order.
    """

    entries: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, patcher: Any, prefix: str = "") -> Patched:
        """Read the weights of a patcher.

        Args:
            patcher: Patcher of a CLIP or a MODEL.
            prefix: Beginning of the names.
        """
        return cls(patcher.get_key_patches(prefix or None))

    def stored(self, key: str) -> Tensor:
        """Return a weight without any patch.

        Args:
            key: ComfyUI's name of the weight.
        """
        first = self.entries[key][0]
        # Versions before autumn 2024 had no converter beside the weight.
        weight: Tensor = first[0] if isinstance(first, tuple) else first
        return weight

    def value(self, key: str) -> Tensor:
        """Return a weight with the patches of attached artifacts, each of which sets it.

        Args:
            key: ComfyUI's name of the weight.
        """
        return next((patch.value for patch in reversed(self.own(key))), self.stored(key))

    def own(self, key: str) -> list[ArtifactPatch]:
        """Return the patches of attached artifacts.

        Args:
            key: ComfyUI's name of the weight.
        """
        return [patch[1] for patch in self.entries[key][1:] if isinstance(patch[1], ArtifactPatch)]

    def others(self, key: str) -> bool:
        """Return true if something else changes a weight, for example a LoRA of a strength other than 0.

        Args:
            key: ComfyUI's name of the weight.
        """
        return any(not isinstance(patch[1], ArtifactPatch) and _acts(patch) for patch in self.entries[key][1:])

    def attached(self) -> dict[str, ArtifactPatch]:
        """Return one patch of every attached artifact, by its identity, in the order of their first weights."""
        return {patch.identity: patch for key in self.entries for patch in self.own(key)}


def _acts(patch: Sequence[Any]) -> bool:
    strength, value, strength_of_the_model = patch[:3]
    sets = isinstance(value, tuple) and len(value) == 2 and value[0] == "set"  # a strength does not count there
    return bool(sets or strength != 0 or strength_of_the_model != 1)


@dataclass(frozen=True, eq=False)
class Connected:
    """The CLIP and the MODEL that a graph connects with a node.

    Args:
        clip: ComfyUI's CLIP.
        model: ComfyUI's MODEL; None if it is not connected.
        layers: Number of layers of the artifact's text encoder; None if it has none.
    """

    clip: Any
    model: Any = None
    layers: int | None = None

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
        """Names of the text encoders in the CLIP, for example ``clip_l`` and ``clip_g``."""
        return tuple(dict.fromkeys(key.partition(_INSIDE)[0] for key in self.text.entries if _INSIDE in key))

    @cached_property
    def slot(self) -> str:
        """Name of the text encoder in whose place an encoder of SD 1 or 2 belongs; empty if there is none."""
        return next((name for name in SLOTS if name in self.encoders), "")

    @property
    def encoder(self) -> Any:
        """Module of that text encoder, which states which layer is read."""
        return getattr(self.clip.patcher.model, self.slot)

    @cached_property
    def text_keys(self) -> Mapping[str, str]:
        """Mapping of ``text_model.*`` names to ComfyUI's names of that text encoder."""
        start = f"{self.slot}{_INSIDE}"
        return {
            key.removeprefix(start): key for key in self.text.entries if self.slot and key.startswith(start + PREFIX)
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
