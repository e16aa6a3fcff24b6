"""Ablating Concepts: the concept's prompts get the noise predictions of an anchor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

from torch import Generator, nn

from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..objectives.ablation import AblationObjective, TargetSource, first_token_detached
from ..prompts.anchor_pairs import PairRule
from ..prompts.concept_words import naming
from ..provenance import EXTRA
from ..trainer.loop import TrainingConfig, finetune
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity, run_record
from ..trainer.storage import Stored
from ..trainer.token_rows import TokenRows
from ..trainer.unet_parameters import UNetGroup, UNetSelectionConfig, as_delta, trainable_unet
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .retaining import RetainsField
from .terms import Component, as_weights, train_only

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

ParameterGroup = Literal["cross-attn", "attn", "full-weight", "embedding", "text-encoder"]
UNET_GROUPS: Mapping[str, UNetGroup] = {"cross-attn": "x-strict", "attn": "attention", "full-weight": "full"}


class _Student(NamedTuple):
    """A base of which some parameters are in training.

    Args:
        backbone: Base with a copy of the component.
        parameters: Parameters to train, by name.
        active: Context in which the base uses the parameters.
        edit: Function that makes the edit from the record of the run.
    """

    backbone: Backbone
    parameters: Mapping[str, nn.Parameter]
    active: AbstractContextManager[None]
    edit: Callable[[Mapping[str, object]], Edit]


@dataclass(frozen=True, kw_only=True)
class Ablation(RetainsField):
    """Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV 2023, arXiv 2303.13516).

    For a prompt with the concept, the model shall make the noise prediction that it makes for the same prompt with the
    anchor, on noised pictures of the anchor. Gradients through keys and values of the first token
    are stopped. The defaults are the authors' for a style, with their effective learning rate: their ``--scale_lr``
    multiplies the rate by the number of pictures in a step; see ``scaled_rate``. Departures: pictures come from DDIM
    instead of DPM-Solver++, and are not resized at random, so the loss needs no masks.

    Args:
        parameters: Parameters to train, by the release's names. On the UNet: ``cross-attn`` is the keys and values of
            cross-attention, ``attn`` every projection of every attention, ``full-weight`` everything. On the text
            encoder: ``embedding`` is the token embeddings of the concept's words, and ``text-encoder``, an addition,
            what ``select`` names.
        target: Target of the noise prediction. ``current`` is the anchor's prediction by the model in training, as
            published, ``frozen`` that of the base, ``noise`` the noise itself.
        anchor_prompts: Prompts with the anchor and without the concept. Empty makes them from the concept's captions,
            or without captions from this package's sentences.
        pairs: Rule that makes prompts with the concept from anchor prompts: ``replace``, ``style``, ``append`` or
            ``caption``; ``auto`` chooses by the concept's kind. See ``prompts.anchor_pairs``.
        pictures: Number of pictures of the anchor prompts, which take turns.
        avoid: Switch that draws the anchor's pictures with the concept's words as negative prompt.
        batch: Number of pictures per iteration, and as many again for the prior.
        prior_weight: Weight of the anchor's own training loss; 0 leaves it out. It is required if the anchor is part
            of the concept's name, as in "cat" and "grumpy cat".
        retain: Retain prompts, which keep their predictions. They are an addition of this package. With ``embedding``
            their tokens stay as they are, which is exact, so there is no term on them.
        retain_batch: Number of pictures of retain prompts per iteration.
        retain_weight: Weight of the term on retain prompts.
        select: Parameters of the text encoder to train, with ``text-encoder``.
        train: Iterations, learning rate, weight decay and precision.
        bank: DDIM steps and guidance of the pictures, pictures at once, and the largest number of prompts.

    Raises:
        ValueError: If a count or weight is too small, or if a setting has no effect.
    """

    name: ClassVar[str] = "ablation"
    uses_workspace: ClassVar[bool] = True
    parameters: ParameterGroup = "cross-attn"
    target: TargetSource = "current"
    anchor_prompts: tuple[str, ...] = ()
    pairs: PairRule = "auto"
    pictures: int = 1000
    avoid: bool = False
    batch: int = 8
    prior_weight: float = 0.0
    retain: tuple[str, ...] = field(default=(), metadata=EXTRA)
    retain_batch: int = field(default=8, metadata=EXTRA)
    retain_weight: float = field(default=1.0, metadata=EXTRA)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(iterations=100, rate=1.6e-5, weight_decay=1e-2, clip=1.0)
    )
    bank: BankConfig = field(default_factory=lambda: BankConfig(steps=25, guidance=6.0))

    def __post_init__(self) -> None:
        for name, known in (("parameters", ParameterGroup), ("target", TargetSource), ("pairs", PairRule)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"expected {name} in {get_args(known)}, found {getattr(self, name)!r}; choose one")
        if min(self.pictures, self.batch, self.retain_batch) < 1 or min(self.prior_weight, self.retain_weight) < 0:
            raise ValueError(f"expected counts of at least 1 and weights of at least 0, found {self}")
        without = {
            "select (it needs parameters text-encoder)": self.parameters != "text-encoder"
            and self.select != SelectionConfig(),
            "bank.mode fresh (pictures are drawn once)": self.bank.mode != "bank",
            "bank.seeds (set pictures)": self.bank.seeds != 1,
            "train.precision fp16 (choose bf16, because fp16 scales the gradients of a UNet)": self.component == "unet"
            and self.train.precision == "fp16",
        }
        if odd := [name for name, given in without.items() if given]:
            raise ValueError(f"expected settings that have an effect, found {'; '.join(odd)}: leave them out")

    @property
    def component(self) -> Component:
        """Component of the pipeline that is trained."""
        return "unet" if self.parameters in UNET_GROUPS else "text_encoder"

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        if self.component == "unet":
            return Stored(select=UNetSelectionConfig(group=UNET_GROUPS[self.parameters]), train=self.train)
        # Token embeddings alone are few, but the artifact holds the whole text encoder.
        return Stored(select=self.select, train=self.train if self.parameters == "text-encoder" else None)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the component and return the change; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase, with its anchor. Its captions or ``anchor_prompts`` give the training prompts.
            generator: Generator of all random draws of the training; pictures have seeds of their own.
            workspace: Folders of checkpoints and of the pictures' cache, and the progress switch.

        Raises:
            ValueError: If no prompts can be made, if the anchor is part of the concept's name and ``prior_weight`` is
                0, or if several processes or micro-batches are asked for.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        started, workspace = time.monotonic(), workspace or Workspace()
        self._require(concept, workspace)
        teacher = backbone.sharing(precision=self.train.precision)
        identity = run_identity(self, teacher, concept, generator)
        student = self._student(teacher, concept)
        twice = (student.backbone.unet, student.backbone.text_encoder) if workspace.gradient_checkpointing else ()
        with teacher.frozen(), student.active, activation_checkpointing(*twice):
            loss = AblationObjective.of(self, teacher, student.backbone, concept=concept, workspace=workspace)
            bank_calls, teacher.unet_calls = teacher.unet_calls, 0
            with first_token_detached(student.backbone.unet):
                log = finetune(
                    student.parameters, loss, self.train, generator=generator, workspace=workspace, identity=identity
                )
        seconds = time.monotonic() - started
        return student.edit(
            run_record(log, loss.unet_calls, bank_calls, seconds=seconds, precision=teacher.computes_in)
        )

    def _require(self, concept: Concept, workspace: Workspace) -> None:
        if (count := Shard.current().count) > 1:
            raise ValueError(f"expected one process for {self.name}, found {count}: start it without a launcher")
        if workspace.micro_batch is not None:
            raise ValueError(
                f"expected no micro-batches for {self.name}, found {workspace.micro_batch}: use gradient checkpointing"
            )
        for part in concept.parts or (concept,):
            inside = bool(part.anchor) and any(naming([part.anchor]).search(word) for word in part.words())
            if inside and not self.prior_weight:
                raise ValueError(
                    f"expected prior_weight above 0 for the anchor {part.anchor!r}, found 0: the anchor is part of "
                    f"{part.name!r} and would change with it; set prior_weight to 1, as the authors do"
                )

    def _student(self, teacher: Backbone, concept: Concept) -> _Student:
        if self.component == "unet":
            backbone, chosen = trainable_unet(teacher, UNetSelectionConfig(group=UNET_GROUPS[self.parameters]))
            return _Student(backbone, chosen, nullcontext(), lambda log: as_delta(chosen, teacher, log))
        student = teacher.clone()
        encoder = student.text_encoder.float().eval()
        if self.parameters == "text-encoder":
            chosen = train_only(self.select.select(encoder), encoder)
            return _Student(student, chosen, nullcontext(), lambda log: as_weights(student, teacher, log))
        anchors = [part.anchor for part in concept.parts or (concept,) if part.anchor]
        rows = TokenRows.of(student, concept.words(), [*anchors, *self.retain])
        encoder.requires_grad_(False)

        def edit(log: Mapping[str, object]) -> Edit:
            rows.write(encoder)
            return as_weights(student, teacher, log)

        return _Student(student, {"token_embeddings": rows.values}, rows.inserted(encoder), edit)


def scaled_rate(rate: float, batch: int, *, prior: bool) -> float:
    """Return the effective learning rate of the authors' recipes, whose ``--scale_lr`` multiplies the stated rate.

    Args:
        rate: Rate as the authors' commands state it.
        batch: Number of pictures per step on all GPUs together.
        prior: True if the prior is trained, too, which doubles the number of pictures.
    """
    return rate * batch * (2 if prior else 1)
