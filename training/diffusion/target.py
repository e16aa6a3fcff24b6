"""The model under attack, together with what an attacker may hold beside it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..types import Query
from .backbone import Backbone, Precision


class TargetModel(Backbone):
    """A backbone under attack that also knows the model it was made from, and answers queries where that is allowed.

    Attacks that need neither are written for a plain ``Backbone`` and never see these.

    Args:
        tokenizer: As for ``Backbone``.
        text_encoder: As for ``Backbone``; the hardened one.
        unet: As for ``Backbone``.
        scheduler: As for ``Backbone``.
        precision: As for ``Backbone``.
        base: The model before the erasure. It is public, so attackers of every tier may use it.
        query: Draws pictures with the target and returns their margins; only attacks that declare queries get it.
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
    ) -> None:
        super().__init__(tokenizer, text_encoder, unet, scheduler, precision=precision)
        self._base = base
        self._query = query

    @classmethod
    def from_pipeline(
        cls, pipe: Any, *, precision: Precision = "fp32", base: Backbone | None = None, query: Query | None = None
    ) -> TargetModel:
        """Share the modules of a diffusers pipeline; nothing on them is changed."""
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.scheduler)
        return cls(*parts, precision=precision, base=base, query=query)

    @property
    def base(self) -> Backbone:
        """The model before the erasure.

        Raises:
            ValueError: It was not given.
        """
        if self._base is None:
            raise ValueError(
                "expected the model before the erasure beside the target, found none: this attack compares with it, "
                "so give TargetModel(..., base=Backbone.from_pipeline(pipe)) of the pipeline without the encoder"
            )
        return self._base

    @property
    def query(self) -> Query:
        """Draw texts with the target, each with its case's seed, and return the pictures' margins (B,).

        Raises:
            ValueError: Queries are not allowed.
        """
        if self._query is None:
            raise ValueError(
                "expected a function that draws and scores pictures, found none: only attacks that declare queries are "
                "told scores; give TargetModel(..., query=...), or name queries in the attack's class variable uses"
            )
        return self._query
