"""RACE: ESD's loss at adversarial embeddings, from a finished ESD on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Generator

from ..attacks.embedding_pgd import EmbeddingPGD
from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..objectives.embedding_ball import AttackedUnlearn, AttackTarget, NearStart
from ..objectives.terms import LossTerm
from ..objectives.unlearning import Unlearn
from ..protocols import InnerAttack
from ..trainer.checkpoint import StepLoss
from ..trainer.loop import TrainingConfig
from ..trainer.run_record import run_identity
from ..trainer.storage import Stored
from ..trainer.unet_parameters import as_delta
from ..types import Component, Edit
from ..workspace import Workspace
from .esd import ESD
from .option_names import options_under
from .start_weights import StartWeights, student_at
from .student import Run, Student, train_student
from .terms import as_weights, build_objective, require_component

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class RACE:
    """Robust Adversarial Concept Erase (Kim et al., ECCV 2024, arXiv 2405.16341), on the UNet.

    RACE continues a finished ESD. Each iteration searches a point near the concept's conditioning that brings the
    concept back, at one latent and one timestep. The attack runs by projected gradient descent in an L-infinity ball.
    Then the student learns ESD's target at that point. Concept prompts, target, latents, trained parameters and retain
    terms are the settings of ``start``; on the UNet it has no retain term by default.

    There are two departures from the paper. Latents come from a bank of the frozen model's trajectories, at their own
    timesteps (``start.rollout student`` draws them as the authors do). On the text encoder, which the paper does not
    train, the ball lies around token embeddings. There ``attack.eps`` is a share: token embeddings count in units in
    which they are as large as conditionings.

    Args:
        start: Settings of the ESD that RACE begins with, and that it shares. It is trained first, in the same run.
        start_from: Folder or name of a finished ESD artifact to begin with, instead of training ``start``. It must
            change the same component of the same base.
        attack: Rule of the attack in the ball (paper: radius 0.1, 10 steps).
        attack_target: Prediction that the attack wants. ``start_noise`` is the noise x_T that the latent's trajectory
            begins at, as in the authors' code. ``prediction`` is the frozen model's prediction for the concept.
        regulariser: Weight of the mean absolute distance of the parameters from those of ESD, summed over tensors; 0
            leaves it out (paper: 0.1 where it is used).
        train: Iterations, learning rate and precision of RACE itself; ``start.train`` has those of ESD.

    Raises:
        ValueError: If the regulariser is negative, if there is an unknown attack target, or if ``start`` erases from
            another concept or has no term on noise predictions.
    """

    name: ClassVar[str] = "race"
    uses_workspace: ClassVar[bool] = True
    start: ESD = field(default_factory=lambda: ESD(component="unet"))
    start_from: str = ""
    attack: InnerAttack = field(default_factory=EmbeddingPGD)
    attack_target: AttackTarget = "start_noise"
    regulariser: float = 0.0
    train: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.regulariser < float("inf") or self.attack_target not in ("start_noise", "prediction"):
            raise ValueError(
                "expected a finite regulariser >= 0 and attack_target 'start_noise' or 'prediction', found "
                f"{self.regulariser} and {self.attack_target!r}"
            )
        if self.start.erase_from or not self.start.hardening.in_noise:
            raise ValueError(
                "expected a start with ESD's term on the concept's own prompts, found "
                f"erase_from {self.start.erase_from!r} and hardening.objective {self.start.hardening.objective!r}: "
                "leave both at their defaults"
            )
        if self.train.gradient_surgery:
            raise ValueError("expected no gradient surgery, found train.gradient_surgery: RACE does not support it")

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these retain prompts, which only a start with a retain term uses."""
        return cls().retaining(retained)

    @property
    def component(self) -> Component:
        """Component to train, that of ``start``."""
        return self.start.component

    def for_component(self, component: Component) -> Self:
        """Return a copy that trains another component; see ``ESD.for_component``."""
        return replace(self, start=self.start.for_component(component))

    @property
    def retained(self) -> tuple[str, ...]:
        """The retain prompts."""
        return self.start.retained

    @property
    def wants_retained(self) -> bool:
        """True if everyday objects shall be retained when the user gives no retain prompts; the same as for ESD."""
        return self.start.wants_retained

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other retain prompts."""
        return replace(self, start=self.start.retaining(prompts))

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return self.start.stored(concept)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train ESD, then RACE from there on, and return the change; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase; its prompts are erased, or its name if it has no prompts.
            generator: Generator of all random draws except the bank's.
            workspace: Folders of checkpoints and bank cache, and the progress switch. ESD's checkpoints lie in a
                folder ``start`` of their own.

        Raises:
            ValueError: If several processes are launched, if a setting needs the other component, or if ``start_from``
                does not fit.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        _require_one_process()
        space = workspace or Workspace()
        require_component(self.start, space)
        begun = self._begun(backbone, concept, generator, space)
        teacher = backbone.sharing(precision=self.train.precision)
        student, kept = student_at(begun, self.start, teacher)
        run = Run(run_identity(self, student.backbone, concept, generator), generator, self._second(space))

        def build() -> StepLoss:
            return self._loss(teacher, student, concept, space)

        record = train_student(student, teacher, build, settings=self.train, run=run)
        log = {**_added_up(record, begun.record), "start": dict(begun.record)}
        if self.component == "unet":
            return as_delta({**kept, **student.parameters}, backbone, log)
        return as_weights(student.backbone, backbone, log)

    def _begun(self, backbone: Backbone, concept: Concept, generator: Generator, space: Workspace) -> StartWeights:
        if self.start_from:
            return StartWeights.read(self.start_from, self.component, backbone)
        folder = None if space.folder is None else space.folder / "start"
        trackers = None if space.trackers is None else space.trackers.in_phase("start")
        place = replace(space, folder=folder, trackers=trackers)
        with options_under("start"):
            return StartWeights.of(self.start.erase(backbone, concept, generator=generator, workspace=place))

    def _second(self, space: Workspace) -> Workspace:
        """Return the workspace of RACE's own iterations, which trackers count on from ESD's."""
        if space.trackers is None or self.start_from:
            return space
        return replace(space, trackers=space.trackers.in_phase("train", done=self.start.train.iterations))

    def _loss(self, teacher: Backbone, student: Student, concept: Concept, space: Workspace) -> StepLoss:
        with options_under("start"):
            made = build_objective(self.start, teacher, student.backbone, concept=concept, workspace=space)

        def attacked(term: LossTerm) -> LossTerm:
            if not isinstance(term, Unlearn):
                return term
            return AttackedUnlearn.of(
                term, self.attack, self.attack_target, errors=made.errors, component=self.component
            )

        made = replace(made, terms=[attacked(term) for term in made.terms])
        return NearStart(made, student.parameters, self.regulariser) if self.regulariser else made


def _added_up(record: dict[str, Any], start: Any) -> dict[str, Any]:
    """Return the record with the UNet calls and the time of ESD, if it was trained in the same run."""
    both = ("unet_calls", "bank_unet_calls", "seconds", "seconds_total")
    return record | {name: round(record[name] + start.get(name, 0), 1) for name in both}


def _require_one_process() -> None:
    if (count := Shard.current().count) > 1:
        raise ValueError(
            f"expected one process, found {count}: RACE does not share its batches, so launch it without accelerate or "
            "torchrun"
        )
