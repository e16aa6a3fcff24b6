"""S-GRACE: rounds of an attack on words near the concept, and of training the text encoder against their likeness."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch import Generator

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..objectives.embedding_ball import AttackTarget, NearStart
from ..objectives.s_grace import SemanticErasure
from ..prompts.adversarial_words import AdversarialWordsConfig
from ..provenance import EXTRA
from ..trainer.checkpoint import StepLoss
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
    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class SGRACE(RetainsField):
    """S-GRACE, semantics-guided robust adversarial concept erasure (Yin et al. 2025, arXiv 2510.27285).

    A run has rounds. Each begins with prompts of words near the concept, and an attack on their token embeddings: it
    lowers the error between the UNet's prediction and the noise that the latent's trajectory began at, and raises the
    cosine to the concept. There is one latent at one timestep for the whole run. Then all layers of the text encoder
    are trained on, with f a feature of the text encoder at the end token, E its whole output, and ' the student:

        mean 1 + cos(f'(p), f(concept))                   likeness, for the attacked prompts p
        + meaning_weight (mean 1 - cos(f'(p), f(p)))      meaning
        + retain_weight mean (E'(u) - E(u))^2             retain, for retain prompts u
        + near_weight sum over tensors of mean |w' - w|   near_start, for the parameters w

    The code here was written from the formulas, as a description of the paper and of the authors' program states them.
    That program has no licence, and nothing of it is used. Two of its mistakes are not reproduced: its projection of
    the attack has no effect, and its feature of an attacked prompt is that of the last word, not of the end token.

    Departures: the attack is projected to a ball of this package's choice. Related words come from the vocabulary
    unless they are given, where the authors ask a language model. f has a text projection only where the base has one,
    as the second text encoder of SDXL. One Adam serves all rounds.

    Args:
        retain: Retain prompts, which have no default; the paper has words such as "a photo of a tree".
        component: Text encoder to train: ``text_encoder``, or on SDXL ``text_encoder_2``.
        related: Words related to the concept, for the adversarial prompts. Empty takes its synonyms and the words of
            the vocabulary nearest to it, 50 in all, as many as in the paper.
        rounds: Number of rounds, which divide the iterations of ``train`` among them.
        attack: Settings of the adversarial prompts and of the attack.
        attack_target: Prediction that the attack wants. ``start_noise`` is the noise that the latent's trajectory
            begins at, as published. ``prediction`` is the frozen model's prediction for the concept.
        timesteps: Smallest and largest timestep of the latent, of 1,000.
        ddim_steps: Number of steps of the latent's DDIM run.
        guidance: Classifier-free guidance scale of that run.
        meaning_weight: Weight of the term that keeps attacked prompts near their own features.
        retain_weight: Weight of the squared error of retained conditionings.
        retain_batch: Number of retain prompts per iteration (paper: 16 for nudity, 8 for others).
        near_weight: Weight of the distance from the first parameters (paper: 0.3 for nudity, 0.2 for others).
        select: Parameters of the text encoder to train.
        train: Iterations, learning rate, and precision of the UNet.

    Raises:
        ValueError: If a number is outside its range, or there are no retain prompts.
    """

    name: ClassVar[str] = "s_grace"
    uses_workspace: ClassVar[bool] = True
    retain: tuple[str, ...]
    component: Literal["text_encoder", "text_encoder_2"] = "text_encoder"
    related: tuple[str, ...] = ()
    rounds: int = 4
    attack: AdversarialWordsConfig = field(default_factory=AdversarialWordsConfig)
    attack_target: AttackTarget = field(default="start_noise", metadata=EXTRA)
    timesteps: tuple[int, int] = (750, 950)
    ddim_steps: int = 50
    guidance: float = 3.0
    meaning_weight: float = 1.2
    retain_weight: float = 1.2
    retain_batch: int = 16
    near_weight: float = 0.3
    select: SelectionConfig = field(default_factory=SelectionConfig)
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(iterations=200))

    def __post_init__(self) -> None:
        if min(self.meaning_weight, self.retain_weight, self.near_weight) < 0 or self.attack_target not in get_args(
            AttackTarget
        ):
            raise ValueError(
                f"expected weights of at least 0 and attack_target in {get_args(AttackTarget)}, found {self}"
            )
        low, high = self.timesteps
        if min(self.rounds, self.ddim_steps, self.retain_batch) < 1 or not 0 <= low <= high:
            raise ValueError(
                "expected rounds, ddim_steps and retain_batch of at least 1, and timesteps as a smallest and a largest "
                f"one, found {self.rounds}, {self.ddim_steps}, {self.retain_batch} and {self.timesteps}"
            )

    @property
    def round_length(self) -> int:
        """Number of iterations in each round; the last one may be shorter."""
        return math.ceil(self.train.iterations / self.rounds)

    @property
    def wants_retained(self) -> bool:
        """True, because everyday objects are retained when the user gives no prompts."""
        return True

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
            backbone: Base to erase the concept from.
            concept: Concept to erase. Its captions are not used; each part of a joint concept has its own prompts.
            generator: Generator of all random draws.
            workspace: Folder of checkpoints, the progress switch, and the largest number of latents at once.

        Raises:
            ValueError: If there are no retain prompts, related words are given for a joint concept, no timestep lies in
                the range, or the backbone is for another text encoder.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        if not self.retain:
            raise ValueError(
                "expected at least 1 retain prompt, found none: give captions without the concept in SGRACE.retain "
                "(--retain-prompts)"
            )
        require_backbone_for(self.component, backbone)
        workspace = workspace or Workspace()
        teacher = backbone.sharing(precision=self.train.precision)
        student = text_student(self.select, teacher)
        run = Run(run_identity(self, teacher, concept, generator), generator, workspace)

        def build() -> StepLoss:
            loss = SemanticErasure(self, teacher, student.backbone, concept, generator=generator, workspace=workspace)
            # Every process computes the whole loss and returns an equal share of it.
            return NearStart(loss, student.parameters, self.near_weight / Shard.current().count)

        record = train_student(student, teacher, build, settings=self.train, run=run)
        return as_weights(student.backbone, backbone, record)
