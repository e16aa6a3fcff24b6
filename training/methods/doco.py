"""DoCo: adversarial training that makes pictures of a concept look like pictures of its anchor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Generator

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..objectives.doco import DoCoLosses
from ..provenance import EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity
from ..trainer.storage import Stored
from ..trainer.unet_parameters import UNetSelectionConfig, as_delta, trainable_unet
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .retaining import RetainsField
from .student import Run, Student, train_student
from .terms import as_weights

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class DoCoTrainingConfig(TrainingConfig):
    """Settings of the gradient loop. Defaults are those of DoCo's release, with Adam in place of its AdamW.

    Args:
        iterations: Number of iterations, of which the first ``warmup`` train the discriminator alone.
        rate: Learning rate of Adam. The release writes 6e-6 and multiplies it by the batch size of 8.
        clip: Largest norm of the whole gradient, after the surgery; None does not limit it.
        gradient_surgery: Removal of the part of the erasing gradient that opposes the preserving gradient.
    """

    iterations: int = 2000
    rate: float = 4.8e-5
    clip: float | None = field(default=1.0, metadata=EXTRA)
    gradient_surgery: bool = True


@dataclass(frozen=True, kw_only=True)
class DoCo(RetainsField):
    """DoCo: concept domain correction with a concept-preserving gradient (Wu et al., AAAI 2025, arXiv 2405.15304).

    A discriminator tells the student's predictions of clean latents for prompts with the concept from the frozen
    model's for the same prompts with the anchor. The student, the component in training, learns to be taken for the
    frozen model. A second loss, that of an ordinary training on pictures of the anchor, preserves the rest. Only the
    erasing gradient is applied, after gradient surgery against the preserving one; see ``trainer.surgery``.

    The code here was written from the paper's formulas. The authors' code has no licence, and nothing of it is used. It
    normalises gradients tensor by tensor in the surgery, which removes too much; here the paper's formula holds.
    Departures: Adam has no weight decay. The text encoder as the component, retain prompts and a prior weight above 0
    are additions.

    Args:
        component: Component to train: ``unet``, as published, or ``text_encoder``.
        unet: Parameters of the UNet to train; by default keys and values of cross-attention. ``full`` trains all.
        select: Parameters of the text encoder to train, with component ``text_encoder``.
        anchors: Prompts with the anchor. Without any, the concept's captions and its anchor give them.
        retain: Retain prompts. Pictures of them join those of the anchor in the preserving loss.
        pictures: Number of pictures of the anchor that the frozen model draws, and of those of the retain prompts.
        batch: Number of pictures per iteration in each loss.
        warmup: Number of first iterations that train the discriminator alone.
        discriminator_rate: Learning rate of the discriminator; the release has 5e-4 for styles.
        surgery: Share of the opposing part that is removed from the erasing gradient (the paper's lambda).
        prior_weight: Factor with which the preserving gradient is applied, too; with 0 it is a constraint only.
        train: Iterations, learning rate and precision.
        bank: DDIM steps and guidance of the pictures.

    Raises:
        ValueError: If a number is outside its range, or if a setting has no effect beside the others.
    """

    name: ClassVar[str] = "doco"
    uses_workspace: ClassVar[bool] = True
    component: Literal["text_encoder", "unet"] = "unet"
    unet: UNetSelectionConfig = field(default_factory=lambda: UNetSelectionConfig(group="x-strict"))
    select: SelectionConfig = field(default_factory=SelectionConfig)
    anchors: tuple[str, ...] = ()
    retain: tuple[str, ...] = ()
    pictures: int = 1000
    batch: int = 8
    warmup: int = 1000
    discriminator_rate: float = 1e-4
    surgery: float = 1.0
    prior_weight: float = field(default=0.0, metadata=EXTRA)
    train: DoCoTrainingConfig = field(default_factory=DoCoTrainingConfig)
    bank: BankConfig = field(default_factory=lambda: BankConfig(guidance=6.0))

    def __post_init__(self) -> None:
        if self.component not in ("unet", "text_encoder"):
            raise ValueError(f"expected the component 'unet' or 'text_encoder', found {self.component!r}")
        if not 0 <= self.warmup < self.train.iterations:
            raise ValueError(
                f"expected a warm-up shorter than the {self.train.iterations} iterations, found {self.warmup}: lower "
                "warmup, or raise train.iterations"
            )
        if self.pictures < 1 or self.batch < 2 or self.discriminator_rate <= 0:
            raise ValueError(
                "expected pictures of at least 1, a batch of at least 2 (batch normalisation needs two pictures) and a "
                f"discriminator_rate above 0, found {self.pictures}, {self.batch} and {self.discriminator_rate}"
            )
        if self.surgery <= 0 or self.prior_weight < 0:
            raise ValueError(
                f"expected surgery above 0 and prior_weight of at least 0, found {self.surgery} and {self.prior_weight}"
            )
        if odd := self._without_effect():
            raise ValueError(
                f"expected settings with an effect, found {' and '.join(odd)} beside no preserving loss: turn "
                "train.gradient_surgery on, or give prior_weight"
            )

    def _without_effect(self) -> list[str]:
        idle = {"surgery": self.surgery != 1 and not self.train.gradient_surgery}
        idle["retain"] = bool(self.retain) and not self.preserves
        return [name for name, given in idle.items() if given]

    @property
    def preserves(self) -> bool:
        """True if the preserving loss is computed."""
        return self.train.gradient_surgery or self.prior_weight > 0

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return Stored(select=self.unet if self.component == "unet" else self.select, train=self.train)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the component and return it as an edit; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase; see ``prompts.anchor_pairs`` for the prompts that it gives.
            generator: Generator of all random draws, except the pictures'.
            workspace: Folders of checkpoints and of the cache of pictures, and the progress switch.

        Raises:
            ValueError: If there are several processes, or if anchor prompts are missing and none can be made.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        if Shard.current().count > 1:
            raise ValueError(
                f"expected one process for DoCo, found {Shard.current().count}: start it without accelerate launch or "
                "torchrun, because the discriminator's batch normalisation needs the whole batch"
            )
        workspace = workspace or Workspace()
        teacher = backbone.sharing(precision=self.train.precision)
        student = self._student(teacher)
        run = Run(run_identity(self, teacher, concept, generator), generator, workspace)

        def build() -> DoCoLosses:
            both = (teacher, student.backbone)
            return DoCoLosses.prepare(self, concept, both, generator=generator, workspace=workspace)

        record = train_student(student, teacher, build, settings=self.train, run=run)
        if self.component == "unet":
            return as_delta(student.parameters, backbone, record)
        return as_weights(student.backbone, backbone, record)

    def _student(self, teacher: Backbone) -> Student:
        if self.component == "unet":
            backbone, parameters = trainable_unet(teacher, self.unet)
            return Student(backbone, backbone.unet, parameters)
        backbone = teacher.clone()
        backbone.text_encoder.float().eval()
        return Student(backbone, backbone.text_encoder, self.select.select(backbone.text_encoder))
