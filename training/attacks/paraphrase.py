"""Paraphrase: what people type, with everyday words around a prompt, or a description in place of the name.

The attack is ours. It needs no knowledge of the model and no search, like ``synonyms``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import in_place_of, naming
from ..prompts.paraphrases import descriptions, everyday_frames, framed
from ..prompts.retain import with_article
from ..types import AttackResult, AttackUse, Candidate, Case

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

_FROM_CAPTIONS = 4


@dataclass(frozen=True)
class Paraphrase:
    """Attack that asks for the same picture in other words, with one candidate per wording.

    The candidates come in three groups. First the prompt stands in each of ``frames``. Then ``alone`` stands in each of
    them, if it is given. Last come descriptions: they replace the concept's words in the prompt, and none of their
    texts names the concept. A prompt that does not name the concept gets the description and a comma before it.

    Args:
        words: Words for the concept, which descriptions replace and never contain.
        frames: Frames with ``{}`` for a phrase or ``{bare}`` for the phrase without its article.
        alone: Phrase that names the concept by itself, for example ``a circle``; empty for none.
        descriptions: Phrases in place of the concept's words.
        captions: Whole prompts that describe the concept without naming it.
    """

    name: ClassVar[str] = "paraphrase"
    tier: ClassVar[str] = "T1"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ()

    words: tuple[str, ...]
    frames: tuple[str, ...] = ()
    alone: str = ""
    descriptions: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words or not (self.frames or self.descriptions or self.captions):
            raise ValueError(f"expected the concept's words and at least one frame or description, found {self}")
        if odd := [frame for frame in self.frames if "{}" not in frame and "{bare}" not in frame]:
            raise ValueError(f"expected {{}} or {{bare}} in every frame, found {odd}: mark the place of the phrase")
        named = naming(self.words)
        if odd := [text for text in (*self.descriptions, *self.captions) if named.search(text)]:
            raise ValueError(f"expected descriptions without the words {self.words}, found {odd}: remove them")

    @classmethod
    def for_concept(cls, concept: Concept, *, others: Sequence[str] = (), words: Sequence[str] = ()) -> Paraphrase:
        """Return the attack with all everyday frames, and descriptions made from the data of the concept.

        Args:
            concept: Concept with its kind, anchor, words and captions.
            others: Values that the concept could be taken for; by default its anchor, if it has one.
            words: All words for the concept; by default its name and synonyms.
        """
        words = tuple(words) or concept.words()
        named = naming(words)
        known = [other for other in (others or [concept.anchor]) if other and not named.search(other)]
        texts = [text for text in descriptions(concept.kind, known) if not named.search(text)]
        left = (in_place_of(text, words, "") or "" for text in concept.prompts)
        captions = [text for text in dict.fromkeys(" ".join(one.split()) for one in left) if text]
        return cls(words, everyday_frames(), _alone(concept), tuple(texts), tuple(captions[:_FROM_CAPTIONS]))

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt in every wording.

        Args:
            target: Model under attack; only its tokenizer is used.
            cases: Cases; their reference latents are not needed.
            seed: Unused; nothing is random.

        Returns:
            One result per case with one text per wording, never the prompt itself, at no cost. Texts that the tokenizer
            would cut are left out, unless it would cut all of them.
        """
        return [self._result(target, case) for case in cases]

    def _result(self, target: Backbone, case: Case) -> AttackResult:
        # CLIP's tokenizer ignores upper and lower case and repeated spaces.
        texts = dict.fromkeys(" ".join(text.split()) for text in self._texts(case))
        fresh = [text for text in texts if text and text.casefold() != case.prompt.casefold()]
        whole = [text for text in fresh if target.fits(text)]
        found = tuple(Candidate("text", text, step) for step, text in enumerate(whole or fresh, start=1))
        return AttackResult(found, queries=0, unet_calls=0)

    def _texts(self, case: Case) -> Iterator[str]:
        yield from (framed(frame, case.wanted) for frame in self.frames)
        yield from (framed(frame, self.alone) for frame in self.frames if self.alone)
        for text in self.descriptions:
            found = in_place_of(case.wanted, self.words, text)
            yield f"{text}, {case.wanted}" if found is None else found
        yield from self.captions


def _alone(concept: Concept) -> str:
    """Return an object's name with its article; the name of a style or attribute is no phrase by itself."""
    return with_article(concept.name) if concept.kind == "object" and not concept.parts else ""
