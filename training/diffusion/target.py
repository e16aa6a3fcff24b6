"""The model under attack, together with the base and the query function that an attacker may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..types import Query
from .backbone import Backbone, Precision

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact


class TargetModel(Backbone):
    """A backbone under attack that also holds the base it was made from, and may answer queries.

    Attacks that need neither base nor queries are written for a plain ``Backbone``.

    Args:
        tokenizer: A CLIP tokenizer.
        text_encoder: The hardened text encoder.
        unet: A ``UNet2DConditionModel``.
        scheduler: Scheduler of diffusers with betas, which give the noise schedule.
        precision: Precision of the UNet, see ``Backbone``.
        base: The model before the erasure. It is public, so attackers of every tier may use it.
        query: Function that draws pictures with the target and returns their margins, see ``types.Query``. Only attacks
            that declare queries receive it.
        artifact: Artifact that defends the model, already attached. Its manifest and tensors are public, as the base
            is. None for the base itself, and for a defence that is no artifact.

    Attributes:
        artifact: Artifact that defends the model, or None.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: nn.Module,
        unet: nn.Module,
        scheduler: Any,
        *,
        precision: Precision = "fp32",
        base: Backbone | None = None,
        query: Query | None = None,
        artifact: LoadedArtifact | None = None,
    ) -> None:
        super().__init__(tokenizer, text_encoder, unet, scheduler, precision=precision)
        self.artifact = artifact
        self._base = base
        self._query = query

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        *,
        precision: Precision = "fp32",
        base: Backbone | None = None,
        query: Query | None = None,
        artifact: LoadedArtifact | None = None,
    ) -> TargetModel:
        """Return a target that shares the modules of a diffusers pipeline and leaves them unchanged."""
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.scheduler)
        return cls(*parts, precision=precision, base=base, query=query, artifact=artifact)

    @property
    def base(self) -> Backbone:
        """The model before the erasure.

        Raises:
            ValueError: No base was given.
        """
        if self._base is None:
            raise ValueError(
                "expected the model before the erasure as base of the target, found none: this attack uses it, "
                "so give TargetModel(..., base=Backbone.from_pipeline(pipe)) with the pipeline before the encoder "
                "is attached"
            )
        return self._base

    @property
    def query(self) -> Query:
        """Function that draws texts with the target, each with its case's seed, and returns the margins (B,).

        Raises:
            ValueError: No query function was given, so queries are not allowed.
        """
        if self._query is None:
            raise ValueError(
                "expected a function that draws and scores pictures, found none: only attacks that declare queries "
                "receive scores; give TargetModel(..., query=...), or add 'queries' to the class variable uses of the "
                "attack"
            )
        return self._query
