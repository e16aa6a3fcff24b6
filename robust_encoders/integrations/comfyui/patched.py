"""The weights of ComfyUI's models with their patches, as ``comfy/model_patcher.py`` of ComfyUI 0.30.0 defines them.

A *patcher* holds a torch module, which many graphs share, and patches, which belong to one graph alone. A patch of the
kind ``set`` puts a tensor in the place of a weight for as long as the module computes with this patcher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class ArtifactPatch(tuple[str, tuple[Tensor]]):
    """A patch that sets a weight to the value of an artifact: ComfyUI's pair of kind and values, with its origin.

    Args:
        value: New value of the weight.
        identity: Hash that identifies the artifact.
        label: Name of the artifact in messages.
        concept: Concept that the artifact erases.
    """

    identity: str
    label: str
    concept: str

    def __new__(cls, value: Tensor, *, identity: str, label: str, concept: str) -> ArtifactPatch:
        """Return the pair; arguments as of the class."""
        made = super().__new__(cls, ("set", (value,)))
        made.identity, made.label, made.concept = identity, label, concept
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

    def attached(self, keys: Iterable[str] | None = None) -> dict[str, ArtifactPatch]:
        """Return one patch of every attached artifact, by its identity, in the order of their first weights.

        Args:
            keys: ComfyUI's names of the weights that are looked at; None for all.
        """
        looked_at = self.entries if keys is None else keys
        return {patch.identity: patch for key in looked_at for patch in self.own(key)}


def _acts(patch: Sequence[Any]) -> bool:
    strength, value, strength_of_the_model = patch[:3]
    sets = isinstance(value, tuple) and len(value) == 2 and value[0] == "set"  # a strength does not count there
    return bool(sets or strength != 0 or strength_of_the_model != 1)
