"""Interfaces of the training package: methods, attacks, detectors, metrics.

A letter in a shape has the same meaning everywhere: B batch, C latent channels, h and w latent height and width, H and
W picture height and width, L token positions, D width of the text encoder, K adversarial tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from .types import AttackResult, Case, Component, Edit, Result

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept

    from .diffusion.backbone import Backbone
    from .diffusion.target import TargetModel
    from .workspace import Workspace


@runtime_checkable
class Method(Protocol):
    """A concept-erasure method: a frozen dataclass whose fields are its settings.

    The other method Protocols below are optional. Generic code tests for each with ``isinstance`` and works without it.
    """

    name: ClassVar[str]

    def erase(self, backbone: Backbone, concept: Concept, *, generator: Generator) -> Edit:
        """Erase ``concept`` and return the change; ``backbone`` itself stays unchanged."""
        ...


@runtime_checkable
class WorkspaceMethod(Protocol):
    """A method that writes checkpoints, keeps a cache or shows progress."""

    name: ClassVar[str]
    uses_workspace: ClassVar[bool]

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Erase ``concept`` and return the change; the workspace does not affect the result."""
        ...


@runtime_checkable
class RetainingMethod(Protocol):
    """A method with retain prompts: prompts whose meaning the erasure must preserve."""

    name: ClassVar[str]

    @property
    def retained(self) -> tuple[str, ...]:
        """The retain prompts."""
        ...

    @property
    def wants_retained(self) -> bool:
        """True if prompts of everyday objects are retained when a user names no retain prompts."""
        ...

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same method with other retain prompts."""
        ...


@runtime_checkable
class CaptionMethod(Protocol):
    """A method that edits either the bare words of a concept or its captions."""

    name: ClassVar[str]

    def by_captions(self) -> Self:
        """Return the same method, which edits the captions of the concept."""
        ...


@runtime_checkable
class StandardMethod(Protocol):
    """A method whose retain prompts have no default, so its standard settings need them as an argument."""

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these retain prompts."""
        ...


@runtime_checkable
class ComponentMethod(Protocol):
    """A method that trains a text encoder or a UNet, and whose default retain terms depend on the component."""

    name: ClassVar[str]

    @property
    def component(self) -> Component:
        """Component to train."""
        ...

    @property
    def wants_retained(self) -> bool:
        """True if there are terms on retain prompts."""
        ...

    def for_component(self, component: Component) -> Self:
        """Return the same method for another component, with the default retain terms of that component."""
        ...


@runtime_checkable
class SlotMethod(Protocol):
    """A method that can train one of two text encoders, as SDXL has them; the other one stays frozen."""

    name: ClassVar[str]

    @property
    def component(self) -> Component:
        """Component to train."""
        ...

    def slot_problems(self) -> list[str]:
        """Return the settings that a base with two text encoders does not allow, one sentence each."""
        ...


@runtime_checkable
class DistributedMethod(Protocol):
    """A method whose batches can be divided among several processes."""

    name: ClassVar[str]

    def for_processes(self, n: int) -> Self:
        """Return the same method with batches n times as large, to be divided among n processes."""
        ...


class EmbeddedBase(Protocol):
    """A small synthetic base with its own pipeline, concepts and captions; its constructor takes no arguments."""

    name: ClassVar[str]
    license: ClassVar[str]

    def pipeline(self) -> Any:
        """Return the pipeline, on the CPU."""
        ...

    def concept(self, name: str, *, anchored: bool = False) -> Concept:
        """Return a concept with its captions.

        Args:
            name: Name of the concept.
            anchored: True to add an anchor, the text that takes the concept's place; the base chooses it.

        Raises:
            ValueError: The base has no such concept.
        """
        ...

    def retain_prompts(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """Return captions that mention none of ``concepts``.

        Raises:
            ValueError: The base has no such concept.
        """
        ...


@runtime_checkable
class InnerAttack(Protocol):
    """An attack inside a training: it lowers a loss from a start tensor and has access to nothing else."""

    name: ClassVar[str]

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        """Return a detached tensor, shaped like ``start`` (B, ...), for which the values (B,) of ``loss`` are low."""
        ...


@runtime_checkable
class Attack(Protocol):
    """An attack of the evaluation, batched over cases; its dataclass fields are its settings.

    An attack that needs only the model under attack declares ``target: Backbone``. This also satisfies the Protocol,
    since ``TargetModel`` is a ``Backbone``. Name and tier are usually class variables. Further facts are optional class
    variables; ``types.AttackFacts`` documents them and their defaults. The command line builds an attack with its class
    method ``for_concept(concept: Concept)`` if it has one, otherwise with the defaults of its fields. The optional
    class variable ``packages`` names optional packages (``OptionalPackage``), which are asked for before a run.
    Detectors, metrics and methods may have it, too.
    """

    @property
    def name(self) -> str:
        """Name of the attack in ``ATTACKS`` and in the records of results."""
        ...

    @property
    def tier(self) -> str:
        """Threat tier, ``T0`` to ``T7``; see ``evaluation.threat_model.TIERS``."""
        ...

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case and return one result per case, in order."""
        ...


@runtime_checkable
class ClusteredAttack(Protocol):
    """An attack that learns one thing for a group of cases, so that their outcomes are not independent."""

    def clusters(self, n: int) -> tuple[int, ...]:
        """Return the number of the group of each of n cases; n different numbers if the cases are independent."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A scorer of pictures (B, 3, H, W) in [0, 1]; at or above ``threshold`` the concept counts as present.

    The command line builds a detector with its optional class method ``for_concept(concept: Concept)``.
    """

    name: str
    version: str
    threshold: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (B,)."""
        ...


@runtime_checkable
class JointDetector(Protocol):
    """A detector that consists of several; it finds the concept where the margins of all of them are 0 or above."""

    name: str
    version: str
    threshold: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (B,)."""
        ...

    def margins(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return the margins (B,) of each detector by its name, on the CPU."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A measure that accumulates batches of pictures and computes one result.

    If ``compares`` is true, the metric needs the base's pictures of the same cases as reference. The command line
    builds a metric with its optional class method ``for_concept(concept: Concept)``.
    """

    higher_is_better: ClassVar[bool]
    compares: ClassVar[bool]

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Add pictures (B, 3, H, W) in [0, 1] and the cases that they were drawn for."""
        ...

    def compute(self) -> Result:
        """Return the result over all pictures added so far."""
        ...
