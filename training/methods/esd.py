"""ESD on the text encoder: AdvUnlearn's objective without an attack."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from ..diffusion.backbone import Backbone
from ..objectives.config import RetainConfig, UnlearnConfig
from ..trainer.loop import TrainingConfig, Workspace
from ..trainer.parameters import SelectionConfig
from ..trajectories.bank import BankConfig
from ..types import Edit
from .advunlearn import erase_from_text_encoder

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class ESD:
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345), on the text encoder.

    The paper trains the UNet and has no retain term; this is the text-encoder variant that AdvUnlearn compares with.
    Without retain prompts, give ``RetainConfig(weight=0, conditioning_weight=0)``.

    Args:
        retain: Retain set and weights.
        unlearn: Target and batch of the unlearning term.
        select: Trained parameters.
        train: Iterations, rates, precision.
        bank: Trajectories of the frozen model.

    Raises:
        ValueError: Strings are to be searched for, which is an attack.
    """

    name: ClassVar[str] = "esd"
    retain: RetainConfig
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)

    def __post_init__(self) -> None:
        if self.unlearn.harden.doubt.searches:
            raise ValueError(
                "expected no strings under search, found a weight for them in outliers.searched_weight: ESD has no "
                "attack, so leave it at 0, or train AdvUnlearn"
            )

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these retain prompts."""
        return cls(retain=RetainConfig(prompts=retained))

    @property
    def retained(self) -> tuple[str, ...]:
        """The retain prompts."""
        return self.retain.prompts

    @property
    def wants_retained(self) -> bool:
        """Whether everyday objects are retained where a user names nothing."""
        return self.retain.in_noise or self.retain.in_conditioning

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other retain prompts."""
        return replace(self, retain=replace(self.retain, prompts=prompts))

    def for_processes(self, n: int) -> Self:
        """Return the same with n times the batches, for n processes to share."""
        return replace(self, unlearn=self.unlearn.for_processes(n), retain=self.retain.for_processes(n))

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` is left as it was. See ``AdvUnlearn.erase``."""
        return erase_from_text_encoder(
            self, None, backbone, concept, generator=generator, workspace=workspace or Workspace()
        )
