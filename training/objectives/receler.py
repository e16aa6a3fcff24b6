"""Receler's loss of one iteration: adversarial prompts, erasing where the concept is, and nothing elsewhere.

Huang et al., "Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight Erasers", ECCV 2024
(arXiv 2311.17717). The teacher is the frozen model, the student is the same model with erasers on its UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ..diffusion.attention_maps import MaskConfig, attention_maps, concept_mask, resized
from ..diffusion.backbone import Backbone
from ..losses import negative_guidance_target, squared_error, weighted_sum
from ..prompts.adversarial_rows import AdversarialRows, AdversarialRowsConfig
from ..prompts.concept_tokens import concept_tokens
from ..prompts.concept_words import anchor_prompts, mentions
from ..prompts.encoded import conditionings
from ..trajectories.bank import BankBatch, PointSource, draw
from ..trajectories.config import BankConfig
from ..trajectories.resample import FreshTrajectories, open_source
from ..workspace import Workspace

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Target = Literal["negative_guidance", "anchor"]


class RecelerConfig(Protocol):
    """The settings of ``Receler`` that the objective reads; ``Receler`` documents them."""

    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def eta(self) -> float: ...  # noqa: D102
    @property
    def target(self) -> Target: ...  # noqa: D102
    @property
    def attack(self) -> AdversarialRowsConfig: ...  # noqa: D102
    @property
    def mask(self) -> MaskConfig: ...  # noqa: D102
    @property
    def outside_weight(self) -> float: ...  # noqa: D102
    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def retain_weight(self) -> float: ...  # noqa: D102
    @property
    def retain_batch(self) -> int: ...  # noqa: D102
    @property
    def rollout(self) -> Literal["student", "bank"]: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102


def outside_power(output: Tensor, mask: Tensor) -> Tensor:
    """Return the mean power (B,) of an eraser's output outside the mask.

    Receler's regularisation of one layer: the sum over locations of the mean over channels of (E(o) (1 - M))^2, divided
    by the number of locations outside the mask plus 1e-9. It is 0 if the mask covers everything.

    Args:
        output: Output E(o) (B, N, C) of the eraser at N locations.
        mask: Mask M (B, N), 1 where the concept is.
    """
    outside = 1 - mask.float()
    return (output.float() * outside[..., None]).square().mean(2).sum(1) / (outside.sum(1) + 1e-9)


class EraserOutputs:
    """Observer of the erasers' hooks, which collects their outputs while ``seen`` is a mapping.

    Attributes:
        seen: Outputs (B, N, C) with gradients, by module path; None ignores outputs. Activation checkpointing runs the
            hooks again in the backward pass, and these outputs must be ignored.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] | None = None

    def __call__(self, path: str, output: Tensor) -> None:
        """Take the output of the eraser after one cross-attention."""
        if self.seen is not None:
            self.seen[path] = output


class _Points(NamedTuple):
    """Training points of one iteration.

    Args:
        prompt_index: Indices (B,) of the prompts.
        latents: Latents (B, C, h, w).
        t: Timesteps (B,).
        pred_cond: Frozen predictions (B, C, h, w) for the prompts; the attack aims at them.
        target: Predictions (B, C, h, w) that the student learns.
        mask: Mask (B, h', w') of the concept; None if nothing is regularised.
    """

    prompt_index: Tensor
    latents: Tensor
    t: Tensor
    pred_cond: Tensor
    target: Tensor
    mask: Tensor | None


class RecelerObjective:
    """The loss that ``finetune`` minimises for Receler.

    Args:
        method: Settings of the method.
        teacher: Frozen base.
        student: Base whose UNet gets the erasers; its other parts are the teacher's.
        concept: Concept to erase. Each part of a joint concept has an adversarial prompt of its own.
        generator: Generator of the adversarial prompts' first values.
        workspace: Folder of the bank cache, and the progress switch.

    Attributes:
        outputs: Observer for the hooks of the erasers on the student.

    Raises:
        ValueError: If a prompt has no word of the concept, or no room for the adversarial rows.
    """

    def __init__(
        self,
        method: RecelerConfig,
        teacher: Backbone,
        student: Backbone,
        concept: Concept,
        *,
        generator: Generator,
        workspace: Workspace,
    ) -> None:
        self.method, self.teacher, self.student = method, teacher, student
        self.outputs = EraserOutputs()
        texts = (concept.prompts or concept.words())[: method.bank.limit]
        parts = concept.parts or (concept,)
        self.tokens = concept_tokens(teacher, texts, concept)
        self.cond, self.null = conditionings(teacher, texts), conditionings(teacher, ("",))
        anchored = tuple(anchor_prompts(texts, concept)) if method.target == "anchor" else None
        self.anchors = None if anchored is None else conditionings(teacher, anchored)
        self.rows: AdversarialRows | None = None
        if method.attack.steps:
            part = torch.tensor([_part_of(text, parts) for text in texts])
            self.rows = AdversarialRows(method.attack, teacher, texts, part, generator=generator)
        settings, where, shown = method.bank.for_concept(), workspace.cache_dir, workspace.progress
        self.source: PointSource = FreshTrajectories(student, texts, settings)
        if method.rollout == "bank":
            self.source = open_source(teacher, texts, settings, anchors=anchored, cache_dir=where, progress=shown)
        self.retained: PointSource | None = None
        if method.retain:
            kept = method.bank.for_retain()
            self.retained = open_source(teacher, method.retain, kept, cache_dir=where, progress=shown)
            self.retain_cond = conditionings(teacher, self.retained.prompts)

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss () of one iteration, and its parts by name."""
        method = self.method
        points = self._points(self.source, generator)
        predicted, outputs = self._attacked(points)
        terms = {"erase": (1.0, squared_error(predicted, points.target))}
        if points.mask is not None:
            terms["outside"] = (method.outside_weight, self._outside(outputs, points.mask))
        if self.retained is not None:
            terms["retain"] = (method.retain_weight, self._moved(self.retained, generator))
        total, parts = weighted_sum(terms)
        if self.rows is not None:
            parts["attack"] = float(squared_error(predicted.detach(), points.pred_cond).mean())
        return total, parts

    @property
    def unet_calls(self) -> int:
        """Number of UNet calls of teacher and student together; backward passes to activations count as calls."""
        return self.teacher.unet_calls + self.student.unet_calls

    def state(self) -> dict[str, Tensor]:
        """Return the adversarial prompts with their optimizer's tensors, and the number of UNet calls."""
        carried = {} if self.rows is None else self.rows.state()
        return {**carried, "unet_calls": torch.tensor(self.unet_calls)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.teacher.unet_calls, self.student.unet_calls = int(state["unet_calls"]), 0
        if self.rows is not None:
            self.rows.load_state(state)

    @torch.no_grad()
    def _points(self, source: PointSource, generator: Generator) -> _Points:
        """Draw training points, with the frozen predictions and masks there."""
        index = draw(len(self.cond), self.method.batch, generator)
        drawn = source.sample(len(index), generator, prompt_index=index)
        index = index.to(self.cond.device)
        pred_cond, mask = self._seen(index, drawn)
        if self.method.rollout == "student":
            start = self.null.expand_as(self.cond[index]) if self.anchors is None else self.anchors[index]
            towards = self.teacher.predict(drawn.latents, drawn.t, start)
        else:
            pred_cond = drawn.pred_cond
            towards = drawn.pred_null if drawn.pred_anchor is None else drawn.pred_anchor
        target = negative_guidance_target(towards, pred_cond, self.method.eta)
        return _Points(index, drawn.latents, drawn.t, pred_cond, target, mask)

    def _seen(self, index: Tensor, drawn: BankBatch) -> tuple[Tensor, Tensor | None]:
        """Return the frozen predictions (B, C, h, w) for the prompts and the masks (B, h', w') of the concept."""
        if not self.method.outside_weight:
            if self.method.rollout == "bank":
                return drawn.pred_cond, None
            return self.teacher.predict(drawn.latents, drawn.t, self.cond[index]), None
        with attention_maps(self.teacher.unet, self.tokens[index]) as maps:
            predicted = self.teacher.predict(drawn.latents, drawn.t, self.cond[index])
        return predicted, concept_mask(maps, self.teacher.latent_shape[1:], self.method.mask)

    def _attacked(self, points: _Points) -> tuple[Tensor, dict[str, Tensor]]:
        """Attack, and return the student's predictions (B, C, h, w) and the erasers' outputs of the last pass.

        As in the authors' code, each attack step makes one pass, and the erasers learn from the last one. Without an
        attack there is one pass with the plain prompts. The authors' code then trains nothing.
        """
        cond, steps = self.cond[points.prompt_index], self.method.attack.steps
        if self.rows is None:
            return self._student(points, cond, observed=True)
        for step in range(steps):
            placed, leaf = self.rows.placed(cond, points.prompt_index)
            last = step == steps - 1
            predicted, outputs = self._student(points, placed, observed=last)
            error = squared_error(predicted, points.pred_cond)
            self.student.unet_calls += len(error)
            self.rows.step(error, leaf, points.prompt_index, keep_graph=last)
        return predicted, outputs

    def _student(self, points: _Points, cond: Tensor, *, observed: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return predictions with the erasers on; the pass that they learn from counts its backward pass, too."""
        outputs: dict[str, Tensor] = {}
        self.student.unet_calls += len(cond) if observed else 0
        self.outputs.seen = outputs if observed else None
        try:
            return self.student.predict(points.latents, points.t, cond), outputs
        finally:
            self.outputs.seen = None

    def _outside(self, outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the regularisation (B,), the mean over the layers."""
        size = self.teacher.latent_shape[1:]
        layers = [outside_power(output, resized(mask, output.shape[1], size)) for output in outputs.values()]
        return torch.stack(layers).mean(0)

    def _moved(self, source: PointSource, generator: Generator) -> Tensor:
        """Return the squared error (B,) between the student and the frozen model on retain prompts."""
        index = draw(len(self.retain_cond), self.method.retain_batch, generator)
        drawn = source.sample(len(index), generator, prompt_index=index)
        self.student.unet_calls += len(index)
        cond = self.retain_cond[index.to(self.retain_cond.device)]
        return squared_error(self.student.predict(drawn.latents, drawn.t, cond), drawn.pred_cond)


def _part_of(text: str, parts: tuple[Concept, ...]) -> int:
    """Return the number of the part of a joint concept that a prompt belongs to."""
    listed = [i for i, part in enumerate(parts) if text in (part.prompts or part.words())]
    return (listed or [i for i, part in enumerate(parts) if mentions(part.words()).search(text)])[0]
