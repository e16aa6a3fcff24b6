"""TRCE's first stage: the end tokens of the concept's prompts get the anchor's, by one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..prompts.layout import prompt_lengths
from .paired_vectors import PairedForm, differing


@dataclass(frozen=True, kw_only=True)
class TRCE(PairedForm):
    """First stage of TRCE (Chen et al., ICCV 2025, arXiv 2503.07389): a closed form aligned at the end token.

    For prompts with the concept, the first end token's vector c shall give the outputs of that of the same prompts with
    the anchor, t. The edit of all key and value matrices (K and V) equals one matrix on the text encoder's output:

        M = (sum w t c^T + p sum q q^T) (sum w c c^T + p sum q q^T)^-1

    The first sum is over pairs and rows with weights w, the second over all token vectors q of preserved prompts. The
    paper's second stage, a training of the UNet on trajectories, is left out. The code here was written from the
    equations; the authors' program has no licence. It counts words where token indices are needed; here rows come from
    token ids.

    Args:
        texts: Texts of the pairs. ``words`` takes sentences of this package with the concept's name and synonyms,
            ``prompts`` its captions, if it has any; each is paired with the same text with the anchor. Without an
            anchor, a style is mapped to ``art`` and any other concept to nothing, as by UCE.
        templates: Number of sentences for each word of the concept.
        preserve: Preserved prompts, all of whose token vectors are kept. The authors take 30,000 captions of COCO.
        preserve_scale: Weight of the preserved prompts, for the mean over them. The paper's 0.01.
        lamb: Weight of the squared distance from the unedited matrices. At 0, as published, the edit is the closest to
            none among the solutions, see ``closed_form.least_change``.
        batch: Number of pairs encoded at once. It changes results by rounding only.
        start_weight: Weight w of the begin token's row.
        end_weight: Weight of the first end token's row.
        padding_weight: Weight of the last row, times the number of rows behind the first end token.
        key_weight: Weight of the row of the concept's last token.

    Raises:
        ValueError: If a number is outside its range, or all weights of rows are 0.
    """

    name: ClassVar[str] = "trce"
    texts: Literal["words", "prompts"] = "words"
    templates: int = 15
    preserve: tuple[str, ...] = ()
    preserve_scale: float = 0.01
    lamb: float = 0.0
    start_weight: float = 0.0
    end_weight: float = 1.0
    padding_weight: float = 0.0
    key_weight: float = 0.0
    batch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self._weights) < 0 or max(self._weights) <= 0:
            raise ValueError(
                f"expected weights of rows of at least 0, not all 0, found {self._weights}: set end_weight to 1"
            )

    @property
    def _weights(self) -> tuple[float, float, float, float]:
        return self.start_weight, self.end_weight, self.padding_weight, self.key_weight

    def rows(self, own: Tensor, other: Tensor, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of a pair of prompts and their weights, all (4,): begin, first end, last, concept.

        Args:
            own: Token ids (L,) of the prompt with the concept.
            other: Token ids (L,) of the prompt with the anchor.
            eos_id: Id of the end token.
        """
        ends = [int(length) + 1 for length in prompt_lengths(torch.stack([own, other]), eos_id)]
        keys = [max(end - 1, 0) for _, end in differing(own, other, eos_id)]
        first, second = ([0, end, len(own) - 1, key] for end, key in zip(ends, keys, strict=True))
        behind = max(len(own) - 1 - ends[0], 0)
        weights = torch.tensor([1.0, 1.0, behind, 1.0]) * torch.tensor(self._weights)
        return torch.tensor(first), torch.tensor(second), weights
