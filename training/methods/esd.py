"""ESD on the UNet, as published, or on the text encoder: AdvUnlearn's objective without an attack."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, cast, get_args

from torch import Generator

from ..diffusion.backbone import Backbone
from ..objectives.config import HardeningConfig, OutlierConfig, RetainConfig, TermsConfig, UnlearnConfig
from ..objectives.language_config import LanguageConfig
from ..provenance import ADDED, EXTRA
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trainer.storage import Stored
from ..trainer.unet_parameters import UNetSelectionConfig
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace
from .slots import slot_problems
from .storage import stored_by_terms
from .terms import Component, Rollout, erase_by_terms

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept

# No term on retain prompts: the paper's setting, and the default on the UNet.
NOTHING_RETAINED = RetainConfig(weight=0.0)
# Place of a default that depends on the component; the settings never hold it.
_BY_COMPONENT = cast("RetainConfig", None)


@dataclass(frozen=True, kw_only=True)
class ESD:
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345), on the UNet or on the text encoder.

    With the concept's prompt c and the empty prompt 0, the student's prediction for c shall be
    ``e(0) - eta (e(c) - e(0))`` (Eq. 7). ``eta`` is the negative guidance of the paper and of the authors' older
    script. Their newer script starts at e(c) instead of e(0), so that its eta of 2 equals 1 here, and its eta of 1
    equals 0 here.

    The paper trains the UNet and has no retain term. The default component is the text encoder, the variant that
    AdvUnlearn is compared with. It needs retain prompts, or ``RetainConfig(weight=0)`` to train without them.

    Args:
        retain: Retain prompts and the weights of their terms. On the text encoder they have no default; on the UNet the
            default is the paper's, no such term.
        component: Component to train: ``unet``, as published, ``text_encoder``, or on SDXL ``text_encoder_2``. With
            ``unet`` and on SDXL, terms on conditionings are refused.
        erase_from: Other concept that shall lose the erased one, for example "a street" for the concept "cars". The
            target is e(f) - eta (e(c) - e(0)) for the prompt f, on latents of f; c is the concept's bare name. Empty
            erases the concept from its own prompts.
        rollout: Model that draws the latents. ``student`` runs the model in training for each latent, as the paper's
            script does. ``bank`` takes trajectories of the frozen model, as the authors' newer script does; it is a
            departure from the paper that saves nine tenths of the work.
        unlearn: Settings of the terms on prompts with the concept.
        select: Parameters of the text encoder to train.
        unet: Parameters of the UNet to train, with component ``unet``.
        train: Iterations, learning rate and precision.
        bank: DDIM steps and guidance of the latents, and settings of the frozen model's stored trajectories.
        hardening: Settings of terms on conditionings, without their attack.
        outliers: Settings of terms on outliers, text that no caption resembles.
        language: Settings of terms on any text, which need no list of words.

    Raises:
        ValueError: If strings shall be searched for, which is an attack, if a setting has no effect, or if the text
            encoder is trained and ``retain`` is missing.
    """

    name: ClassVar[str] = "esd"
    uses_workspace: ClassVar[bool] = True
    inner_attacks: ClassVar[None] = None
    retain: RetainConfig = _BY_COMPONENT
    component: Component = field(default="text_encoder", metadata=ADDED)
    erase_from: str = field(default="", metadata=ADDED)
    rollout: Rollout = field(default="bank", metadata=ADDED)
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    select: SelectionConfig = field(default_factory=SelectionConfig)
    unet: UNetSelectionConfig = field(default_factory=UNetSelectionConfig, metadata=ADDED)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    hardening: HardeningConfig = field(default_factory=HardeningConfig, metadata=EXTRA)
    outliers: OutlierConfig = field(default_factory=OutlierConfig, metadata=EXTRA)
    language: LanguageConfig = field(default_factory=LanguageConfig, metadata=EXTRA | ADDED)

    def __post_init__(self) -> None:
        if self.retain is _BY_COMPONENT:
            object.__setattr__(self, "retain", _default_retention(self.component))
        terms = self.terms  # refuses settings that contradict each other
        _require_effect(self)
        if self.erase_from and (terms.wants_anchors or not terms.hardening.in_noise):
            raise ValueError(
                f"expected no terms on anchored prompts or conditionings beside erase_from {self.erase_from!r}, found "
                "some: choose unlearn.target 'negative_guidance', and leave unlearn.plain_weight, "
                "unlearn.pull_weight, hardening, outliers and language at their defaults"
            )

    @property
    def terms(self) -> TermsConfig:
        """Settings of the objective."""
        return TermsConfig(self.unlearn, self.retain, self.hardening, self.outliers, language=self.language)

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the settings on the text encoder with these retain prompts."""
        return cls(retain=RetainConfig(prompts=retained))

    def for_component(self, component: Component) -> Self:
        """Return a copy that trains another component, with that component's default weights of the retain terms."""
        if component == self.component:
            return self
        if "unet" not in (component, self.component):
            return replace(self, component=component)
        weight = 0.0 if component == "unet" else RetainConfig.weight
        retain = RetainConfig(prompts=self.retain.prompts, weight=weight)
        return replace(self, component=component, retain=retain)

    @property
    def retained(self) -> tuple[str, ...]:
        """The retain prompts."""
        return self.retain.prompts

    @property
    def wants_retained(self) -> bool:
        """True if everyday objects shall be retained when the user gives no retain prompts."""
        return self.retain.in_noise or self.retain.in_conditioning

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other retain prompts."""
        return replace(self, retain=replace(self.retain, prompts=prompts))

    def for_processes(self, n: int) -> Self:
        """Return a copy with n times the batch sizes, for n processes to share."""
        return replace(
            self,
            unlearn=self.unlearn.for_processes(n),
            retain=self.retain.for_processes(n),
            hardening=self.hardening.for_processes(n),
            outliers=self.outliers.for_processes(n),
            language=self.language.for_processes(n),
        )

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        return stored_by_terms(self, concept)

    def slot_problems(self) -> list[str]:
        """Return the settings that a base with two text encoders does not allow, one sentence each."""
        return slot_problems(self)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train a copy of the component; ``backbone`` stays unchanged. See ``AdvUnlearn.erase``.

        Several concepts at once are a joint concept: each iteration draws prompts of all of them.
        """
        return erase_by_terms(self, backbone, concept, generator=generator, workspace=workspace or Workspace())


def _default_retention(component: Component) -> RetainConfig:
    if component == "unet":
        return NOTHING_RETAINED
    raise ValueError(
        f"expected retain prompts for component {component!r}, found none: give retain=RetainConfig(prompts=...), or "
        "RetainConfig(weight=0) to train without a retain term"
    )


def _require_effect(method: ESD) -> None:
    """Refuse a selection of parameters of the component that is not trained, and an unknown component or rollout."""
    if method.component not in get_args(Component) or method.rollout not in ("bank", "student"):
        raise ValueError(
            f"expected a component in {get_args(Component)} and rollout 'bank' or 'student', found "
            f"{method.component!r} and {method.rollout!r}"
        )
    idle = ("select", SelectionConfig()) if method.component == "unet" else ("unet", UNetSelectionConfig())
    if getattr(method, idle[0]) != idle[1]:
        raise ValueError(
            f"expected no {idle[0]} settings beside component {method.component!r}, found "
            f"{getattr(method, idle[0])}: they select parameters of the other component, so leave them out"
        )
