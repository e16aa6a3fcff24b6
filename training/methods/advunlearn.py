"""AdvUnlearn: unlearning against adversarial prompts, by a text encoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn

from robust_encoders.clip.state_dict import nested_state

from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..losses import ConditioningMetric, negative_guidance_target
from ..objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from ..objectives.hardening import HardeningTerms
from ..objectives.outliers import OutlierTerms, Vocabulary
from ..objectives.placement import CutPrompts, TokenPlacements
from ..objectives.unlearning import Objective, Prompts, Source, conditionings
from ..prompts.layout import anchor_prompt, prompt_lengths
from ..trainer.loop import TrainingConfig, Workspace, finetune
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity, run_record
from ..trajectories.bank import BankConfig
from ..trajectories.resample import open_source
from ..types import Edit

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdvUnlearn:
    """AdvUnlearn (Zhang et al., NeurIPS 2024, arXiv 2405.15234), on the text encoder.

    Each iteration finds adversarial tokens that bring the concept back, then trains the student to predict the
    negatively guided target of ESD in spite of them, and to predict as before on a retain set. Defaults are the
    paper's settings for nudity.

    Departures, each with its reason: latents come from a bank of whole trajectories, at the timesteps they belong to
    (nothing sampled depends on the student); the authors' bugs are not reproduced (summed attack gradients, a lost
    last attack step, words counted as tokens, layers selected by string prefix). Options beyond the paper are off
    by default and say so where they are defined.

    Args:
        retain: Retain set and weights; its prompts have no default.
        unlearn: Target and batch of the unlearning term.
        adversary: Attack, warm-up, placements.
        select: Trained parameters.
        train: Iterations, rates, precision.
        bank: Trajectories of the frozen model.

    Raises:
        ValueError: Shared attacks, and none through the UNet.
    """

    name: ClassVar[str] = "advunlearn"
    retain: RetainConfig
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)

    def __post_init__(self) -> None:
        if self.adversary.shared > 0 and not self.unlearn.harden.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for adversary.shared, found {self.adversary.shared} with the "
                "objective 'conditioning', which has none: leave it at 0, or choose 'noise' or 'both'"
            )

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
        """Whether everyday objects are retained where a user names nothing."""
        return self.retain.in_noise or self.retain.in_conditioning

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other retain prompts."""
        return replace(self, retain=replace(self.retain, prompts=prompts))

    def for_processes(self, n: int) -> Self:
        """Return the same with n times the batches, for n processes to share."""
        return replace(self, unlearn=self.unlearn.for_processes(n), retain=self.retain.for_processes(n))

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the text encoder; ``backbone`` is left as it was.

        Args:
            backbone: The base.
            concept: Its prompts (its name, where it has none) are unlearned.
            generator: All randomness but the bank's, which follows from prompts and seeds.
            workspace: Checkpoints, bank cache and progress; by default nothing is kept.

        Raises:
            ValueError: Prompts too long for the adversarial tokens, or nothing selected.
            RuntimeError: The loss is not finite, or the checkpoint belongs to another run.

        Under ``accelerate launch`` or ``torchrun`` the processes share the batches that the settings ask for.
        """
        return erase_from_text_encoder(
            self, self.adversary, backbone, concept, generator=generator, workspace=workspace or Workspace()
        )


class TextEncoderMethod(Protocol):
    """What AdvUnlearn and ESD have in common."""

    name: ClassVar[str]

    @property
    def retain(self) -> RetainConfig: ...  # noqa: D102
    @property
    def unlearn(self) -> UnlearnConfig: ...  # noqa: D102
    @property
    def select(self) -> SelectionConfig: ...  # noqa: D102
    @property
    def train(self) -> TrainingConfig: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102


def erase_from_text_encoder(
    method: TextEncoderMethod,
    adversary: AdversaryConfig | None,
    backbone: Backbone,
    concept: Concept,
    *,
    generator: Generator,
    workspace: Workspace,
) -> Edit:
    """Run ESD's objective on a copy of the text encoder, with the adversary or without."""
    started = time.monotonic()
    teacher = backbone.sharing(precision=method.train.precision)
    student = teacher.clone()
    student.text_encoder.float().eval()
    identity = run_identity(method, teacher, concept, generator)
    twice = (teacher.unet, student.text_encoder) if workspace.gradient_checkpointing else ()
    with teacher.frozen(), activation_checkpointing(*twice):
        objective = _prepare(method, adversary, teacher, student, concept=concept, workspace=workspace)
        bank_calls, teacher.unet_calls = teacher.unet_calls, 0
        parameters = train_only(method.select.select(student.text_encoder), student.text_encoder)
        log = finetune(parameters, objective, method.train, generator=generator, workspace=workspace, identity=identity)
    calls = objective.shard.total(torch.tensor([teacher.unet_calls, bank_calls], device=teacher.device)).tolist()
    record = run_record(log, *calls, seconds=time.monotonic() - started, precision=teacher.computes_in)
    return as_weights(student, backbone, record)


def _prepare(
    method: TextEncoderMethod,
    adversary: AdversaryConfig | None,
    teacher: Backbone,
    student: Backbone,
    *,
    concept: Concept,
    workspace: Workspace,
) -> Objective:
    """Read the prompts, open the banks, fit the metric."""
    retain, unlearn, shard = method.retain, method.unlearn, Shard.current()
    doubt = unlearn.harden.doubt
    vocabulary = Vocabulary.read(teacher, doubt, concept, retain.prompts) if doubt.batches() else None
    texts = concept.prompts or (concept.name,)
    anchors = [anchor_prompt(text, concept) for text in texts] if unlearn.wants_anchors else None
    pulled = anchors if unlearn.pulls_conditioning else None
    concept_prompts = Prompts.read(teacher, texts, pulled)
    if unlearn.harden.eta and anchors is not None:
        concept_prompts = _beyond(teacher, concept_prompts, anchors, unlearn.harden.eta)
    places = TokenPlacements.read(teacher, adversary, concept_prompts.texts, concept, rows=concept_prompts.rows)
    retain_prompts = None
    if retain.in_noise or retain.in_conditioning:
        retain_prompts = Prompts.read(teacher, retain.prompts, retain.prompts if retain.in_conditioning else None)

    def source(prompts: tuple[str, ...], settings: BankConfig, anchored: list[str] | None = None) -> Source:
        cache, progress = workspace.cache_dir, workspace.progress
        return open_source(
            teacher, prompts, settings, anchors=anchored, cache_dir=cache, progress=progress, shard=shard
        )

    concept_points = source(texts, method.bank.for_concept(), anchors if unlearn.target == "anchor" else None)
    metric = None
    if retain.in_conditioning or unlearn.pulls_conditioning:
        metric = _metric(teacher, texts, concept_points)
    retain_points = source(retain.prompts, method.bank.for_retain()) if retain.in_noise else None
    objective = Objective(
        teacher=teacher,
        student=student,
        unlearn=unlearn,
        retain=retain,
        adversary=adversary,
        concept_prompts=concept_prompts,
        retain_prompts=retain_prompts,
        concept_points=concept_points,
        retain_points=retain_points,
        metric=metric,
        places=places,
        micro_batch=workspace.micro_batch,
        shard=shard,
    )
    if not unlearn.harden.pulls:
        return objective
    hardening = _hardening(objective, places, concept)
    return replace(objective, hardening=hardening, doubt=OutlierTerms.of(hardening, vocabulary) if vocabulary else None)


def _hardening(objective: Objective, places: TokenPlacements, concept: Concept) -> HardeningTerms:
    """Return the terms that harden beyond the paper's attack, on the same models and prompts."""
    prompts, metric = objective.concept_prompts, objective.metric
    if metric is None or prompts.targets is None:
        raise ValueError("expected a metric and target conditionings of the concept's prompts, found none")
    settings = objective.unlearn.harden
    return HardeningTerms(
        teacher=objective.teacher,
        student=objective.student,
        settings=settings,
        ids=prompts.ids,
        embeds=prompts.embeds.detach(),
        concept=conditionings(objective.teacher, prompts.texts),
        targets=prompts.targets,
        added=_words(objective.teacher, objective.retain_prompts),
        metric=metric,
        places=places,
        shard=objective.shard,
        slots=(places.slots or CutPrompts.cut(objective.teacher, prompts.texts, concept)) if settings.cuts else None,
        retained=objective.retain_prompts.rows if objective.retain_prompts is not None else None,
        telling=_single_tokens(objective.teacher, settings.doubt.others),
    )


def _beyond(teacher: Backbone, prompts: Prompts, anchors: Sequence[str], eta: float) -> Prompts:
    """Return the prompts with targets beyond those of the anchored ones, where both have as many tokens.

    Raises:
        ValueError: There is no such pair.
    """
    if prompts.targets is None:
        raise ValueError("expected target conditionings of the concept's prompts, found none")
    eos_id = teacher.tokenizer.eos_token_id
    alike = prompt_lengths(prompts.ids, eos_id) == prompt_lengths(teacher.tokenize(anchors), eos_id)
    if not bool(alike.any()):
        raise ValueError(
            f"expected anchored prompts of as many tokens as the concept's for hardening.eta, found none such as "
            f"{anchors[0]!r} for {prompts.texts[0]!r}: give an anchor of another length, or leave eta at 0"
        )
    beyond = negative_guidance_target(prompts.targets, conditionings(teacher, prompts.texts), eta)
    return replace(prompts, targets=torch.where(alike[:, None, None], beyond, prompts.targets))


def _single_tokens(teacher: Backbone, words: Sequence[str]) -> Tensor | None:
    """Return the ids (V,) of words that are one token each; None where there are no words."""
    ids = [teacher.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    single = [row[0] for row in ids if len(row) == 1]
    return torch.tensor(single, dtype=torch.long, device=teacher.device) if words else None


def _words(teacher: Backbone, prompts: Prompts | None) -> Tensor:
    """Return the ids (V,) of all tokens in prompts, in their order, but the special ones."""
    if prompts is None:
        return torch.empty(0, dtype=torch.long, device=teacher.device)
    special = torch.tensor(teacher.tokenizer.all_special_ids, device=prompts.ids.device)
    seen: Tensor = torch.unique(prompts.ids)
    return seen[~torch.isin(seen, special)]


@torch.no_grad()
def _metric(teacher: Backbone, texts: tuple[str, ...], points: Source) -> ConditioningMetric:
    conditionings, null = teacher.condition(texts[:256]), teacher.condition([""])
    return ConditioningMetric.fit(teacher.text_gram(), conditionings, null, unit=points.mean_difference())


def train_only(chosen: Mapping[str, nn.Parameter], module: nn.Module) -> dict[str, nn.Parameter]:
    """Let gradients flow into the chosen parameters alone."""
    module.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return dict(chosen)


def as_weights(student: Backbone, base: Backbone, log: Mapping[str, Any]) -> Edit:
    """Return a trained text encoder as an edit: its tensors as ``text_model.*``, in the dtypes of the base's."""
    dtypes = {name: tensor.dtype for name, tensor in nested_state(base.text_encoder).items()}
    state = nested_state(student.text_encoder)
    tensors = {name: tensor.detach().to("cpu", dtypes[name]).contiguous() for name, tensor in state.items()}
    return Edit("weights", "text_encoder", tensors, student.text_encoder.config.to_dict(), log)
