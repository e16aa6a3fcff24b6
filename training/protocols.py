"""The seams of the training package: erasers, attacks, detectors, metrics, and the records they exchange.

Letters in shapes mean one thing everywhere: B batch, C latent channels, h and w latent height and width, H and W
picture height and width, L token positions, D width of the text encoder, K adversarial tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from .types import AttackResult, Case, Edit, Result

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

    from .diffusion.backbone import Backbone
    from .diffusion.target import TargetModel


@runtime_checkable
class Method(Protocol):
    """A concept-erasure method; its dataclass fields are its configuration."""

    name: ClassVar[str]

    def erase(self, backbone: Backbone, concept: Concept, *, generator: Generator) -> Edit:
        """Erase ``concept`` and return the change; ``backbone`` itself is left as it was."""
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
