"""The shared part of the closed-form family: preserved prompts, and the way from token vectors to one edit."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Generator, Tensor

from robust_encoders.overlays.projection import PROJECTION_TENSOR, require_square

from ..diffusion.backbone import Backbone
from ..trainer.unet_parameters import as_delta
from ..types import Edit
from ..workspace import Workspace
from .closed_form import Moments
from .retaining import RetainsField
from .token_vectors import TokenVectors

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class ErasureInputs:
    """The base and the concept of one run, whose token vectors a closed form reads.

    Args:
        backbone: Base that the edit will be attached to; its text encoder gives every token vector.
        concept: Concept to erase; its anchor is the target.
        generator: Generator of what a method draws at random.
        workspace: Workspace with the progress switch, and with the folder of the UNet's matrix G.
    """

    backbone: Backbone
    concept: Concept
    generator: Generator
    workspace: Workspace

    @property
    def progress(self) -> bool:
        """True if progress is shown."""
        return self.workspace.progress

    def vectors(self, batch: int, words: Sequence[str] = ()) -> TokenVectors:
        """Return a reader of token vectors.

        Args:
            batch: Number of prompts encoded at once.
            words: Words of the concept whose tokens are looked for; none for preserved prompts.
        """
        return TokenVectors(self.backbone, tuple(words), batch, self.progress)


@dataclass(frozen=True)
class Solution:
    """What a closed form solved for.

    Args:
        edited: Matrix M (D, D) in float64, or the edited tensors of the UNet by name where each matrix has its own M.
        log: Further entries of the run's log.
    """

    edited: Tensor | Mapping[str, Tensor]
    log: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Token vectors that a closed form has read, and the function that solves for its matrix.

    Args:
        moved: Moments of the moved token vectors; their number goes into the log.
        kept: Moments of the kept token vectors; their number goes into the log.
        solve: Function that returns the solution.
    """

    moved: Moments
    kept: Moments
    solve: Callable[[], Solution]


class ClosedForm(RetainsField, ABC):
    """A method of the closed-form family: every edited key or value matrix W becomes W M, see ``closed_form``.

    The edit is one artifact, a projection on the text encoder's output. A method whose M differs from matrix to matrix
    gives a delta of the UNet instead. Preserved prompts are the retain prompts of the family. A class of the family is
    a frozen dataclass with the fields ``texts`` and ``preserve``; one without them overrides what reads them.
    """

    uses_workspace: ClassVar[bool] = True
    retain_field: ClassVar[str] = "preserve"

    @property
    @abstractmethod
    def preserve(self) -> tuple[str, ...]:
        """Preserved prompts; in most classes a field."""

    @abstractmethod
    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read all token vectors that the method needs.

        Args:
            inputs: Base, concept and workspace.

        Raises:
            ValueError: If a conditioning is not finite, or a caption does not name the concept.
        """

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts."""
        return self._changed(texts="prompts")

    @property
    def wants_retained(self) -> bool:
        """True, because everyday objects are preserved when the user gives no prompts."""
        return True

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Solve for the edit with ``backbone``'s text encoder; ``backbone`` stays unchanged.

        Args:
            backbone: Base that the edit will be attached to; its text encoder gives every token vector.
            concept: Concept to erase; its anchor is the target.
            generator: Generator of what the method draws at random; only SPEED's copies are drawn.
            workspace: Workspace whose ``progress`` switch is used. RECE also keeps the UNet's matrix G in its
                ``cache_dir``. Nothing else of it matters.

        Raises:
            ValueError: If a conditioning is not finite, if a caption does not name the concept, or if the method has
                no solution, for example because the preserved prompts leave no direction free.
        """
        started = time.monotonic()
        problem = self.problem(ErasureInputs(backbone, concept, generator, workspace or Workspace(progress=False)))
        read = time.monotonic()
        solution = problem.solve()
        now = time.monotonic()
        numbers = {
            "moved_vectors": problem.moved.count,
            "kept_vectors": problem.kept.count,
            "seconds_solving": round(now - read, 3),
            "seconds_total": round(now - started, 3),
            "unet_calls": 0,
            **solution.log,
        }
        if not isinstance(solution.edited, Tensor):
            return as_delta(solution.edited, backbone, numbers)
        require_square(solution.edited, len(solution.edited))
        return Edit("projection", "text_encoder", {PROJECTION_TENSOR: solution.edited.float()}, {}, numbers)
