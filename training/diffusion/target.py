"""The model under attack, together with the base and the query function that an attacker may use."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import nn

from ..types import Case, Draft, Query
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
        draft: Function that draws drafts with the target and returns their margins, see ``types.Draft``. Only attacks
            that declare drafts receive it.
        settled: Indices of cases that succeed without an attack, so that none of their candidates is drawn.
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
        draft: Draft | None = None,
        settled: Collection[int] = (),
        artifact: LoadedArtifact | None = None,
    ) -> None:
        super().__init__(tokenizer, text_encoder, unet, scheduler, precision=precision)
        self.artifact = artifact
        self._base = base
        self._query = query
        self._draft = draft
        self._settled = frozenset(settled)

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        *,
        precision: Precision = "fp32",
        base: Backbone | None = None,
        query: Query | None = None,
        draft: Draft | None = None,
        settled: Collection[int] = (),
        artifact: LoadedArtifact | None = None,
    ) -> TargetModel:
        """Return a target that shares the modules of a diffusers pipeline and leaves them unchanged."""
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.scheduler)
        return cls(*parts, precision=precision, base=base, query=query, draft=draft, settled=settled, artifact=artifact)

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

    @property
    def draft(self) -> Draft:
        """Function that draws drafts of texts with the target, each with its case's seed, and returns their scores.

        Raises:
            ValueError: No draft function was given.
        """
        if self._draft is None:
            raise ValueError(
                "expected a function that draws and scores drafts, found none: only attacks that declare drafts "
                "receive their scores; give TargetModel(..., draft=...), add 'drafts' to the class variable uses of "
                "the attack, or set draft_steps=0 to draw every text whole"
            )
        return self._draft

    def is_settled(self, case: Case) -> bool:
        """Return True if a case succeeds without an attack, so that none of its candidates is drawn."""
        return case.index in self._settled
