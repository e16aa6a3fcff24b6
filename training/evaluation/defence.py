"""Whose numbers are measured: those of the base, of an encoder, or a baseline that stands where an encoder would."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from robust_encoders.loaded import LoadedArtifact


@runtime_checkable
class Baseline(Protocol):
    """A defence that is no encoder of ours, for comparison."""

    @property
    def name(self) -> str:
        """Name in the results."""
        ...

    def attached(self, pipe: Any) -> AbstractContextManager[Any]:
        """Return a scope in which the pipeline has it."""
        ...

    def described(self) -> Mapping[str, Any]:
        """Return name and settings as JSON values."""
        ...


Defence = LoadedArtifact | Baseline


@dataclass(frozen=True)
class DefendedPipeline:
    """A pipeline as an evaluation sees it: bare, or with a defence within scopes.

    Args:
        pipe: A diffusers text-to-image pipeline, the base.
        defence: Encoder or baseline; None for the base itself.
    """

    pipe: Any
    defence: Defence | None = None

    @property
    def label(self) -> str:
        """``base``, the name of the method that made the encoder, or that of the baseline."""
        return str(self.identity["name"])

    @property
    def identity(self) -> dict[str, Any]:
        """Name and hash that tell it apart from any other, as JSON values."""
        if self.defence is None:
            return {"name": "base"}
        if isinstance(self.defence, LoadedArtifact):
            manifest = self.defence.manifest
            recipe = {key: manifest.recipe[key] for key in ("name", "seed") if key in manifest.recipe}
            named = {"name": str(manifest.method["name"]), "concept": manifest.concept.name, "recipe": recipe}
            return {**named, "content_sha256": self.defence.content_sha256}
        return dict(self.defence.described())

    @property
    def device(self) -> str:
        """Kind of device that the pipeline is on, for example ``cpu``."""
        return str(self.pipe.device.type)

    def bare(self) -> DefendedPipeline:
        """Return the same pipeline without the defence."""
        return DefendedPipeline(self.pipe)

    def attached(self) -> AbstractContextManager[Any]:
        """Return a scope in which the pipeline has the defence."""
        return nullcontext(self.pipe) if self.defence is None else self.defence.attached(self.pipe)
