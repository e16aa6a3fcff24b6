"""HiRM's loss: the last layer's attention output for the concept's texts, turned to a target of its own.

Lee et al., "Localized Concept Erasure in Text-to-Image Diffusion Models via High-Level Representation Misdirection",
ICLR 2026 (arXiv 2602.19631). A representation H(p) (L, D) of a prompt p is the output of the attention's output
projection in the text encoder's last layer, at all L positions, before it is added to the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import squared_error, weighted_sum
from ..prompts.concept_words import anchor_prompts
from ..prompts.encoded import EncodedPrompts, conditionings
from .captured_output import captured, last_attention_output

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Target = Literal["random", "anchor", "subtracted"]
Texts = Literal["words", "prompts"]
# The default factor c for each kind of target, this package's choice.
SCALES: Mapping[Target, float] = {"random": 500.0, "anchor": 1.0, "subtracted": 1.0}
_CHUNK = 256


class HiRMConfig(Protocol):
    """The settings of ``HiRM`` that the loss reads; ``HiRM`` documents them."""

    @property
    def target(self) -> Target: ...  # noqa: D102
    @property
    def scale(self) -> float | None: ...  # noqa: D102
    @property
    def texts(self) -> Texts: ...  # noqa: D102
    @property
    def batch(self) -> int | None: ...  # noqa: D102
    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def retain_weight(self) -> float: ...  # noqa: D102
    @property
    def retain_batch(self) -> int: ...  # noqa: D102


@torch.no_grad()
def representations(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Return the representations H (N, L, D) of prompts in float32."""
    module, found = last_attention_output(backbone.text_encoder), []
    for start in range(0, len(texts), _CHUNK):
        with captured(module) as seen:
            backbone.condition(texts[start : start + _CHUNK])
        found.append(seen[-1].float())
    return torch.cat(found)


def random_target(shape: tuple[int, int], scale: float, generator: Generator) -> Tensor:
    """Return the target (L, D) of HiRM-R: a random direction r, as ``scale r / |r|``.

    Every entry of r is uniform in [0, 1), so all entries are positive. The norm is that of the whole matrix, not of
    each position.

    Args:
        shape: Numbers L of positions and D of entries.
        scale: Norm of the target.
        generator: Generator of r.
    """
    direction = torch.rand(shape, generator=generator)
    target: Tensor = scale * direction / direction.norm()
    return target


def concept_texts(concept: Concept, texts: Texts) -> tuple[str, ...]:
    """Return the texts of a single concept that are misdirected: its words, or its captions if it has any."""
    return concept.prompts or concept.words() if texts == "prompts" else concept.words()


def semantic_targets(teacher: Backbone, concept: Concept, texts: Sequence[str], target: Target) -> Tensor:
    """Return the targets (N, L, D) of HiRM-S for the texts of a single concept, without the factor.

    With ``anchor`` the target of p is H(a), where a is the same text with the anchor in the concept's place. With
    ``subtracted`` it is H(p) - v, where v is the mean of H(p) - H(a) over all texts.

    Args:
        teacher: Frozen base.
        concept: Single concept.
        texts: N texts with the concept.
        target: ``anchor`` or ``subtracted``.

    Raises:
        ValueError: If a text has no word of the concept, or if ``anchor`` is asked for a concept without an anchor.
    """
    if target == "anchor" and not concept.anchor:
        raise ValueError(
            f"expected an anchor of {concept.name!r} for target 'anchor', found none: give the anchor (--anchor), or "
            "choose target 'random' or 'subtracted'"
        )
    anchored = representations(teacher, anchor_prompts(texts, concept))
    if target == "anchor":
        return anchored
    own = representations(teacher, texts)
    return own - (own - anchored).mean(0)


@dataclass(frozen=True)
class Misdirection:
    """The loss of one iteration: ``mean (H'(p) - target)^2``, and the squared error of retained conditionings.

    Args:
        settings: Weights and batch sizes.
        student: Base with the text encoder in training.
        prompts: N texts with the concept.
        goals: Targets (N, L, D) of their representations.
        retained: Retain prompts; None without any.
        kept: Frozen conditionings (M, L, D) of the retain prompts; None without any.
        shard: Share of this process. Every process computes the whole loss and returns an equal share of it.
    """

    settings: HiRMConfig
    student: Backbone
    prompts: EncodedPrompts
    goals: Tensor
    retained: EncodedPrompts | None
    kept: Tensor | None
    shard: Shard

    @classmethod
    @torch.no_grad()
    def of(
        cls, settings: HiRMConfig, concept: Concept, teacher: Backbone, student: Backbone, *, generator: Generator
    ) -> Misdirection:
        """Encode the prompts, and compute or draw the targets.

        Args:
            settings: Settings of the method.
            concept: Concept to erase. Each part of a joint concept has its own anchor.
            teacher: Frozen base.
            student: Base with the text encoder to train.
            generator: Generator of the random direction.

        Raises:
            ValueError: If the target needs an anchor and a part has none, or a caption does not name the concept.
        """
        parts = [(part, concept_texts(part, settings.texts)) for part in concept.parts or (concept,)]
        texts = [text for _, listed in parts for text in listed]
        scale = SCALES[settings.target] if settings.scale is None else settings.scale
        if settings.target == "random":
            _, length, width = representations(teacher, texts[:1]).shape
            drawn = random_target((length, width), scale, generator).to(teacher.text_encoder.device)
            goals = drawn.expand(len(texts), -1, -1)
        else:
            goals = scale * torch.cat([semantic_targets(teacher, part, own, settings.target) for part, own in parts])
        retained = EncodedPrompts.read(teacher, settings.retain) if settings.retain else None
        kept = conditionings(teacher, settings.retain).float() if settings.retain else None
        return cls(settings, student, EncodedPrompts.read(teacher, texts), goals, retained, kept, Shard.current())

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of the loss (), and of each term by name."""
        index = _draw(len(self.goals), self.settings.batch, generator)
        found = self._represented(self.prompts, index)
        terms = {"misdirect": (1.0, squared_error(found, self.goals[index.to(self.goals.device)]))}
        if self.retained is not None and self.kept is not None:
            index = _draw(len(self.kept), self.settings.retain_batch, generator).to(self.kept.device)
            moved = squared_error(_encode(self.student, self.retained, index), self.kept[index])
            terms["retain"] = (self.settings.retain_weight, moved)
        total, means = weighted_sum(terms)
        n = self.shard.count
        return total / n, {name: value / n for name, value in means.items()}

    def state(self) -> dict[str, Tensor]:
        """Return no tensors: the same seed draws the same target, and no iteration depends on the one before."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore nothing."""

    def _represented(self, prompts: EncodedPrompts, index: Tensor) -> Tensor:
        with captured(last_attention_output(self.student.text_encoder)) as seen:
            _encode(self.student, prompts, index)
        return seen[-1]


def _encode(student: Backbone, prompts: EncodedPrompts, index: Tensor) -> Tensor:
    """Return the student's conditionings (B, L, D) of the prompts with the indices (B,)."""
    index = index.to(prompts.ids.device)
    given = None if prompts.given is None else prompts.given[index]
    return student.encode(prompts.embeds[index], prompts.ids[index], given)


def _draw(n: int, batch: int | None, generator: Generator) -> Tensor:
    """Return all n indices in order, or draw ``batch`` different ones if that is fewer."""
    return torch.arange(n) if batch is None or batch >= n else torch.randperm(n, generator=generator)[:batch]
