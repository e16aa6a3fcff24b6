"""DES, and the two terms that SAGE adds: the text encoder distorted by cosines alone, without a UNet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..losses import weighted_sum
from ..prompts.encoded import EncodedPrompts, conditionings
from ..trainer.loop import TrainingConfig, finetune
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity, run_record
from ..types import Edit
from ..workspace import Workspace
from .text_encoder import as_weights, train_only

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class DES:
    """Distorting Embedding Space (Ahn and Jung, NeurIPS 2025, arXiv 2501.18877), on the text encoder.

    E is a prompt's whole conditioning as one vector, all positions with the padding, E' the trained encoder's, n the
    concept's bare name and v = E(n) / |E(n)|. Captions u with the concept are turned to E(s) - ``scale`` v, where s is
    the safe prompt that lies farthest from u; safe prompts s keep E(s), and keep it with ``scale`` v added; n itself
    goes to the empty prompt. Each term is 1 - cos, in the mean over the batch:

        keep (safe + shifted) + (1 - keep) (unsafe + neutral)

    No attack and no UNet. ``spread_weight`` and ``structure_weight`` add the regularisers of SAGE (ECCV 2026, arXiv
    2607.00402; 2.0 and 0.1 there, with a scale of 205): the safe prompts of a batch, normalised, shall not lie closer
    together than before, and the cosines of each with its nearest neighbours shall correlate with those before.

    Written anew from a description of both papers and of what the authors' programs do; none of their code, whose
    licence forbids commercial use, is here. Departures: token and position embeddings stay as they are, Adam decays no
    weights, and every batch is drawn anew.

    Args:
        safe: Prompts without the concept; no default.
        scale: In units of the conditionings, so another encoder wants another one. Theirs is for CLIP ViT-L/14.
        keep: Weight of the safe terms, the paper's lambda.
        batch: Prompts with the concept, and as many safe ones, an iteration.
        spread_weight: Of SAGE's first term; 0 leaves it out.
        structure_weight: Of its second; 0 leaves it out.
        neighbours: Of each prompt within the batch, in the second.
        shift: How far along v the trained conditionings stand in the second.
        select: Trained parameters.
        train: Iterations and rates; by default two passes over the paper's 6,911 pairs.

    Raises:
        ValueError: A number outside its range, or a batch of no more prompts than neighbours.
    """

    name: ClassVar[str] = "des"
    uses_workspace: ClassVar[bool] = True
    safe: tuple[str, ...]
    scale: float = 200.0
    keep: float = 0.3
    batch: int = 128
    spread_weight: float = 0.0
    structure_weight: float = 0.0
    neighbours: int = 15
    shift: float = 1.0
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(iterations=108))

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1 or min(self.scale, self.spread_weight, self.structure_weight) < 0:
            raise ValueError(f"expected keep between 0 and 1, scale and weights of at least 0, found {self}")
        if self.neighbours < 1 or self.batch < self.least:
            raise ValueError(
                f"expected a neighbour, and a batch of at least {self.least} prompts, found {self.neighbours} "
                f"neighbours and a batch of {self.batch}"
            )

    @property
    def least(self) -> int:
        """How many safe prompts a batch has at least."""
        if self.structure_weight:
            return max(3, self.neighbours + 1)  # two prompts have one cosine, and no correlation
        return 2 if self.spread_weight else 1

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these safe prompts."""
        return cls(safe=retained)

    @property
    def retained(self) -> tuple[str, ...]:
        """The safe prompts."""
        return self.safe

    @property
    def wants_retained(self) -> bool:
        """Whether everyday objects are retained where a user names nothing."""
        return True

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other safe prompts."""
        return replace(self, safe=prompts)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` is left as it was.

        Args:
            backbone: The base; its UNet is not called.
            concept: Its prompts are distorted, its name is neutralised. Of a joint concept every part has a
                direction of its own, and their prompts go against the sum.
            generator: All randomness.
            workspace: Checkpoints and progress; by default nothing is kept.

        Raises:
            ValueError: No prompts with the concept, too few safe ones, or nothing selected.
            RuntimeError: The loss is not finite, or the checkpoint belongs to another run.
        """
        if not concept.prompts:
            raise ValueError(
                f"expected captions with the concept in Concept.prompts (--prompts), found none for {concept.name!r}: "
                "its bare name goes to the empty prompt, and cannot stand for them"
            )
        if len(self.safe) < self.least:
            raise ValueError(
                f"expected at least {self.least} safe prompts, found {len(self.safe)}: give DES.safe, captions without "
                "the concept"
            )
        started, workspace = time.monotonic(), workspace or Workspace()
        teacher = backbone.sharing(precision=self.train.precision)
        student = teacher.clone()
        student.text_encoder.float().eval()
        identity = run_identity(self, teacher, concept, generator)
        twice = (student.text_encoder,) if workspace.gradient_checkpointing else ()
        with teacher.frozen(), activation_checkpointing(*twice):
            parameters = train_only(self.select.select(student.text_encoder), student.text_encoder)
            loss = Distortion.of(self, concept, teacher, student)
            log = finetune(parameters, loss, self.train, generator=generator, workspace=workspace, identity=identity)
        record = run_record(log, 0, 0, seconds=time.monotonic() - started, precision="fp32")
        return as_weights(student, backbone, record)


@dataclass(frozen=True)
class Distortion:
    """The loss of one iteration.

    Args:
        settings: Scale, weights, batch.
        student: Whose text encoder is trained.
        unsafe: Prompts with the concept, N of them.
        farthest: Which of ``safe`` lies farthest from each (N,).
        safe: Prompts without it, M of them.
        kept: Their frozen conditionings (M, L D).
        names: The bare names of the concept's parts.
        null: Frozen conditioning (1, L D) of the empty prompt.
        direction: Unit vector (L D) of the name, or the sum of those of several parts.
        shard: Every process returns as large a share of the whole loss.
    """

    settings: DES
    student: Backbone
    unsafe: EncodedPrompts
    farthest: Tensor
    safe: EncodedPrompts
    kept: Tensor
    names: EncodedPrompts
    null: Tensor
    direction: Tensor
    shard: Shard = field(default_factory=Shard.current)

    @classmethod
    @torch.no_grad()
    def of(cls, settings: DES, concept: Concept, teacher: Backbone, student: Backbone) -> Distortion:
        """Read the prompts, and choose the farthest safe one for each with the concept."""
        names = [part.name for part in concept.parts or (concept,)]
        unsafe, safe = EncodedPrompts.read(teacher, concept.prompts), EncodedPrompts.read(teacher, settings.safe)
        before, kept, named, null = (
            conditionings(teacher, texts).float().flatten(1) for texts in (unsafe.texts, safe.texts, names, ("",))
        )
        direction = F.normalize(named, dim=1).sum(0)
        farthest = (F.normalize(before, dim=1) @ F.normalize(kept, dim=1).T).argmin(1)
        return cls(
            settings, student, unsafe, farthest, safe, kept, EncodedPrompts.read(teacher, names), null, direction
        )

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of the loss () and of its parts."""
        s = self.settings
        u, k = _draw(self.unsafe, s.batch, generator), _draw(self.safe, s.batch, generator)
        parts = [(p.embeds[i], p.ids[i]) for p, i in ((self.unsafe, u), (self.safe, k))] + [self.names.rows]
        encoded = self.student.encode(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))).float().flatten(1)
        unsafe, safe, names = torch.split(encoded, [len(ids) for _, ids in parts])
        before, along = self.kept[k], s.scale * self.direction
        terms = {
            "safe": (s.keep, _apart(safe, before)),
            "shifted": (s.keep, _apart(safe + along, before)),
            "unsafe": (1 - s.keep, _apart(unsafe, self.kept[self.farthest[u]] - along)),
            "neutral": (1 - s.keep, _apart(names, self.null.expand_as(names))),
        }
        if s.spread_weight:
            terms["spread"] = (s.spread_weight, (spread(before) - spread(safe)).clamp(min=0)[None])
        if s.structure_weight:
            moved = safe + s.shift * self.direction
            terms["structure"] = (s.structure_weight, 1 - neighbour_correlation(moved, before, s.neighbours)[None])
        total, means = weighted_sum(terms)
        n = self.shard.count
        return total / n, {name: value / n for name, value in means.items()}

    def state(self) -> dict[str, Tensor]:
        """Return nothing: no iteration depends on the one before."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing back."""


def spread(rows: Tensor) -> Tensor:
    """Return the trace () of the covariance of the normalised rows (B, D), SAGE's spread of a batch."""
    return F.normalize(rows, dim=1).var(0).sum()


def neighbour_correlation(rows: Tensor, before: Tensor, neighbours: int) -> Tensor:
    """Return Pearson's correlation () of the cosines between neighbours in ``rows`` and in ``before``, both (B, D).

    Args:
        rows: With gradients.
        before: Says who is a neighbour of whom: the nearest of each by cosine.
        neighbours: At most B - 1.
    """
    old, new = (unit @ unit.T for unit in (F.normalize(before, dim=1), F.normalize(rows, dim=1)))
    nearest = old.clone().fill_diagonal_(-torch.inf).topk(neighbours, dim=1).indices
    a, b = (cosines.gather(1, nearest).flatten() for cosines in (new, old))
    return F.cosine_similarity(a - a.mean(), b - b.mean(), dim=0)


def _apart(rows: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cos (B,) of rows and their targets (B, D)."""
    return 1 - F.cosine_similarity(rows, target, dim=1)


def _draw(prompts: EncodedPrompts, n: int, generator: Generator) -> Tensor:
    """Return n different prompts (n,), or all of fewer."""
    return torch.randperm(len(prompts.texts), generator=generator)[:n].to(prompts.ids.device)
