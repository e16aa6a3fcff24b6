"""The settings of methods that train by loss terms, and the combinations of them that are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..objectives.config import HardeningConfig, OutlierConfig, RetainConfig, TermsConfig, UnlearnConfig
from ..objectives.language_config import LanguageConfig
from ..protocols import InnerAttack
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trainer.unet_parameters import UNetSelectionConfig
from ..trajectories.config import BankConfig
from ..workspace import Workspace
from .student import Component, Rollout


class TermsMethod(Protocol):
    """The settings that AdvUnlearn and ESD have in common."""

    name: ClassVar[str]

    @property
    def component(self) -> Component: ...  # noqa: D102
    @property
    def unet(self) -> UNetSelectionConfig: ...  # noqa: D102
    @property
    def erase_from(self) -> str: ...  # noqa: D102
    @property
    def rollout(self) -> Rollout: ...  # noqa: D102

    @property
    def retain(self) -> RetainConfig: ...  # noqa: D102
    @property
    def unlearn(self) -> UnlearnConfig: ...  # noqa: D102
    @property
    def hardening(self) -> HardeningConfig: ...  # noqa: D102
    @property
    def outliers(self) -> OutlierConfig: ...  # noqa: D102
    @property
    def language(self) -> LanguageConfig: ...  # noqa: D102
    @property
    def select(self) -> SelectionConfig: ...  # noqa: D102
    @property
    def train(self) -> TrainingConfig: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102
    @property
    def terms(self) -> TermsConfig: ...  # noqa: D102
    @property
    def inner_attacks(self) -> InnerAttacks | None: ...  # noqa: D102


@dataclass(frozen=True)
class InnerAttacks:
    """Rules of the two inner attacks of a training run.

    Args:
        predictions: Rule of the attack through the UNet, on its predictions.
        conditionings: Rule of the attack on conditionings.
    """

    predictions: InnerAttack
    conditionings: InnerAttack


def require_component(method: TermsMethod, workspace: Workspace) -> None:
    """Refuse settings that need the text encoder in training if the UNet is trained.

    Raises:
        ValueError: If there are such settings; the message names them.
    """
    if method.component != "unet":
        return
    odd = {
        **on_conditionings(method),
        "micro_batch (use gradient checkpointing)": workspace.micro_batch is not None,
        "train.precision fp16 (choose bf16: loss scaling needs a frozen UNet)": method.train.precision == "fp16",
    }
    if named := [name for name, given in odd.items() if given]:
        raise ValueError(
            f"expected no settings that need the text encoder in training beside component 'unet', found "
            f"{', '.join(named)}: leave them out"
        )


def on_conditionings(method: TermsMethod) -> dict[str, bool]:
    """Return the settings that ask for terms on conditionings, with true for those that are in use."""
    terms = method.terms
    return {
        "retain.space (choose noise)": terms.retain.in_conditioning,
        "unlearn.plain_space (choose noise)": terms.unlearn.pulls_plain,
        "unlearn.pull_weight": terms.unlearn.pull_weight > 0,
        "hardening": terms.hardens or not terms.hardening.in_noise or bool(terms.hardening.eta),
        "outliers": bool(terms.outliers.batches()),
        "language": bool(terms.language.batches()),
    }


def require_preserving(method: TermsMethod) -> None:
    """Refuse gradient surgery without a term that preserves.

    Raises:
        ValueError: If there is gradient surgery, and no term on retain prompts.
    """
    retain = method.terms.retain
    if method.train.gradient_surgery and not (retain.in_noise or retain.in_conditioning):
        raise ValueError(
            "expected two losses for gradient surgery, found one that erases and none that preserves: give "
            "retain.weight or retain.conditioning_weight above 0, or leave train.gradient_surgery off"
        )
