"""RECE: UCE against the embeddings that bring the concept back, in closed form."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from robust_encoders.concepts import Concept

from ..diffusion.backbone import Backbone
from ..diffusion.cross_attention import GramMatrix
from ..types import Edit
from ..workspace import Workspace
from .closed_form import RidgeConfig, adversarial_step, solve
from .uce import UCE, as_edit

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class RECE:
    """Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024, arXiv 2407.12383).

    It starts from UCE's edit. Each epoch then derives, for every token of every concept, the embedding that makes the
    edited K and V matrices give what the unedited ones gave, and erases those embeddings by UCE's solve. With
    G = ``sum_l W_l^T W_l`` all of it happens on one matrix M, whatever the number of layers, and on sums over token
    vectors, whatever their number. Defaults are the paper's for nudity; the recipes hold those of its other concepts.

    A departure: the authors draw and judge pictures after each epoch and keep the matrix only if fewer show the
    concept. Here all epochs are kept; how many to run is a setting.

    Args:
        start: UCE's edit, with the concepts, what they become and what is preserved; all epochs share these.
        epochs: Derivations after it; 0 is UCE alone.
        regulariser: RECE's lambda, of the derivation: how large the derived embeddings may be. Small values follow
            directions that the edited model hardly sees any more.
        weights: Weights of the terms of every solve after the first.

    Raises:
        ValueError: A negative number of epochs, a regulariser that is not positive, or attributes to add.
    """

    name: ClassVar[str] = "rece"
    uses_workspace: ClassVar[bool] = True
    start: UCE = field(default_factory=lambda: UCE(tokens="from_last"))
    epochs: int = 3
    regulariser: float = 0.1
    weights: RidgeConfig = field(default_factory=lambda: RidgeConfig(lamb=0.1, preserve_scale=0.1))

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 < self.regulariser < float("inf"):
            raise ValueError(
                f"expected epochs >= 0 and a finite regulariser > 0, found {self.epochs} and {self.regulariser}"
            )
        if self.start.attributes:
            raise ValueError("expected concepts to erase, found attributes to add: use UCE for debiasing")

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these preserved prompts."""
        return cls().retaining(retained)

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts that stay as they are."""
        return self.start.retained

    @property
    def wants_retained(self) -> bool:
        """As for UCE."""
        return self.start.wants_retained

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other preserved prompts."""
        return replace(self, start=self.start.retaining(prompts))

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Solve for the matrix with ``backbone``'s own text encoder and UNet; ``backbone`` is left as it was.

        Args:
            backbone: The base that the matrix will be attached to.
            concept: What is erased, towards its anchor.
            generator: Not used; nothing is random.
            workspace: Its ``cache_dir`` keeps the UNet's statistics.

        Raises:
            ValueError: As ``UCE.erase``, or the UNet's K and V cannot be told.
        """
        started = time.monotonic()
        place = workspace or Workspace(progress=False)
        moved = self.start.moved(backbone, concept, self.start.tokens, progress=place.progress)
        kept = self.start.kept(backbone, self.start.tokens, progress=place.progress)
        whole = self.start.moved(backbone, concept, "all", progress=place.progress)
        stay = self.start.kept(backbone, "all", progress=place.progress) if self.start.tokens == "last" else kept
        gram = GramMatrix.of(backbone.unet, place.cache_dir).gram
        read = time.monotonic()
        matrix = solve(moved, kept, self.start.weights)
        steps = []
        for _ in range(self.epochs):
            step = adversarial_step(matrix, whole, stay, gram=gram, regulariser=self.regulariser, weights=self.weights)
            matrix = matrix @ step
            steps.append(round(float((step - step.new_ones(len(step)).diag()).norm()), 6))
        return as_edit(matrix, whole, stay, seconds=(started, read), steps=steps)
