"""RECE: UCE's edit, repeated in closed form against the embeddings that bring the concept back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from ..diffusion.cross_attention import GramMatrix
from .closed_form import RidgeConfig, adversarial_step, solve
from .closed_method import ClosedForm, ErasureInputs, Problem, Solution
from .uce import UCE

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class RECE(ClosedForm):
    """Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024, arXiv 2407.12383).

    RECE starts from UCE's edit. For every token of every concept, each epoch derives an embedding. The edited key and
    value matrices (K and V) map it to the outputs that the unedited matrices gave the token. UCE's solve then erases
    these embeddings. With G = ``sum_l W_l^T W_l`` the computation needs only one matrix M and sums over token vectors,
    for any number of layers and tokens. The default settings are the paper's for nudity; the recipes have those of its
    other concepts.

    There is one departure from the paper. The authors draw and judge pictures after each epoch, and keep the matrix
    only if fewer pictures show the concept. Here all epochs are kept, and their number is a setting.

    Args:
        start: Settings of UCE's first edit: concepts, their targets and preserved prompts. All epochs use them.
        epochs: Number of epochs after UCE's edit; 0 is UCE alone.
        regulariser: Weight of the penalty on the derived embeddings' size. It is RECE's lambda. Smaller values allow
            larger embeddings, along directions to which the edited model hardly reacts.
        weights: Weights of the terms in every solve after the first.

    Raises:
        ValueError: If the number of epochs is negative, if the regulariser is not positive, or if there are
            attributes to add.
    """

    name: ClassVar[str] = "rece"
    start: UCE = field(default_factory=lambda: UCE(tokens="from_last"))
    epochs: int = 3
    regulariser: float = 0.1
    weights: RidgeConfig = field(default_factory=lambda: RidgeConfig(lamb=0.1, preserve_scale=0.1))

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 < self.regulariser < float("inf"):
            raise ValueError(
                f"expected epochs >= 0 and a finite regulariser > 0, found {self.epochs} and {self.regulariser}"
            )
        if self.start.attributes:
            raise ValueError("expected concepts to erase, found attributes to add: use UCE for debiasing")

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts."""
        return replace(self, start=self.start.by_captions())

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these preserved prompts."""
        return cls().retaining(retained)

    @property
    def preserve(self) -> tuple[str, ...]:
        """Preserved prompts, those of UCE's edit."""
        return self.start.preserve

    @property
    def wants_retained(self) -> bool:
        """True if everyday objects shall be retained when the user gives no prompts; the same as for UCE."""
        return self.start.wants_retained

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other preserved prompts."""
        return replace(self, start=self.start.retaining(prompts))

    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read the token vectors of UCE's edit and of every epoch, and the UNet's matrix G.

        Raises:
            ValueError: If a conditioning is not finite, if a caption does not name the concept, or if the UNet's K and
                V matrices cannot be identified.
        """
        backbone, concept, tokens = inputs.backbone, inputs.concept, self.start.tokens
        moved = self.start.moved(backbone, concept, tokens, progress=inputs.progress)
        kept = self.start.kept(backbone, tokens, progress=inputs.progress)
        whole = self.start.moved(backbone, concept, "all", progress=inputs.progress)
        stay = self.start.kept(backbone, "all", progress=inputs.progress) if tokens == "last" else kept
        gram = GramMatrix.of(backbone.unet, inputs.workspace.cache_dir).gram

        def solved() -> Solution:
            matrix, steps = solve(moved, kept, self.start.weights), []
            for _ in range(self.epochs):
                step = adversarial_step(
                    matrix, whole, stay, gram=gram, regulariser=self.regulariser, weights=self.weights
                )
                matrix = matrix @ step
                steps.append(round(float((step - step.new_ones(len(step)).diag()).norm()), 6))
            return Solution(matrix, {"steps": steps})

        return Problem(whole, stay, solved)
