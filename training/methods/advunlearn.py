"""AdvUnlearn: unlearning against adversarial prompts, by a text encoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from ..attacks.soft_prompt import SoftPrompt
from ..diffusion.backbone import Backbone
from ..objectives.config import (
    AdversaryConfig,
    HardeningConfig,
    OutlierConfig,
    RetainConfig,
    TermsConfig,
    UnlearnConfig,
)
from ..protocols import InnerAttack
from ..provenance import EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .text_encoder import InnerAttacks, erase_from_text_encoder

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class AdvUnlearn:
    """AdvUnlearn (Zhang et al., NeurIPS 2024, arXiv 2405.15234), on the text encoder.

    Each iteration finds adversarial tokens that bring the concept back, then trains the student to predict the
    negatively guided target of ESD in spite of them, and to predict as before on a retain set. Defaults are the
    paper's settings for nudity.

    Departures, each with its reason: latents come from a bank of whole trajectories, at the timesteps they belong to
    (nothing sampled depends on the student); the authors' bugs are not reproduced (summed attack gradients, a lost
    last attack step, words counted as tokens, layers selected by string prefix). Settings beyond the paper are off
    by default: all of ``hardening`` and ``outliers``, and what says so elsewhere.

    Args:
        retain: Retain set and weights; its prompts have no default.
        unlearn: Target and batch of the unlearning term.
        attack: Rule of the inner attack.
        adversary: Warm-up, placements and start of the inner attack.
        select: Trained parameters.
        train: Iterations, rates, precision.
        bank: Trajectories of the frozen model.
        hardening: Terms on conditionings against stronger attacks.
        hardening_attack: Rule of the inner attack on conditionings.
        outliers: Terms on text that no caption resembles.

    Raises:
        ValueError: A setting that would do nothing beside the others.
    """

    name: ClassVar[str] = "advunlearn"
    uses_workspace: ClassVar[bool] = True
    retain: RetainConfig
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    attack: InnerAttack = field(default_factory=SoftPrompt)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    hardening: HardeningConfig = field(default_factory=HardeningConfig, metadata=EXTRA)
    hardening_attack: InnerAttack = field(default_factory=lambda: SoftPrompt(steps=4, rate=5e-2), metadata=EXTRA)
    outliers: OutlierConfig = field(default_factory=OutlierConfig, metadata=EXTRA)

    def __post_init__(self) -> None:
        _ = self.terms  # refuses what contradicts itself

    @property
    def terms(self) -> TermsConfig:
        """Settings of the objective."""
        return TermsConfig(self.unlearn, self.retain, self.hardening, self.outliers, self.adversary)

    @property
    def inner_attacks(self) -> InnerAttacks:
        """Rules of the attacks."""
        return InnerAttacks(self.attack, self.hardening_attack)

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
        return replace(
            self,
            unlearn=self.unlearn.for_processes(n),
            retain=self.retain.for_processes(n),
            hardening=self.hardening.for_processes(n),
            outliers=self.outliers.for_processes(n),
        )

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` is left as it was.

        Args:
            backbone: Base.
            concept: Concept whose prompts (its name, where it has none) are unlearned.
            generator: All randomness but the bank's, which follows from prompts and seeds.
            workspace: Checkpoints, bank cache and progress; by default nothing is kept.

        Raises:
            ValueError: Prompts too long for the adversarial tokens, or nothing selected.
            RuntimeError: The loss is not finite, or the checkpoint belongs to another run.

        Under ``accelerate launch`` or ``torchrun`` the processes share the batches that the settings ask for.
        """
        return erase_from_text_encoder(self, backbone, concept, generator=generator, workspace=workspace or Workspace())
