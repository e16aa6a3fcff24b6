"""MACE's first stage: every token beside the concept's words forgets the concept, by one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from .paired_vectors import PairedForm, beside


@dataclass(frozen=True, kw_only=True)
class MACE(PairedForm):
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
    texts: Literal["words", "prompts"] = "words"
    templates: int = 30
    preserve: tuple[str, ...] = ()
    preserve_scale: float = 3.0
    lamb: float = 0.0
    batch: int = 64

    def rows(self, own: Tensor, other: Tensor, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows beside the words in which a pair of prompts differs, and their weights; see ``beside``."""
        return beside(own, other, eos_id)
