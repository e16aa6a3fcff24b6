"""AdvUnlearn: a text encoder that unlearns a concept, trained against adversarial prompts."""

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
from ..objectives.language_config import LanguageConfig
from ..protocols import InnerAttack
from ..provenance import ADDED, EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trainer.storage import Stored
from ..trainer.unet_parameters import UNetSelectionConfig
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .slots import slot_problems
from .storage import stored_by_terms
from .terms import Component, InnerAttacks, Rollout, erase_by_terms

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class AdvUnlearn:
    """AdvUnlearn (Zhang et al., NeurIPS 2024, arXiv 2405.15234), on the text encoder.

    Each iteration searches adversarial tokens that bring the concept back. Then it trains the student, the text encoder
    in training, on two goals. On the attacked prompts, the prediction shall be ESD's negatively guided target. On
    the retain prompts, it shall stay as before. The default settings are the paper's for nudity.

    There are two departures from the paper. First, the latents come from a bank of whole trajectories, each at its own
    timestep. They can be stored, because no sample depends on the student. Second, four bugs of the authors' code are
    not reproduced: summed attack gradients, a lost last attack step, words counted as tokens, and layers selected by
    string prefix. Settings beyond the paper are off by default: all of ``hardening``, ``outliers`` and ``language``,
    and every other setting whose description calls it a departure.

    Args:
        retain: Retain prompts and the weights of their terms. The prompts have no default.
        component: Component to train: ``text_encoder``, ``unet``, or on SDXL ``text_encoder_2``. With ``unet`` and on
            SDXL, terms on conditionings are refused.
        unlearn: Settings of the terms on prompts with the concept.
        attack: Rule of the inner attack through the UNet.
        adversary: Warm-up, token placements and start of the inner attack.
        select: Parameters of the text encoder to train.
        unet: Parameters of the UNet to train, with component ``unet``.
        train: Iterations, learning rate and precision.
        bank: Settings of the frozen model's trajectories, which give the latents.
        hardening: Settings of terms on conditionings, against stronger attacks.
        hardening_attack: Rule of the inner attack on conditionings.
        outliers: Settings of terms on outliers, text that no caption resembles.
        language: Settings of terms on any text, which need no list of words.

    Raises:
        ValueError: If a setting has no effect beside the others.
    """

    name: ClassVar[str] = "advunlearn"
    uses_workspace: ClassVar[bool] = True
    erase_from: ClassVar[str] = ""
    rollout: ClassVar[Rollout] = "bank"
    retain: RetainConfig
    component: Component = field(default="text_encoder", metadata=ADDED)
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    attack: InnerAttack = field(default_factory=SoftPrompt)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    unet: UNetSelectionConfig = field(default_factory=UNetSelectionConfig, metadata=ADDED)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    hardening: HardeningConfig = field(default_factory=HardeningConfig, metadata=EXTRA)
    hardening_attack: InnerAttack = field(default_factory=lambda: SoftPrompt(steps=4, rate=5e-2), metadata=EXTRA)
    outliers: OutlierConfig = field(default_factory=OutlierConfig, metadata=EXTRA)
    language: LanguageConfig = field(default_factory=LanguageConfig, metadata=EXTRA | ADDED)

    def __post_init__(self) -> None:
        _ = self.terms  # refuses settings that contradict each other

    @property
    def terms(self) -> TermsConfig:
        """Settings of the objective."""
        return TermsConfig(self.unlearn, self.retain, self.hardening, self.outliers, self.adversary, self.language)

    @property
    def inner_attacks(self) -> InnerAttacks:
        """Rules of the two inner attacks."""
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
        """True if everyday objects shall be retained when the user gives no retain prompts."""
        return self.retain.in_noise or self.retain.in_conditioning

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other retain prompts."""
        return replace(self, retain=replace(self.retain, prompts=prompts))

    def for_processes(self, n: int) -> Self:
        """Return a copy with n times the batch sizes, for n processes to share."""
        return replace(
            self,
            unlearn=self.unlearn.for_processes(n),
            retain=self.retain.for_processes(n),
            hardening=self.hardening.for_processes(n),
            outliers=self.outliers.for_processes(n),
            language=self.language.for_processes(n),
        )

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return stored_by_terms(self, concept)

    def slot_problems(self) -> list[str]:
        """Return the settings that a base with two text encoders does not allow, one sentence each."""
        return slot_problems(self)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder and return it as an edit; ``backbone`` stays unchanged.

        Under ``accelerate launch`` or ``torchrun`` the processes share the batches that the settings ask for.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase. Its prompts are unlearned, or its name if it has no prompts.
            generator: Generator of all random draws except the bank's, which depend on prompts and seeds alone.
            workspace: Folders of checkpoints and bank cache, and the progress switch; by default nothing is kept.

        Raises:
            ValueError: If prompts are too long for the adversarial tokens, or no parameter is selected.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        return erase_by_terms(self, backbone, concept, generator=generator, workspace=workspace or Workspace())
