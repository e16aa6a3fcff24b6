"""Receler: erasers after the cross-attentions of a frozen UNet, trained against adversarial prompts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Generator, nn

from robust_encoders.overlays.eraser import Eraser, applied, new_tensors
from robust_encoders.pipeline.shared_copy import shared_copy

from ..diffusion.attention_maps import MaskConfig
from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..objectives.receler import RecelerObjective, Target
from ..prompts.adversarial_rows import AdversarialRowsConfig
from ..trainer.loop import TrainingConfig, finetune
from ..trainer.run_record import run_identity, run_record
from ..trainer.storage import Stored, StoredTrajectories
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .retaining import RetainsField

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class Receler(RetainsField):
    """Receler: erasers after the cross-attentions of a frozen UNet (Huang et al., ECCV 2024, arXiv 2311.17717).

    After every cross-attention with the output o, an eraser adds E(o) = U GELU(D o + b_D) + b_U. The loss is the
    squared error of the noise prediction for an attacked prompt, against the frozen model's prediction guided away from
    the concept, plus ``outside_weight`` times the mean power of E(o) where the frozen model does not attend to the
    concept's words. Only the erasers are trained, so the component is always the UNet: the text encoder has no
    cross-attention.

    The attack learns rows of the text encoder's output after the prompt, so that the UNet with erasers predicts the
    concept again. These rows live on from iteration to iteration. Several concepts share the erasers, and each has
    its own rows.

    Args:
        rank: Inner width of each eraser.
        batch: Number of prompts with the concept per iteration (paper: 1).
        eta: Strength of negative guidance. The target is e_b - eta (e_p - e_b), where e_p is the frozen model's
            prediction for the prompt and e_b is its prediction for the prompt that ``target`` chooses.
        target: Prompt that the target starts from. ``negative_guidance`` takes the empty prompt, as the paper does.
            ``anchor`` takes the same prompt with the concept's words replaced by the anchor, a departure that keeps the
            rest of a caption.
        attack: Settings of the adversarial rows.
        mask: Settings of the mask of the places that show the concept.
        outside_weight: Weight of the regularisation outside the mask; 0 leaves it out.
        retain: Retain prompts, for which the noise prediction stays the same. The paper has none.
        retain_weight: Weight of the squared error on retain prompts, if there are any.
        retain_batch: Number of retain prompts per iteration.
        rollout: Source of the latents. ``student`` draws each by a new DDIM run with the erasers on, as published.
            ``bank`` takes them from stored trajectories of the frozen model, a departure that saves a third of the
            work.
        train: Iterations, learning rate and precision.
        bank: DDIM steps and guidance of the latents, and settings of the stored trajectories.

    Raises:
        ValueError: If a number is outside its range, or if a setting has no effect beside another.
    """

    name: ClassVar[str] = "receler"
    uses_workspace: ClassVar[bool] = True
    component: ClassVar[str] = "unet"
    rank: int = 128
    batch: int = 1
    eta: float = 1.0
    target: Target = "negative_guidance"
    attack: AdversarialRowsConfig = field(default_factory=AdversarialRowsConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    outside_weight: float = 0.1
    retain: tuple[str, ...] = ()
    retain_weight: float = 1.0
    retain_batch: int = 4
    rollout: Literal["student", "bank"] = "student"
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(iterations=500, rate=3e-4))
    bank: BankConfig = field(default_factory=BankConfig)

    def __post_init__(self) -> None:
        if min(self.rank, self.batch, self.retain_batch) < 1 or min(self.outside_weight, self.retain_weight) < 0:
            raise ValueError(
                f"expected rank, batch and retain_batch of at least 1, and weights of at least 0, found {self}"
            )
        if self.rollout == "student" and self.bank.mode == "fresh":
            raise ValueError(
                "expected bank.mode 'bank' beside rollout 'student', found 'fresh', which draws by the frozen model: "
                "choose rollout 'bank' for fresh trajectories of the frozen model"
            )
        if self.train.precision == "fp16":
            raise ValueError(
                "expected precision fp32 or bf16, found fp16: its loss scaling needs a UNet without trained parameters"
            )

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        texts = len(concept.prompts or concept.words())
        aside = 4 if self.target == "anchor" else 3
        kept = StoredTrajectories(self.bank.for_retain(), len(self.retain))
        own = StoredTrajectories(self.bank.for_concept(), texts, aside)
        return Stored((own, kept) if self.rollout == "bank" else (kept,))

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train erasers and return them as an edit; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase: its prompts, or its words if it has no prompts. A word of the concept must occur
                in each prompt, because the mask is made from the attention to it.
            generator: Generator of all random draws except the bank's.
            workspace: Folders of checkpoints and bank cache, and the progress switch.

        Raises:
            ValueError: If a prompt has no word of the concept or no room for the adversarial rows, if several processes
                run, if ``workspace`` asks for micro-batches, or if the base is in float16.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        started, workspace = time.monotonic(), workspace or Workspace()
        _require_fitting(backbone, workspace)
        teacher = backbone.sharing(precision=self.train.precision)
        student = teacher.sharing(unet=shared_copy(teacher.unet, "the training").eval().requires_grad_(False))
        identity = run_identity(self, teacher, concept, generator)
        trained = {
            name: nn.Parameter(one.to(teacher.device))
            for name, one in new_tensors(teacher.unet, self.rank, generator=generator).items()
        }
        twice = (student.unet,) if workspace.gradient_checkpointing else ()
        with teacher.frozen(), activation_checkpointing(*twice):
            loss = RecelerObjective(self, teacher, student, concept, generator=generator, workspace=workspace)
            bank_calls, teacher.unet_calls = teacher.unet_calls, 0
            with applied(student.unet, [Eraser(trained)], observe=loss.outputs):
                log = finetune(trained, loss, self.train, generator=generator, workspace=workspace, identity=identity)
        seconds = time.monotonic() - started
        record = run_record(log, loss.unet_calls, bank_calls, seconds=seconds, precision=teacher.computes_in)
        tensors = {name: one.detach().cpu().contiguous() for name, one in trained.items()}
        return Edit("eraser", "unet", tensors, {"rank": self.rank}, record)


def _require_fitting(backbone: Backbone, workspace: Workspace) -> None:
    if backbone.dtype == torch.float16:
        raise ValueError(
            "expected a base in float32 or bfloat16, found float16, in which gradients vanish: load the base in one "
            "of them"
        )
    if (count := Shard.current().count) > 1:
        raise ValueError(
            f"expected one process, found {count}: start without torchrun and accelerate launch, because Receler's "
            "attack changes its rows within an iteration and its batch cannot be shared"
        )
    if workspace.micro_batch is not None:
        raise ValueError(
            f"expected no micro_batch, found {workspace.micro_batch}: leave it out and use gradient checkpointing, "
            "because the batch is small and gradients go to the UNet's erasers"
        )
