"""ESD on the text encoder: AdvUnlearn's objective without an attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from ..backbone import Backbone
from ..bank import BankSettings
from ..finetune import Training, Workspace
from ..protocols import Edit
from ..selection import Selection
from ..settings import Retain, Unlearn
from .advunlearn import erase_from_text_encoder

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class ESD:
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345), on the text encoder.

    The paper trains the UNet and has no retain term; this is the text-encoder variant that AdvUnlearn compares with.
    Without retain prompts, give ``Retain(weight=0, conditioning_weight=0)``.

    Args:
        retain: Retain set and weights.
        unlearn: Target and batch of the unlearning term.
        select: Trained parameters.
        train: Iterations, rates, precision.
        bank: Trajectories of the frozen model.
    """

    name: ClassVar[str] = "esd"
    retain: Retain
    unlearn: Unlearn = field(default_factory=Unlearn)
    select: Selection = field(default_factory=Selection)
    train: Training = field(default_factory=Training)
    bank: BankSettings = field(default_factory=BankSettings)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` is left as it was. See ``AdvUnlearn.erase``."""
        return erase_from_text_encoder(
            self, None, backbone, concept, generator=generator, workspace=workspace or Workspace()
        )
