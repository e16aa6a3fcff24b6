"""MACE's first stage: every token beside the concept's words forgets the concept, by one matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Generator

from ..diffusion.backbone import Backbone
from ..types import Edit
from ..workspace import Workspace
from .paired_vectors import beside, erase_pairs, require_paired

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class MACE:
    """First stage of MACE (Lu et al., CVPR 2024, arXiv 2403.06135): closed-form refinement of cross-attention.

    In a prompt, the tokens beside the concept's words carry the concept, too, because the text encoder mixes positions.
    Their vectors c shall give the outputs of the same tokens beside the anchor, t. The words of the concept themselves
    are not edited. The edit of all key and value matrices (K and V) equals one matrix on the text encoder's output:

        M = (sum t c^T + p sum q q^T) (sum c c^T + p sum q q^T)^-1

    The first sum is over pairs of prompts and all rows beside the words, the second over all token vectors q of
    preserved prompts. The paper's later stages are left out: adapters against attention to the words, and their fusion.
    The code here was written from the equations. It contains none of the authors' code, whose licence forbids
    commercial use.

    Args:
        texts: Texts of the pairs. ``words`` takes sentences of this package with the concept's name and synonyms,
            ``prompts`` its captions, if it has any; each is paired with the same text with the anchor. Without an
            anchor, a style is mapped to ``art`` and any other concept to nothing, as by UCE.
        templates: Number of sentences for each word of the concept.
        preserve: Preserved prompts, all of whose token vectors are kept. The authors take 30,000 captions of COCO.
        preserve_scale: Weight of the preserved prompts, for the mean over them. The paper's 1e-4
            times 30,000 captions is 3; for nudity it is 0.021.
        lamb: Weight of the squared distance from the unedited matrices. At 0, as published, the edit is the closest to
            none among the solutions, see ``closed_form.least_change``.
        batch: Number of pairs encoded at once. It changes results by rounding only.

    Raises:
        ValueError: If a number is outside its range.
    """

    name: ClassVar[str] = "mace"
    uses_workspace: ClassVar[bool] = True
    texts: Literal["words", "prompts"] = "words"
    templates: int = 30
    preserve: tuple[str, ...] = ()
    preserve_scale: float = 3.0
    lamb: float = 0.0
    batch: int = 64

    def __post_init__(self) -> None:
        require_paired(self)

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts."""
        return replace(self, texts="prompts")

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the paper's settings with these preserved prompts."""
        return cls(preserve=retained)

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts that keep their meaning."""
        return self.preserve

    @property
    def wants_retained(self) -> bool:
        """True, because everyday objects are preserved when the user gives no prompts."""
        return True

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other preserved prompts."""
        return replace(self, preserve=prompts)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Solve for the matrix with ``backbone``'s text encoder; ``backbone`` stays unchanged.

        Args:
            backbone: Base that the matrix will be attached to; its text encoder gives every token vector.
            concept: Concept to erase; its anchor is the target.
            generator: Unused, because the method draws nothing at random.
            workspace: Workspace whose ``progress`` switch is used; nothing else of it matters.

        Raises:
            ValueError: If a conditioning is not finite, or a caption does not name the concept.
        """
        eos_id = backbone.tokenizer.eos_token_id
        return erase_pairs(self, backbone, concept, lambda own, other: beside(own, other, eos_id), workspace)
