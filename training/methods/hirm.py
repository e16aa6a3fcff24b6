"""HiRM: the text encoder's first layer is trained, and the loss lies in its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Generator, nn

from ..diffusion.backbone import Backbone
from ..objectives.hirm import Misdirection, Target, Texts
from ..provenance import EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity
from ..trainer.storage import Stored
from ..types import Edit
from ..workspace import Workspace
from .retaining import RetainsField
from .slots import require_backbone_for
from .student import Run, train_student
from .terms import as_weights, text_student

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept

_BETAS, _EPS = (0.9, 0.98), 1e-6  # of AdamW, as CLIP was trained with


@dataclass(frozen=True, kw_only=True)
class HiRMTrainingConfig(TrainingConfig):
    """Settings of the gradient loop: AdamW with betas 0.9 and 0.98, and epsilon 1e-6.

    The defaults of iterations and rate are those of a public port of the authors' code.

    Args:
        iterations: Number of optimizer steps.
        rate: Learning rate of AdamW.
        weight_decay: Decoupled weight decay, as a factor of the rate; 0 leaves it out.
    """

    iterations: int = 50
    rate: float = 1e-4
    weight_decay: float = field(default=1e-8, metadata=EXTRA)

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return AdamW with HiRM's betas and epsilon."""
        optimizer = super().optimizer(parameters)
        for group in optimizer.param_groups:
            group.update(betas=_BETAS, eps=_EPS)
        return optimizer


@dataclass(frozen=True, kw_only=True)
class HiRM(RetainsField):
    """HiRM, high-level representation misdirection (Lee et al., ICLR 2026, arXiv 2602.19631), on the text encoder.

    Only attention and MLP of layer 0 are trained. The loss lies in the last layer: H(p), the output of the output
    projection of its attention for a text p, shall be a target t. It is the mean over all positions and entries of
    (H'(p) - t)^2. Begin token and padding count as the other positions do. There is no attack and no UNet.

    - HiRM-R, ``target="random"``: t = c r / |r|. r is drawn once, with entries uniform in [0, 1), and |r| is the norm
      of the whole matrix.
    - HiRM-S, ``target="anchor"``: t = c H(a), where a is the anchor, a wider class such as "painting" for "Van Gogh".
    - HiRM-S for nudity, ``target="subtracted"``: t = c (H(p) - v). v is the mean over the texts of H(p) - H(a).

    The code here was written from the formulas. No code of the authors is used. The factors c are this package's
    choice, because the paper's numbers were not read. Retain prompts, captions as texts and the second text encoder of
    SDXL are additions.

    Args:
        component: Text encoder to train: ``text_encoder``, or on SDXL ``text_encoder_2``.
        target: Kind of the target, see above.
        scale: Factor c of the target. None takes this package's choice: 500 for ``random``, where it is the norm of the
            target, and 1 for the others. A public port has 5000 for ``random``.
        texts: Texts to misdirect. ``words`` are the concept's name and synonyms, as in the paper. ``prompts`` are its
            captions, if it has any.
        batch: Number of these texts per iteration; None takes all, as in the paper.
        retain: Retain prompts, whose conditionings stay the same. The paper has none.
        retain_weight: Weight of the squared error of their conditionings, if there are any.
        retain_batch: Number of retain prompts per iteration.
        select: Parameters of the text encoder to train.
        train: Iterations and learning rate.

    Raises:
        ValueError: If a number is outside its range, or the target is unknown.
    """

    name: ClassVar[str] = "hirm"
    uses_workspace: ClassVar[bool] = True
    component: Literal["text_encoder", "text_encoder_2"] = "text_encoder"
    target: Target = "random"
    scale: float | None = None
    texts: Texts = "words"
    batch: int | None = None
    retain: tuple[str, ...] = ()
    retain_weight: float = 1.0
    retain_batch: int = 16
    select: SelectionConfig = field(
        default_factory=lambda: SelectionConfig(layers=(0,), part="linear", final_norm=False)
    )
    train: HiRMTrainingConfig = field(default_factory=HiRMTrainingConfig)

    def __post_init__(self) -> None:
        if self.target not in get_args(Target) or self.texts not in get_args(Texts):
            raise ValueError(
                f"expected a target in {get_args(Target)} and texts in {get_args(Texts)}, found {self.target!r} and "
                f"{self.texts!r}"
            )
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"expected a scale above 0, or none for the default, found {self.scale}")
        if self.retain_batch < 1 or self.retain_weight < 0 or (self.batch is not None and self.batch < 1):
            raise ValueError(
                "expected batch and retain_batch of at least 1 and retain_weight of at least 0, found "
                f"{self.batch}, {self.retain_batch} and {self.retain_weight}"
            )

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts, 32 of them per iteration."""
        return replace(self, texts="prompts", batch=32 if self.batch is None else self.batch)

    def slot_problems(self) -> list[str]:
        """Return no problems: either text encoder of SDXL can be trained with every setting."""
        return []

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return Stored(select=self.select, train=self.train, component=self.component)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder and return it as an edit; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from; its UNet is not called.
            concept: Concept to erase; a semantic target needs its anchor.
            generator: Generator of the random direction and of all other draws.
            workspace: Folder of checkpoints, and the progress switch; by default nothing is kept.

        Raises:
            ValueError: If the target needs an anchor that the concept lacks, if a caption does not name the concept, or
                if the backbone is for another text encoder.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        require_backbone_for(self.component, backbone)
        teacher = backbone.sharing(precision=self.train.precision)
        student = text_student(self.select, teacher)
        run = Run(run_identity(self, teacher, concept, generator), generator, workspace or Workspace())

        def build() -> Misdirection:
            return Misdirection.of(self, concept, teacher, student.backbone, generator=generator)

        record = train_student(student, teacher, build, settings=self.train, run=run)
        return as_weights(student.backbone, backbone, record)
