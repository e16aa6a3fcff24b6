"""An artifact beside the models of a ComfyUI graph, as the checks and the status read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.integrations.comfyui.connected import Connected
from robust_encoders.integrations.comfyui.patched import Patched
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX
from robust_encoders.pipeline.slots import Slots


@dataclass(frozen=True, eq=False)
class Subject:
    """An artifact, and the models that it is checked against.

    Args:
        artifact: The artifact.
        models: The CLIP and the MODEL.
        allow_partial: True if the caller accepts that other text encoders stay as they are.
    """

    artifact: Artifact
    models: Connected
    allow_partial: bool = False

    @property
    def manifest(self) -> Manifest:
        """Manifest of the artifact."""
        return self.artifact.manifest

    @property
    def slots(self) -> Slots:
        """Text encoders of the CLIP: that of the artifact, and those through which its concept stays reachable."""
        return self.models.slots(self.manifest.concept.name)

    @property
    def changes_text(self) -> bool:
        """True if the artifact changes the weights of a text encoder."""
        return self.manifest.form == "weights" or self._has(TEXT_PREFIX)

    @property
    def changes_unet(self) -> bool:
        """True if the artifact changes the UNet's weights."""
        return self.manifest.form in ("projection", "delta") or self._has(UNET_PREFIX)

    @property
    def places(self) -> tuple[tuple[Patched, Mapping[str, str]], ...]:
        """Weights of the models that the artifact changes, each with the mapping of its names to ComfyUI's."""
        text = ((self.models.text, self.models.text_keys),) if self.changes_text else ()
        return (*text, (self.models.unet, self.models.unet_keys)) if self.changes_unet else text

    def patched_by_others(self) -> list[str]:
        """Return the names of weights in these places that something else than an artifact changes, such as a LoRA."""
        return [name for weights, keys in self.places for name, key in keys.items() if weights.others(key)]

    def _has(self, prefix: str) -> bool:
        return self.manifest.form == "adapter" and any(name.startswith(prefix) for name in self.artifact.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the connected text encoder; empty if it has none of that name."""
        key = self.models.text_keys.get(name)
        return () if key is None else tuple(self.models.text.stored(key).shape)
