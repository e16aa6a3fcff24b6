"""UCE: the K and V matrices of cross-attention edited in closed form, as one matrix on the text encoder's output."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Generator, Tensor

from robust_encoders.concepts import Concept
from robust_encoders.overlays.projection import PROJECTION_TENSOR, require_square

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import anchor_prompt, require_apart
from ..types import Edit
from ..workspace import Workspace
from .closed_form import Moments, RidgeConfig, solve
from .token_vectors import Tokens, TokenVectors, VectorTarget

if TYPE_CHECKING:
    from typing import Self

_BY = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
_OF = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")


@dataclass(frozen=True, kw_only=True)
class UCE:
    """Unified Concept Editing (Gandikota et al., WACV 2024, arXiv 2308.14761), technique "replace".

    Every concept's token vectors are mapped to those of its anchor; a concept without one goes to ``art`` if it is a
    style, else to the empty prompt, as in the authors' code. All K and V matrices are edited, which equals one matrix
    on the encoder's output, exactly. Defaults are those of the authors' code of 2025; the conventions of the code
    before are ``tokens="from_last"``, of which RECE starts.

    Args:
        texts: ``words`` edits the concept's name and synonyms alone, as the authors do. ``prompts`` edits its captions,
            where it has any, each towards the same caption with the anchor in the concept's place: a departure, which
            keeps the rest of a caption.
        expand: Edit "painting by ..." and the like as well, five of them for each word of a style or of anything else.
        tokens: Which token vectors of a prompt; see ``TokenVectors.moved``. With ``last``, preserved prompts give their
            last token's alone; with ``from_last`` all, and the empty prompt is always among them.
        attributes: Instead of erasing, add these prompts to every concept, weighted by ``shares`` (debiasing). The
            authors find the shares by drawing and counting pictures; here they are given.
        shares: One for each attribute.
        preserve: Prompts that stay as they are.
        erase_scale: Weight of every token vector that is moved.
        preserve_scale: Weight of every token vector that is kept. The code of before 2025 takes ``max(0.1, 1 / n)`` for
            n preserved prompts.
        lamb: Weight of the distance from the unedited matrices.
        batch: Prompts that are encoded at once; changes nothing but the last bits.

    Raises:
        ValueError: As many shares as attributes are needed, and attributes are added to words, not to captions.
    """

    name: ClassVar[str] = "uce"
    uses_workspace: ClassVar[bool] = True
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
            raise ValueError("expected attributes together with texts='words', found captions: drop one of the two")
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least 1 prompt, found {self.batch}")
        _ = self.weights  # refuses what has no solution

    @property
    def weights(self) -> RidgeConfig:
        """Weights of the three terms."""
        return RidgeConfig(erase_scale=self.erase_scale, preserve_scale=self.preserve_scale, lamb=self.lamb)

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the authors' settings with these preserved prompts."""
        return cls(preserve=retained)

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts that stay as they are."""
        return self.preserve

    @property
    def wants_retained(self) -> bool:
        """Whether everyday objects are retained where a user names nothing: the authors retain nothing then."""
        return False

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other preserved prompts."""
        return replace(self, preserve=prompts)

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Solve for the matrix with ``backbone``'s own text encoder; ``backbone`` is left as it was.

        Args:
            backbone: The base that the matrix will be attached to: its encoder gives every token vector.
            concept: What is erased, towards its anchor.
            generator: Not used; nothing is random.
            workspace: Only its ``progress`` matters.

        Raises:
            ValueError: A conditioning is not finite, or a caption does not name the concept.
        """
        started = time.monotonic()
        progress = workspace is not None and workspace.progress
        moved = self.moved(backbone, concept, self.tokens, progress=progress)
        kept = self.kept(backbone, self.tokens, progress=progress)
        read = time.monotonic()
        matrix = solve(moved, kept, self.weights)
        return as_edit(matrix, moved, kept, seconds=(started, read))

    def moved(self, backbone: Backbone, concept: Concept, tokens: Tokens, *, progress: bool = False) -> Moments:
        """Return the moments of what is erased."""
        return TokenVectors(backbone, concept.words(), self.batch, progress).moved(self.targets(concept), tokens)

    def kept(self, backbone: Backbone, tokens: Tokens, *, progress: bool = False) -> Moments:
        """Return the moments of what is preserved."""
        prompts: Sequence[str] = self.preserve if tokens == "last" else tuple(dict.fromkeys(("", *self.preserve)))
        return TokenVectors(backbone, batch=self.batch, progress=progress).kept(prompts, tokens)

    def targets(self, concept: Concept) -> list[VectorTarget]:
        """Return where each prompt of a concept goes, a caption to one that names no part of a joint concept any more.

        Raises:
            ValueError: A caption does not name the concept, or the parts of a joint concept contradict each other.
        """
        require_apart(concept)
        found = [target for part in concept.parts or (concept,) for target in self._targets(part, concept)]
        return list(dict.fromkeys(found))  # a caption may be one of several parts

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
    """Return the prompt that a concept is mapped to: its anchor, or what the authors take where there is none."""
    return concept.anchor or ("art" if concept.kind == "style" else "")


def as_edit(matrix: Tensor, moved: Moments, kept: Moments, *, seconds: tuple[float, float], **log: Any) -> Edit:
    """Return a projection as an edit.

    Args:
        matrix: M (D, D), float64.
        moved: For the log: how many token vectors moved.
        kept: And how many were to stay.
        seconds: When the run began, and when all token vectors had been read (``time.monotonic``).
        log: Further numbers for the log.
    """
    require_square(matrix, len(matrix))
    started, read = seconds
    now = time.monotonic()
    numbers = {
        "moved_vectors": moved.count,
        "kept_vectors": kept.count,
        "seconds_solving": round(now - read, 3),
        "seconds_total": round(now - started, 3),
        "unet_calls": 0,
    }
    return Edit("projection", "text_encoder", {PROJECTION_TENSOR: matrix.float()}, {}, {**numbers, **log})
