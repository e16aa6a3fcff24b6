"""DP: the concept moves to its safe part, in directions that preserved prompts leave free, by one matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from .closed_form import Moments, double_projection, free_beyond, onto
from .closed_method import ClosedForm, ErasureInputs, Problem, Solution
from .token_vectors import TokenVectors
from .uce import UCE, guide

if TYPE_CHECKING:
    from typing import Self

# Protected directions beside captions; the embedded base has 96, and its preserved captions leave none of them free.
CAPTION_RANK = 64


@dataclass(frozen=True, kw_only=True)
class DP(ClosedForm):
    """Double Projections (Zhang et al., CVPR 2026, arXiv 2604.10032).

    The first projection gives a token vector c of the concept its target: its part in the span of safe vectors S,
    ``c* = S (S^T S)^+ S^T c``. The second one allows only edits that leave the preserved vectors exactly as they are.
    U are the directions that these leave free, their left null space, and ``x = U^T c``. The edit of all key and value
    matrices (K and V) equals one matrix on the text encoder's output:

        M = I + (c* - c) x^T U^T / |x|^2

    For several vectors it is their least squares in the free directions. UCE is the case of one safe vector and of no
    free directions, with a soft term for preserved ones.

    Args:
        texts: Texts to edit. ``words`` edits the concept's name and synonyms, ``prompts`` its captions, if it has any.
        tokens: Positions whose token vectors are edited, see ``UCE``: ``last`` or ``from_last``.
        target: Target of a vector. ``projection`` is the paper's. ``anchor`` leaves the first projection out, which the
            paper allows, and takes the anchor's vector; a style without an anchor goes to ``art``, any other concept to
            the empty prompt.
        safe: Further prompts whose last tokens span the safe vectors; the anchors always belong to them.
        preserve: Preserved prompts, which keep their meaning: their last tokens, or with ``from_last`` all their tokens
            and the empty prompt's.
        rank: Number of the preserved vectors' leading directions that are protected (the paper's k). None protects all
            of them, exactly.
        batch: Number of prompts encoded at once. It changes results by rounding only.

    Raises:
        ValueError: If a number is too small, or safe prompts would have no effect.
    """

    name: ClassVar[str] = "dp"
    texts: Literal["words", "prompts"] = "words"
    tokens: Literal["last", "from_last"] = "last"
    target: Literal["projection", "anchor"] = "projection"
    safe: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    rank: int | None = None
    batch: int = 64

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.rank is not None and self.rank < 0):
            raise ValueError(
                f"expected a batch of at least 1 prompt and a rank of at least 0, found {self.batch} and {self.rank}"
            )
        if self.safe and self.target == "anchor":
            raise ValueError(
                "expected safe prompts together with target='projection', found 'anchor': choose target 'projection' "
                "(--target projection), or leave safe prompts out"
            )

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts.

        A caption goes to the same caption with the anchor in the concept's place. DP's first projection would lose the
        rest of a caption. All tokens of the preserved prompts together may leave no direction free, so their leading 64
        directions are protected, unless ``rank`` says otherwise.
        """
        rank = CAPTION_RANK if self.rank is None else self.rank
        return replace(self, texts="prompts", tokens="from_last", target="anchor", rank=rank)

    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read the moved and the kept token vectors, and project the former on the safe vectors for their targets."""
        backbone, concept = inputs.backbone, inputs.concept
        reader = UCE(texts=self.texts, tokens=self.tokens, preserve=self.preserve, batch=self.batch)
        moved = reader.moved(backbone, concept, self.tokens, progress=inputs.progress)
        kept = reader.kept(backbone, self.tokens, progress=inputs.progress)
        if self.target == "projection":
            anchors = dict.fromkeys(guide(part) for part in concept.parts or (concept,))
            safe = TokenVectors(backbone, batch=self.batch).read([*anchors, *self.safe], "last")
            moved = Moments(moved.second, onto(safe) @ moved.second, moved.count)
        return Problem(moved, kept, lambda: self._solution(moved, kept))

    def _solution(self, moved: Moments, kept: Moments) -> Solution:
        free = free_beyond(kept.second, self.rank)
        return Solution(double_projection(moved, free), {"free_directions": free.shape[1]})
