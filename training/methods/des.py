"""DES and the two terms that SAGE adds: training of the text encoder on cosines of conditionings, without a UNet.

A conditioning is the text encoder's output for a prompt, here as one vector of all L positions (L D).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from ..trainer.storage import Stored
from ..trainer.surgery import LossPair
from ..types import Edit
from ..workspace import Workspace
from .retaining import RetainsField
from .terms import as_weights, train_only

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


_ERASING = ("unsafe", "neutral")  # terms of the loss that erase; the others preserve


@dataclass(frozen=True, kw_only=True)
class DES(RetainsField):
    """DES, embedding distortion (Ahn and Jung, NeurIPS 2025, arXiv 2501.18877), on the text encoder.

    E(p) is the base's conditioning of a prompt p, all positions and the padding as one vector, and E'(p) is that of the
    trained encoder. n is the concept's bare name, and v = E(n) / |E(n)|. The loss has four terms, each the mean of
    1 - cos over the batch:

    - safe: E'(s) against E(s), for prompts s without the concept.
    - shifted: E'(s) + ``scale`` v against E(s).
    - unsafe: E'(u) against E(s) - ``scale`` v, for captions u with the concept. Here s is the safe prompt with the
      smallest cosine to u.
    - neutral: E'(n) against the conditioning of the empty prompt.

        keep (safe + shifted) + (1 - keep) (unsafe + neutral)

    There is no attack and no UNet. ``spread_weight`` and ``structure_weight`` add the regularisers of SAGE (ECCV 2026,
    arXiv 2607.00402; there 2.0 and 0.1, with a scale of 205). The first keeps the normalised safe prompts of a batch
    from moving closer together. The second keeps the cosines between each prompt and its nearest neighbours correlated
    with those of the base.

    The code here was written from a description of both papers and of the authors' programs. It contains none of their
    code, whose licence forbids commercial use. Departures: token and position embeddings are not trained, Adam has no
    weight decay, and every batch is a new draw.

    Args:
        safe: Prompts without the concept. They keep their conditioning and have no default.
        scale: Length of the shift along the concept's direction v. It has the units of the conditionings, so another
            text encoder needs another value; the paper's is for CLIP ViT-L/14.
        keep: Weight of the safe and shifted terms, between 0 and 1. It is the paper's lambda. The unsafe and neutral
            terms have the weight 1 - keep.
        batch: Number of prompts with the concept per iteration. The number of safe prompts is the same.
        spread_weight: Weight of SAGE's first term; 0 leaves it out. The term is on the spread of the safe prompts.
        structure_weight: Weight of SAGE's second term; 0 leaves it out. The term is on the cosines between neighbours.
        neighbours: Number of neighbours per prompt in SAGE's second term. They are the nearest ones in the batch.
        shift: Length of the shift along v in SAGE's second term. The trained conditionings are shifted, and it has
            their units.
        select: Parameters of the text encoder to train.
        train: Iterations and learning rates; the default is two passes over the paper's 6,911 pairs.

    Raises:
        ValueError: If a number is outside its range, or if the batch has no more prompts than ``neighbours``.
    """

    name: ClassVar[str] = "des"
    uses_workspace: ClassVar[bool] = True
    retain_field: ClassVar[str] = "safe"
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
            raise ValueError(f"expected keep between 0 and 1, and scale and weights of at least 0, found {self}")
        if self.neighbours < 1 or self.batch < self.least:
            raise ValueError(
                f"expected neighbours of at least 1 and a batch of at least {self.least} prompts, found "
                f"{self.neighbours} neighbours and a batch of {self.batch}"
            )

    @property
    def least(self) -> int:
        """Smallest number of safe prompts that a batch may have."""
        if self.structure_weight:
            return max(3, self.neighbours + 1)  # two prompts have only one cosine, so no correlation is defined
        return 2 if self.spread_weight else 1

    @property
    def wants_retained(self) -> bool:
        """True, because everyday objects are the safe prompts when the user gives none."""
        return True

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return Stored(select=self.select, train=self.train)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder and return it as an edit; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from; its UNet is not called.
            concept: Concept to erase. The unsafe term uses its prompts, the neutral term its name. A joint concept has
                one direction v for each part; all its prompts are moved against the sum of these directions.
            generator: Generator of all random draws.
            workspace: Folder of checkpoints, and the progress switch; by default nothing is kept.

        Raises:
            ValueError: If there are no prompts with the concept or too few safe prompts, or if no parameter is
                selected.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        if not concept.prompts:
            raise ValueError(
                f"expected captions with the concept in Concept.prompts (--prompts), found none for {concept.name!r}: "
                "give such captions, because the bare name is used for another term and cannot replace them"
            )
        if len(self.safe) < self.least:
            raise ValueError(
                f"expected at least {self.least} safe prompts, found {len(self.safe)}: give captions without the "
                "concept in DES.safe (--retain-prompts)"
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
        settings: Scale, weights and batch size.
        student: Base with the text encoder in training.
        unsafe: N prompts with the concept.
        farthest: Index (N,) of the safe prompt with the smallest cosine to each unsafe prompt.
        safe: M prompts without the concept.
        kept: Frozen conditionings (M, L D) of the safe prompts.
        names: Bare names of the concept's parts.
        null: Frozen conditioning (1, L D) of the empty prompt.
        direction: Unit vector (L D) of the concept's name, or the sum of the unit vectors of several parts.
        shard: Share of this process. Every process computes the whole loss and returns an equal share of it.
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
        """Encode the prompts, and choose the farthest safe prompt for each prompt with the concept."""
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
        """Return this process's share of the loss (), and of each term by name."""
        total, means = weighted_sum(self._terms(generator))
        n = self.shard.count
        return total / n, {name: value / n for name, value in means.items()}

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        """Return this process's share of the erasing terms, unsafe and neutral, and of the others, which preserve."""
        terms = self._terms(generator)
        groups = [{k: v for k, v in terms.items() if (k in _ERASING) == erasing} for erasing in (True, False)]
        (erase, parts), (preserve, others) = (weighted_sum(group) for group in groups)
        n = self.shard.count
        return LossPair(erase / n, preserve / n, {k: {**parts, **others}[k] / n for k in terms})

    def _terms(self, generator: Generator) -> dict[str, tuple[float, Tensor]]:
        """Return weight and losses (B,) of each term by name."""
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
        return terms

    def state(self) -> dict[str, Tensor]:
        """Return no tensors, because no iteration depends on the one before."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore nothing."""


def spread(rows: Tensor) -> Tensor:
    """Return SAGE's spread of a batch: the trace () of the covariance of its normalised rows (B, D)."""
    return F.normalize(rows, dim=1).var(0).sum()


def neighbour_correlation(rows: Tensor, before: Tensor, neighbours: int) -> Tensor:
    """Return Pearson's correlation () between the cosines of neighbours in ``rows`` and in ``before``.

    Args:
        rows: Trained conditionings (B, D), with gradients.
        before: Conditionings (B, D) of the base; the neighbours of a row are those with the highest cosine here.
        neighbours: Number of neighbours of each row, at most B - 1.
    """
    old, new = (unit @ unit.T for unit in (F.normalize(before, dim=1), F.normalize(rows, dim=1)))
    nearest = old.clone().fill_diagonal_(-torch.inf).topk(neighbours, dim=1).indices
    a, b = (cosines.gather(1, nearest).flatten() for cosines in (new, old))
    return F.cosine_similarity(a - a.mean(), b - b.mean(), dim=0)


def _apart(rows: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cos (B,) of rows and their targets (B, D)."""
    return 1 - F.cosine_similarity(rows, target, dim=1)


def _draw(prompts: EncodedPrompts, n: int, generator: Generator) -> Tensor:
    """Draw the indices (n,) of n different prompts, or of all if there are fewer."""
    return torch.randperm(len(prompts.texts), generator=generator)[:n].to(prompts.ids.device)
