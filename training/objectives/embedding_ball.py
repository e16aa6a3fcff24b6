"""Terms of RACE: ESD's term at attacked embeddings, and the distance from the weights that the training begins at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..diffusion.backbone import Backbone
from ..prompts.encoded import EncodedPrompts, conditionings
from ..protocols import InnerAttack
from ..trainer.checkpoint import StepLoss
from ..trajectories.bank import BankBatch
from ..types import Component
from .terms import Iteration, NoiseError, TermRows
from .unlearning import Unlearn

AttackTarget = Literal["start_noise", "prediction"]


@dataclass(frozen=True)
class AttackedUnlearn:
    """Term that trains the student on ESD's target at the worst embeddings in a ball around a prompt's own.

    RACE (Kim et al., ECCV 2024): min over the student of ``(e'(x_t, c + d, t) - target)^2``, where d is the point of
    the ball that minimises the attack's loss. The attack uses the latent and timestep of the training step.

    Args:
        plain: ESD's term, which draws the rows.
        attack: Rule of the attack; it searches the ball.
        aim: Prediction that the attack wants, see ``attack_aim``.
        errors: Error of the student's noise predictions.
        around: Embeddings (N, L, D) of the term's prompts, the centres of the balls.
        component: Component in training. For ``unet`` the embeddings are conditionings. For ``text_encoder`` they are
            token embeddings in units of ``unit``.
        unit: Value of the token embeddings that counts as 1 in the ball.
    """

    name: ClassVar[str] = "unlearn"
    space: ClassVar[Literal["noise"]] = "noise"
    weight: ClassVar[float] = 1.0
    plain: Unlearn
    attack: InnerAttack
    aim: AttackTarget
    errors: NoiseError
    around: Tensor
    component: Component
    unit: float = 1.0

    @classmethod
    def of(
        cls, plain: Unlearn, attack: InnerAttack, aim: AttackTarget, *, errors: NoiseError, component: Component
    ) -> AttackedUnlearn:
        """Return the term for the prompts of ESD's term.

        Args:
            plain: ESD's term.
            attack: Rule of the attack.
            aim: Prediction that the attack wants.
            errors: Error of the student's noise predictions.
            component: Component in training.
        """
        if component == "unet":
            return cls(plain, attack, aim, errors, conditionings(errors.teacher, plain.prompts.texts), component)
        unit = embedding_unit(errors.teacher, plain.prompts)
        return cls(plain, attack, aim, errors, plain.prompts.embeds.detach() / unit, component, unit)

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.plain.least

    def rows(self, iteration: Iteration) -> TermRows:
        """Return the attacked rows of one iteration."""
        drawn = self.plain.rows(iteration)
        assert drawn.points is not None
        points, ids = drawn.points, drawn.ids
        aim = attack_aim(self.aim, points, self.errors.teacher)

        def loss(embeddings: Tensor) -> Tensor:
            cond = embeddings
            if self.component == "text_encoder":
                cond = self.errors.student.encode(self.unit * embeddings, ids)
            return self.errors([points], [aim], cond)

        start = self.around[points.prompt_index.to(self.around.device)]
        found = self.attack(loss, start, generator=iteration.generator)
        if self.component == "unet":
            return drawn._replace(cond=found)
        return drawn._replace(embeds=self.unit * found)


def attack_aim(aim: AttackTarget, points: BankBatch, backbone: Backbone) -> Tensor:
    """Return the prediction (B, C, h, w) that the attack wants from the student.

    Args:
        aim: ``start_noise``, as in the authors' code, is the noise x_T that the trajectory of the latent begins at. For
            a model that predicts velocity it is the velocity that belongs to this noise. ``prediction`` is the frozen
            model's prediction for the prompt.
        points: Training points.
        backbone: Base, which knows the noise schedule.

    Raises:
        ValueError: If the points do not know their start noise.
    """
    if aim == "prediction":
        return points.pred_cond
    if points.start is None:
        raise ValueError(
            "expected points that know the noise of their trajectories, found none: take them from open_source, or "
            "choose attack_target 'prediction'"
        )
    if backbone.prediction_type == "epsilon":
        return points.start
    alpha = backbone.alphas_cumprod.to(points.start.device)[points.t].view(-1, 1, 1, 1).to(points.start)
    clean = (points.latents - (1 - alpha).sqrt() * points.start) / alpha.sqrt()
    return backbone.target(clean, points.start, points.t)


def embedding_unit(backbone: Backbone, prompts: EncodedPrompts) -> float:
    """Return the root mean square of the prompts' token embeddings, divided by that of their conditionings.

    Divided by it, token embeddings have the size of conditionings, so that a radius means the same for both.
    """
    conds = conditionings(backbone, prompts.texts)
    sizes = [float(one.float().square().mean().sqrt()) for one in (prompts.embeds, conds)]
    return sizes[0] / sizes[1]


@dataclass
class NearStart:
    """A loss plus a penalty on the distance of the parameters from their first values.

    The penalty is ``weight * sum_k mean |p_k - q_k|`` over the parameter tensors p_k and their first values q_k.

    Args:
        loss: Loss that the penalty is added to.
        parameters: Parameters in training, by name, at their first values.
        weight: Weight of the penalty.
    """

    loss: StepLoss
    parameters: Mapping[str, nn.Parameter]
    weight: float
    first: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.first = {name: one.detach().clone() for name, one in self.parameters.items()}

    def __call__(self, iteration: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss () of one iteration with the penalty, and their parts by name."""
        total, parts = self.loss(iteration, generator)
        distances = [(one - self.first[name]).abs().mean() for name, one in self.parameters.items()]
        penalty = torch.stack(distances).sum()
        return total + self.weight * penalty, {**parts, "near_start": float(penalty.detach())}

    def state(self) -> dict[str, Tensor]:
        """Return the state of the loss; the first values are those that every run begins at."""
        return self.loss.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.loss.load_state(state)
