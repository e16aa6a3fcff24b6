"""The common part of methods that train by loss terms: building the objective, the training run, the returned edit.

They train a text encoder, or the UNet of the same pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust_encoders.clip.state_dict import nested_state

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import ConditioningMetric, negative_guidance_target
from ..objectives.attribute import EraseFrom
from ..objectives.caption_words import CaptionWords
from ..objectives.config import TermsConfig
from ..objectives.hardening import Additions, AttackedConditionings, KeptNeighbours
from ..objectives.language import language_terms
from ..objectives.language_rows import LanguageRows
from ..objectives.outliers import OutlierRows, outlier_terms
from ..objectives.placement import CutPrompts, TokenPlacements
from ..objectives.prompt_augmentation import ConceptPrompts, require_room
from ..objectives.retention import RetainConditionings, RetainPredictions
from ..objectives.terms import LossTerm, NoiseError, Objective, Points
from ..objectives.unlearning import PlainConditionings, PlainPredictions, PredictionAttack, Pull, Unlearn
from ..prompts.concept_words import anchor_prompts
from ..prompts.encoded import EncodedPrompts, conditionings
from ..prompts.layout import prompt_lengths
from ..trainer.parameters import SelectionConfig
from ..trainer.run_record import run_identity
from ..trainer.unet_parameters import as_delta, trainable_unet
from ..trajectories.config import BankConfig
from ..trajectories.resample import open_source
from ..types import Edit
from ..workspace import Workspace
from .slots import read_parameters, require_slot
from .student import Component, Rollout, Run, Student, train_only, train_student
from .terms_method import InnerAttacks, TermsMethod, require_component, require_preserving

if TYPE_CHECKING:
    from torch import Generator

    from robust_encoders.concepts import Concept

__all__ = [
    "Component", "InnerAttacks", "Rollout", "Student", "TermsMethod", "as_weights", "beyond", "build_objective",
    "erase_by_terms", "require_component", "require_preserving", "student_of", "text_student", "train_only",
]  # fmt: skip


def erase_by_terms(
    method: TermsMethod, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace
) -> Edit:
    """Train a copy of the method's component on its objective; ``backbone`` stays unchanged.

    Raises:
        ValueError: If the UNet is trained and a setting needs the text encoder in training. If there is gradient
            surgery and no term that preserves. If the base has two text encoders and a setting does not allow that, or
            the backbone is for another one than the method.
    """
    require_component(method, workspace)
    require_slot(method, backbone)
    require_preserving(method)
    teacher = backbone.sharing(precision=method.train.precision)
    student = student_of(method, teacher)
    run = Run(run_identity(method, teacher, concept, generator), generator, workspace)

    def build() -> Objective:
        return build_objective(method, teacher, student.backbone, concept=concept, workspace=workspace)

    record = train_student(student, teacher, build, settings=method.train, run=run)
    if method.component == "unet":
        return as_delta(student.parameters, backbone, record)
    return as_weights(student.backbone, backbone, record)


def student_of(method: TermsMethod, teacher: Backbone) -> Student:
    """Return a copy of the method's component, with the parameters that the method trains."""
    if method.component == "unet":
        backbone, parameters = trainable_unet(teacher, method.unet)
        return Student(backbone, backbone.unet, parameters)
    return text_student(method.select, teacher)


def text_student(select: SelectionConfig, teacher: Backbone) -> Student:
    """Return a copy of the text encoder in float32, with the selected parameters that the pipeline reads."""
    backbone = teacher.clone()
    backbone.text_encoder.float().eval()
    return Student(backbone, backbone.text_encoder, read_parameters(select, backbone))


def build_objective(
    method: TermsMethod, teacher: Backbone, student: Backbone, *, concept: Concept, workspace: Workspace
) -> Objective:
    """Encode the prompts, open the trajectories, fit the metric, and build the loss terms.

    Args:
        method: Settings of the method.
        teacher: Frozen base.
        student: Base with the text encoder to train.
        concept: Concept to erase.
        workspace: Folder of the trajectory cache, and the progress switch.

    Raises:
        ValueError: If prompts have no room for the tokens that terms put in, or if a term lacks the prompts it needs.
    """
    return _Builder(method, method.terms, teacher, student, concept, workspace, Shard.current()).objective()


@dataclass(frozen=True)
class _Builder:
    """Builder of one run's objective, which checks settings and prompts."""

    method: TermsMethod
    terms: TermsConfig
    teacher: Backbone
    student: Backbone
    concept: Concept
    workspace: Workspace
    shard: Shard

    @property
    def texts(self) -> tuple[str, ...]:
        if self.method.erase_from:
            return (self.method.erase_from,) * len(self.names)
        return self.concept.prompts or (self.concept.name,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.concept.parts or (self.concept,))

    def objective(self) -> Objective:
        terms, method, teacher = self.terms, self.method, self.teacher
        words = None
        if terms.outliers.batches():
            words = CaptionWords.read(teacher, terms.outliers, self.concept, terms.retain.prompts)
        anchors = anchor_prompts(self.texts, self.concept) if terms.wants_anchors else None
        prompts = self._concept_prompts(anchors)
        placements = TokenPlacements.read(
            teacher, terms.adversary, prompts.texts, self.concept, rows=prompts.rows, given=prompts.given
        )
        retained = self._retain_prompts()
        points = self._concept_points(anchors) if terms.predicts else None
        metric = self._metric(points) if terms.retain.in_conditioning or terms.pulls_conditioning else None
        retain_points = self._points(terms.retain.prompts, method.bank.for_retain()) if terms.retain.in_noise else None
        errors = NoiseError(teacher, self.student, self.workspace.micro_batch)
        listed = list[LossTerm]()
        if points is not None and terms.hardening.in_noise:
            listed += self._unlearning(prompts, points, errors, placements)
        if terms.hardens and metric is not None:
            augmented = self._augmented(prompts, retained, placements, metric)
            listed += self._hardening(augmented, placements)
            if words is not None:
                listed += outlier_terms(OutlierRows(terms.outliers, augmented, words), points, errors)
            rows = LanguageRows(terms.language, augmented, self.concept, self.texts, terms.retain.prompts)
            listed += language_terms(rows)
        listed += [*self._plain(prompts, points), *self._retention(retained, retain_points)]
        warmup = None if terms.adversary is None else terms.adversary.warmup
        return Objective(listed, errors, metric, warmup, self.shard)

    def _concept_prompts(self, anchors: Sequence[str] | None) -> EncodedPrompts:
        prompts = EncodedPrompts.read(self.teacher, self.texts, anchors if self.terms.pulls_conditioning else None)
        eta = self.terms.hardening.eta
        return beyond(self.teacher, prompts, anchors, eta) if eta and anchors is not None else prompts

    def _retain_prompts(self) -> EncodedPrompts | None:
        retain = self.terms.retain
        if not (retain.in_noise or retain.in_conditioning):
            return None
        return EncodedPrompts.read(self.teacher, retain.prompts, retain.prompts if retain.in_conditioning else None)

    def _concept_points(self, anchors: Sequence[str] | None) -> Points:
        method = self.method
        aside = self.names if method.erase_from else anchors if self.terms.unlearn.target == "anchor" else None
        student = self.student if method.rollout == "student" else None
        return self._points(self.texts, method.bank.for_concept(), aside, student)

    def _points(
        self,
        prompts: Sequence[str],
        config: BankConfig,
        anchors: Sequence[str] | None = None,
        student: Backbone | None = None,
    ) -> Points:
        source = open_source(
            self.teacher, prompts, config, anchors=anchors, student=student,
            cache_dir=self.workspace.cache_dir, progress=self.workspace.progress, shard=self.shard,
        )  # fmt: skip
        return Points(source, self.shard)

    @torch.no_grad()
    def _metric(self, points: Points | None) -> ConditioningMetric:
        """Return the metric in the units of the noise loss; without one, prompts lie at 1 from the empty prompt."""
        conds, null = self.teacher.condition(self.texts[:256]), self.teacher.condition([""])
        unit = 1.0 if points is None else points.source.mean_difference()
        return ConditioningMetric.fit(self.teacher.text_gram(), conds, null, unit=unit)

    def _unlearning(
        self, prompts: EncodedPrompts, points: Points, errors: NoiseError, placements: TokenPlacements
    ) -> list[LossTerm]:
        unlearn, adversary, attacks = self.terms.unlearn, self.terms.adversary, self.method.inner_attacks
        attack = None
        if adversary is not None and attacks is not None:
            attack = PredictionAttack(adversary, attacks.predictions, placements, points, errors)
        if self.method.erase_from:
            return [EraseFrom(unlearn, prompts, points)]
        found: list[LossTerm] = [Unlearn(unlearn, prompts, points, attack)]
        return [*found, Pull(unlearn, prompts)] if unlearn.pull_weight > 0 else found

    def _plain(self, prompts: EncodedPrompts, points: Points | None) -> list[LossTerm]:
        unlearn = self.terms.unlearn
        if unlearn.pulls_plain:
            return [PlainConditionings(unlearn, prompts, self.shard)]
        if unlearn.plain_weight <= 0 or points is None:
            return []
        return [PlainPredictions(unlearn, prompts, points)]

    def _retention(self, retained: EncodedPrompts | None, points: Points | None) -> list[LossTerm]:
        retain, found = self.terms.retain, list[LossTerm]()
        if retained is not None and points is not None:
            found.append(RetainPredictions(retain, retained, points))
        if retained is not None and retain.in_conditioning:
            found.append(RetainConditionings(retain, retained, self.shard))
        return found

    def _augmented(
        self,
        prompts: EncodedPrompts,
        retained: EncodedPrompts | None,
        placements: TokenPlacements,
        metric: ConditioningMetric,
    ) -> ConceptPrompts:
        """Return the prompts that terms on conditionings are made from, checked."""
        if prompts.targets is None:
            raise ValueError("expected target conditionings of the concept's prompts, found none")
        cut = (placements.cut or CutPrompts.of(self.teacher, prompts.texts, self.concept)) if self.terms.cuts else None
        made = ConceptPrompts(
            teacher=self.teacher,
            student=self.student,
            config=self.terms.hardening,
            ids=prompts.ids,
            embeds=prompts.embeds.detach(),
            concept=conditionings(self.teacher, prompts.texts),
            targets=prompts.targets,
            added=_ordinary_tokens(self.teacher, retained),
            metric=metric,
            shard=self.shard,
            cut=cut,
            retained=retained.rows if retained is not None else None,
            excluded=_single_tokens(self.teacher, self.terms.outliers.alternatives),
        )
        require_room(made, self.terms.outliers)
        return made

    def _hardening(self, prompts: ConceptPrompts, placements: TokenPlacements) -> list[LossTerm]:
        config, attacks, found = prompts.config, self.method.inner_attacks, list[LossTerm]()
        if config.in_conditioning:
            found.append(AttackedConditionings(prompts, placements, attacks.conditionings if attacks else None))
        if config.additions_weight > 0:
            found.append(Additions(prompts))
        if config.neighbours_weight > 0:
            found.append(KeptNeighbours(prompts))
        return found


def beyond(teacher: Backbone, prompts: EncodedPrompts, anchors: Sequence[str], eta: float) -> EncodedPrompts:
    """Return the prompts with targets shifted away from the concept by ``eta``, see ``HardeningConfig.eta``.

    Only prompts with as many tokens as their anchored prompts are shifted; the others keep their targets.

    Raises:
        ValueError: If no prompt has as many tokens as its anchored prompt.
    """
    if prompts.targets is None:
        raise ValueError("expected target conditionings of the concept's prompts, found none")
    eos_id = teacher.tokenizer.eos_token_id
    alike = prompt_lengths(prompts.ids, eos_id) == prompt_lengths(teacher.tokenize(anchors), eos_id)
    if not bool(alike.any()):
        raise ValueError(
            f"expected anchored prompts with as many tokens as the concept's prompts for hardening.eta, found none, "
            f"for example {anchors[0]!r} for {prompts.texts[0]!r}: give an anchor with as many tokens as the concept, "
            "or leave hardening.eta at 0"
        )
    targets = negative_guidance_target(prompts.targets, conditionings(teacher, prompts.texts), eta)
    return replace(prompts, targets=torch.where(alike[:, None, None], targets, prompts.targets))


def _single_tokens(teacher: Backbone, words: Sequence[str]) -> Tensor | None:
    """Return the ids (V,) of those words that are one token each; None if there are no words."""
    ids = [teacher.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    single = [row[0] for row in ids if len(row) == 1]
    return torch.tensor(single, dtype=torch.long, device=teacher.device) if words else None


def _ordinary_tokens(teacher: Backbone, prompts: EncodedPrompts | None) -> Tensor:
    """Return the ids (V,) of all tokens in prompts except special tokens, in ascending order."""
    if prompts is None:
        return torch.empty(0, dtype=torch.long, device=teacher.device)
    special = torch.tensor(teacher.tokenizer.all_special_ids, device=prompts.ids.device)
    seen: Tensor = torch.unique(prompts.ids)
    return seen[~torch.isin(seen, special)]


def as_weights(student: Backbone, base: Backbone, log: Mapping[str, Any]) -> Edit:
    """Return a trained text encoder as an edit, with tensors named ``text_model.*`` in the base's dtypes."""
    dtypes = {name: tensor.dtype for name, tensor in nested_state(base.text_encoder).items()}
    state = nested_state(student.text_encoder)
    tensors = {name: tensor.detach().to("cpu", dtypes[name]).contiguous() for name, tensor in state.items()}
    return Edit("weights", student.component, tensors, student.text_encoder.config.to_dict(), log)
