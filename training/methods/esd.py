"""ESD on the text encoder: AdvUnlearn's objective without an attack."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from ..diffusion.backbone import Backbone
from ..objectives.config import HardeningConfig, OutlierConfig, RetainConfig, TermsConfig, UnlearnConfig
from ..provenance import EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .text_encoder import erase_from_text_encoder

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class ESD:
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345), on the text encoder.

    The paper trains the UNet and has no retain term. This is the text-encoder variant that AdvUnlearn is compared with.
    To train without retain prompts, give ``RetainConfig(weight=0, conditioning_weight=0)``.

    Args:
        retain: Retain prompts and the weights of their terms. The prompts have no default.
        unlearn: Settings of the terms on prompts with the concept.
        select: Parameters of the text encoder to train.
        train: Iterations, learning rate and precision.
        bank: Settings of the frozen model's trajectories, which give the latents.
        hardening: Settings of terms on conditionings, without their attack.
        outliers: Settings of terms on outliers, text that no caption resembles.

    Raises:
        ValueError: If strings shall be searched for, which is an attack, or if a setting has no effect.
    """

    name: ClassVar[str] = "esd"
    uses_workspace: ClassVar[bool] = True
    inner_attacks: ClassVar[None] = None
    retain: RetainConfig
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    hardening: HardeningConfig = field(default_factory=HardeningConfig, metadata=EXTRA)
    outliers: OutlierConfig = field(default_factory=OutlierConfig, metadata=EXTRA)

    def __post_init__(self) -> None:
        _ = self.terms  # refuses settings that contradict each other

    @property
    def terms(self) -> TermsConfig:
        """Settings of the objective."""
        return TermsConfig(self.unlearn, self.retain, self.hardening, self.outliers)

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
        )

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` stays unchanged. See ``AdvUnlearn.erase``."""
        return erase_from_text_encoder(self, backbone, concept, generator=generator, workspace=workspace or Workspace())
