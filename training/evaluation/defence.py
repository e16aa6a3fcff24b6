"""The subject of an evaluation: the base alone, an encoder, or a baseline that takes an encoder's place."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.encoder_names import refuse_names


@runtime_checkable
class Baseline(Protocol):
    """A defence for comparison that is not an encoder of this package."""

    @property
    def name(self) -> str:
        """Name in the results."""
        ...

    def attached(self, pipe: Any) -> AbstractContextManager[Any]:
        """Return a context manager that attaches the baseline to a pipeline."""
        ...

    def described(self) -> Mapping[str, Any]:
        """Return name and settings as JSON values."""
        ...


Defence = LoadedArtifact | Baseline


@dataclass(frozen=True)
class DefendedPipeline:
    """A pipeline under evaluation, to which a defence can be attached for the length of a ``with`` block.

    Args:
        pipe: A diffusers text-to-image pipeline, the base.
        defence: Encoder or baseline; None for the base itself.

    Raises:
        EncoderNameError: If the defence is a name, not a loaded encoder.
    """

    pipe: Any
    defence: Defence | None = None

    def __post_init__(self) -> None:
        refuse_names(self.defence)

    @property
    def label(self) -> str:
        """``base``, the name of the method that made the encoder, or the name of the baseline."""
        return str(self.identity["name"])

    @property
    def artifact(self) -> LoadedArtifact | None:
        """The defence if it is an artifact; None for the base and for a baseline."""
        return self.defence if isinstance(self.defence, LoadedArtifact) else None

    @property
    def identity(self) -> dict[str, Any]:
        """Name and hash that identify the defence, as JSON values."""
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

    def read_as(self, pipe: Any, text: str) -> Hashable:
        """Return what the attached pipeline reads in place of a text; equal values and seeds give equal pictures.

        Args:
            pipe: Pipeline with the defence attached.
            text: Prompt.

        Returns:
            The token ids by every tokenizer of the pipeline; nothing if the defence draws all texts alike.
        """
        if getattr(self.defence, "ignores_text", False):
            return ()
        names = sorted(name for name in pipe.components if name.startswith("tokenizer"))
        tokenizers = [tokenizer for name in names if (tokenizer := getattr(pipe, name)) is not None]
        return tuple(tuple(one(text, truncation=True, max_length=one.model_max_length).input_ids) for one in tokenizers)

    def bare(self) -> DefendedPipeline:
        """Return the same pipeline without the defence."""
        return DefendedPipeline(self.pipe)

    def attached(self) -> AbstractContextManager[Any]:
        """Return a context manager that attaches the defence to the pipeline."""
        return nullcontext(self.pipe) if self.defence is None else self.defence.attached(self.pipe)
