"""The seams of the training package: methods, attacks, detectors, metrics.

Letters in shapes mean one thing everywhere: B batch, C latent channels, h and w latent height and width, H and W
picture height and width, L token positions, D width of the text encoder, K adversarial tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from .types import AttackResult, Case, Edit, Result

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept

    from .diffusion.backbone import Backbone
    from .diffusion.target import TargetModel
    from .workspace import Workspace


@runtime_checkable
class Method(Protocol):
    """A concept-erasure method: a frozen dataclass whose fields are its settings.

    The Protocols below it are optional: generic code asks for each by type, and does without where it is missing.
    """

    name: ClassVar[str]

    def erase(self, backbone: Backbone, concept: Concept, *, generator: Generator) -> Edit:
        """Erase ``concept`` and return the change; ``backbone`` itself is left as it was."""
        ...


@runtime_checkable
class WorkspaceMethod(Protocol):
    """A method that keeps checkpoints or a cache, or shows progress."""

    name: ClassVar[str]
    uses_workspace: ClassVar[bool]

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Erase ``concept``, with a workspace that changes nothing of the result."""
        ...


@runtime_checkable
class RetainingMethod(Protocol):
    """A method with a list of prompts that keep their meaning."""

    name: ClassVar[str]

    @property
    def retained(self) -> tuple[str, ...]:
        """The retain prompts."""
        ...

    @property
    def wants_retained(self) -> bool:
        """Whether everyday objects are retained where a user names nothing."""
        ...

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other retain prompts."""
        ...


@runtime_checkable
class StandardMethod(Protocol):
    """A method whose retain prompts have no default, so that its standard settings need some."""

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these retain prompts."""
        ...


@runtime_checkable
class DistributedMethod(Protocol):
    """A method whose batches several processes share."""

    name: ClassVar[str]

    def for_processes(self, n: int) -> Self:
        """Return the same with n times the batches, for n processes to share."""
        ...


class EmbeddedBase(Protocol):
    """A small world with a pipeline of its own, its concepts and its captions; no arguments make one."""

    name: ClassVar[str]
    license: ClassVar[str]

    def pipeline(self) -> Any:
        """Return the pipeline, on the CPU."""
        ...

    def concept(self, name: str, *, anchored: bool = False) -> Concept:
        """Return a concept with its captions, with an anchor of the world's choice if ``anchored``.

        Raises:
            ValueError: The world has no such concept.
        """
        ...

    def retain_prompts(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """Return captions without any of some concepts.

        Raises:
            ValueError: The world has no such concept.
        """
        ...


@runtime_checkable
class InnerAttack(Protocol):
    """An attack inside a training: sees a loss and a start tensor, nothing else, and lowers the loss."""

    name: ClassVar[str]

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        """Return a detached tensor of ``start``'s shape (B, ...) for which ``loss``, giving (B,), is low."""
        ...


@runtime_checkable
class Attack(Protocol):
    """An attack of the evaluation, batched over cases; its dataclass fields are its settings.

    An attack that needs nothing beside the model under attack declares ``target: Backbone``, which is wider and fits.
    Name and tier are class variables as a rule. Further facts are class variables that may be left out:
    ``types.AttackFacts`` documents them and their fall-backs. A class may have a class method
    ``for_concept(concept: Concept)``; by it the command line builds the attack, else by the defaults of its fields.
    """

    @property
    def name(self) -> str:
        """Name in ``ATTACKS``, and in the records of results."""
        ...

    @property
    def tier(self) -> str:
        """Threat tier, ``T0`` to ``T7``; see ``evaluation.threat_model.TIERS``."""
        ...

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case and return one result per case, in order."""
        ...


@runtime_checkable
class Detector(Protocol):
    """Scores pictures (B, 3, H, W) in [0, 1]; at or above ``threshold`` the concept counts as present.

    A class may have a class method ``for_concept(concept: Concept)``, by which the command line builds the detector.
    """

    name: str
    version: str
    threshold: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (B,)."""
        ...


@runtime_checkable
class Metric(Protocol):
    """Accumulates over batches of pictures and computes one result.

    One that ``compares`` needs the base's pictures of the same cases as reference. A class may have a class method
    ``for_concept(concept: Concept)``, by which the command line builds the metric.
    """

    higher_is_better: ClassVar[bool]
    compares: ClassVar[bool]

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Take pictures (B, 3, H, W) in [0, 1] and the cases they were drawn for."""
        ...

    def compute(self) -> Result:
        """Return the result over everything seen so far."""
        ...
