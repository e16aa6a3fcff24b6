"""UCE: a closed-form edit of cross-attention's key and value matrices, as one matrix on the text encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from robust_encoders.concepts import Concept

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import anchor_prompt, require_apart
from .closed_form import Moments, RidgeConfig, solve
from .closed_method import ClosedForm, ErasureInputs, Problem, Solution
from .token_vectors import Tokens, TokenVectors, VectorTarget

_BY = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
_OF = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")


@dataclass(frozen=True, kw_only=True)
class UCE(ClosedForm):
    """Unified Concept Editing (Gandikota et al., WACV 2024, arXiv 2308.14761), technique "replace".

    The edit maps every concept's token vectors to those of its anchor. Without an anchor, a style is mapped to ``art``
    and any other concept to the empty prompt, as in the authors' code. The edit of all key and value matrices (K and V)
    equals one matrix on the text encoder's output, exactly. The default settings are those of the authors' code of
    2025. ``tokens="from_last"`` gives the conventions of their earlier code, which RECE builds on.

    Args:
        texts: Texts to edit. ``words`` edits only the concept's name and synonyms, as the authors do. ``prompts`` edits
            its captions, if it has any. The target of each is the same caption with the anchor in the concept's place.
            That is a departure, which keeps the rest of a caption.
        expand: Switch that also edits five phrases for each word. A phrase is, for example, "painting by ..." for a
            style and "photo of ..." for any other concept.
        tokens: Positions whose token vectors are edited. ``last`` edits the last token of the concept's words.
            ``from_last`` also edits all positions after it. ``last`` keeps only the last token's vector of a preserved
            prompt. ``from_last`` keeps all its vectors, and also preserves the empty prompt.
        attributes: Prompts to add to every concept instead of erasing it. This is debiasing: ``shares`` has the
            prompts' weights. The authors compute the shares by drawing and counting pictures; here they are given.
        shares: Weights of the attributes, one for each.
        preserve: Preserved prompts, which keep their meaning.
        erase_scale: Weight of every token vector that is moved.
        preserve_scale: Weight of every token vector that is kept. The authors' code before 2025 takes
            ``max(0.1, 1 / n)`` for n preserved prompts.
        lamb: Weight of the squared distance from the unedited matrices; above 0.
        batch: Number of prompts encoded at once. It changes results by rounding only.

    Raises:
        ValueError: If the numbers of shares and attributes differ, or if attributes are to be added to captions.
    """

    name: ClassVar[str] = "uce"
    texts: Literal["words", "prompts"] = "words"
    expand: bool = False
    tokens: Literal["last", "from_last"] = "last"
    attributes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    preserve: tuple[str, ...] = ()
    erase_scale: float = 1.0
    preserve_scale: float = 1.0
    lamb: float = 0.5
    batch: int = 64

    def __post_init__(self) -> None:
        if len(self.attributes) != len(self.shares):
            raise ValueError(
                f"expected one share for each attribute, found {len(self.shares)} for {len(self.attributes)}"
            )
        if self.attributes and self.texts != "words":
            raise ValueError(
                "expected texts='words' together with attributes, found texts='prompts': choose texts 'words' (--texts "
                "words), or leave attributes out"
            )
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least 1 prompt, found {self.batch}")
        _ = self.weights  # refuses weights without a solution

    @property
    def weights(self) -> RidgeConfig:
        """Weights of the objective's three terms."""
        return RidgeConfig(erase_scale=self.erase_scale, preserve_scale=self.preserve_scale, lamb=self.lamb)

    @property
    def wants_retained(self) -> bool:
        """False, because the authors preserve no prompts when the user gives none."""
        return False

    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read the moved and the kept token vectors."""
        moved = self.moved(inputs.backbone, inputs.concept, self.tokens, progress=inputs.progress)
        kept = self.kept(inputs.backbone, self.tokens, progress=inputs.progress)
        return Problem(moved, kept, lambda: Solution(solve(moved, kept, self.weights)))

    def moved(self, backbone: Backbone, concept: Concept, tokens: Tokens, *, progress: bool = False) -> Moments:
        """Return the moments of the token vectors to erase, with their targets."""
        return TokenVectors(backbone, concept.words(), self.batch, progress).moved(self.targets(concept), tokens)

    def kept(self, backbone: Backbone, tokens: Tokens, *, progress: bool = False) -> Moments:
        """Return the moments of the token vectors to preserve."""
        prompts: Sequence[str] = self.preserve if tokens == "last" else tuple(dict.fromkeys(("", *self.preserve)))
        return TokenVectors(backbone, batch=self.batch, progress=progress).kept(prompts, tokens)

    def targets(self, concept: Concept) -> list[VectorTarget]:
        """Return the target of each prompt of a concept.

        The target of a joint concept's caption names no part of that concept any more.

        Raises:
            ValueError: If a caption does not name the concept, or the parts of a joint concept contradict each other.
        """
        require_apart(concept)
        found = [target for part in concept.parts or (concept,) for target in self._targets(part, concept)]
        return list(dict.fromkeys(found))  # several parts may share a caption

    def _targets(self, part: Concept, whole: Concept) -> list[VectorTarget]:
        if self.texts == "prompts" and part.prompts:
            return [VectorTarget(text, ((1.0, anchor_prompt(text, whole)),)) for text in part.prompts]
        templates = ("{}", *((_BY if part.kind == "style" else _OF) if self.expand else ()))
        texts = [template.format(word) for word in part.words() for template in templates]
        if self.attributes:
            return [
                VectorTarget(text, tuple(zip(self.shares, self.attributes, strict=True)), own=1.0) for text in texts
            ]
        return [VectorTarget(text, ((1.0, guide(part)),)) for text in texts]


def guide(concept: Concept) -> str:
    """Return the prompt that a concept is mapped to: its anchor, or the authors' choice if it has none."""
    return concept.anchor or ("art" if concept.kind == "style" else "")
