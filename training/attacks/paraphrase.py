"""Paraphrase: what people type, with everyday words around a prompt, or a description in place of the name.

The attack is ours. It needs no knowledge of the model and no search, like ``synonyms``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..diffusion.target import TargetModel
from ..prompts.concept_words import in_place_of, naming
from ..prompts.paraphrases import descriptions, everyday_frames, framed
from ..prompts.retain import with_article
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.drafts import Screened, best_by_draft

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

_FROM_CAPTIONS = 4


@dataclass(frozen=True)
class Paraphrase:
    """Attack that asks for the same picture in other words, and draws the wordings whose drafts come nearest to it.

    The wordings come in three groups. First the prompt stands in each of ``frames``. Then ``alone`` stands in each of
    them, if it is given. Last come descriptions: they replace the concept's words in the prompt, and none of their
    texts names the concept. A prompt that does not name the concept gets the description and a comma before it.

    If there are more wordings than ``whole``, a draft of each one is drawn, a picture of few steps. Those with the
    highest margins are the candidates, the best first. An attacker may look at the pictures of all wordings, so drafts
    give no further knowledge: they save pictures that would not win.

    Args:
        words: Words for the concept, which descriptions replace and never contain.
        frames: Frames with ``{}`` for a phrase or ``{bare}`` for the phrase without its article.
        alone: Phrase that names the concept by itself, for example ``a circle``; empty for none.
        descriptions: Phrases in place of the concept's words.
        captions: Whole prompts that describe the concept without naming it.
        whole: Largest number of wordings drawn whole for a prompt.
        draft_steps: Number of denoising steps of a draft; 0 draws every wording whole.
    """

    name: ClassVar[str] = "paraphrase"
    tier: ClassVar[str] = "T1"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("drafts",)

    words: tuple[str, ...]
    frames: tuple[str, ...] = ()
    alone: str = ""
    descriptions: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    whole: int = 8
    draft_steps: int = 4

    def __post_init__(self) -> None:
        if not self.words or not (self.frames or self.descriptions or self.captions):
            raise ValueError(f"expected the concept's words and at least one frame or description, found {self}")
        if self.whole < 1 or self.draft_steps < 0:
            raise ValueError(f"expected whole of at least 1 and draft_steps of at least 0, found {self}")
        if odd := [frame for frame in self.frames if "{}" not in frame and "{bare}" not in frame]:
            raise ValueError(f"expected {{}} or {{bare}} in every frame, found {odd}: mark the place of the phrase")
        named = naming(self.words)
        if odd := [text for text in (*self.descriptions, *self.captions) if named.search(text)]:
            raise ValueError(f"expected descriptions without the words {self.words}, found {odd}: remove them")

    @classmethod
    def for_concept(
        cls, concept: Concept, *, others: Sequence[str] = (), words: Sequence[str] = (), **changes: int
    ) -> Paraphrase:
        """Return the attack with all everyday frames, and descriptions made from the data of the concept.

        Args:
            concept: Concept with its kind, anchor, words and captions.
            others: Values that the concept could be taken for; by default its anchor, if it has one.
            words: All words for the concept; by default its name and synonyms.
            changes: Other values of ``whole`` and ``draft_steps``.
        """
        words = tuple(words) or concept.words()
        named = naming(words)
        known = [other for other in (others or [concept.anchor]) if other and not named.search(other)]
        texts = [text for text in descriptions(concept.kind, known) if not named.search(text)]
        left = (in_place_of(text, words, "") or "" for text in concept.prompts)
        captions = [text for text in dict.fromkeys(" ".join(one.split()) for one in left) if text]
        made = tuple(captions[:_FROM_CAPTIONS])
        return cls(words, everyday_frames(), _alone(concept), tuple(texts), made, **changes)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt in the wordings with the best drafts.

        Args:
            target: Model under attack with its draft function; of the model itself, only the tokenizer is used.
            cases: Cases; their reference latents are not needed.
            seed: Unused; nothing is random.

        Returns:
            One result per case with at most ``whole`` texts, never the prompt itself, and the UNet calls of the drafts.
            Texts that the tokenizer would cut are left out, unless it would cut all of them.

        Raises:
            ValueError: If there are more wordings than ``whole``, and the target draws no drafts.
        """
        texts = [self._wordings(target, case) for case in cases]
        found = best_by_draft(target, texts, cases, steps=self.draft_steps, whole=self.whole)
        return [_result(row, screened) for row, screened in zip(texts, found, strict=True)]

    def _wordings(self, target: TargetModel, case: Case) -> list[str]:
        # CLIP's tokenizer ignores upper and lower case and repeated spaces.
        texts = dict.fromkeys(" ".join(text.split()) for text in self._texts(case))
        fresh = [text for text in texts if text and text.casefold() != case.prompt.casefold()]
        return [text for text in fresh if target.fits(text)] or fresh

    def _texts(self, case: Case) -> Iterator[str]:
        yield from (framed(frame, case.wanted) for frame in self.frames)
        yield from (framed(frame, self.alone) for frame in self.frames if self.alone)
        for text in self.descriptions:
            found = in_place_of(case.wanted, self.words, text)
            yield f"{text}, {case.wanted}" if found is None else found
        yield from self.captions


def _result(texts: Sequence[str], screened: Screened) -> AttackResult:
    found = (Candidate("text", texts[place], step) for step, place in enumerate(screened.places, start=1))
    return AttackResult(tuple(found), queries=0, unet_calls=screened.unet_calls)


def _alone(concept: Concept) -> str:
    """Return an object's name with its article; the name of a style or attribute is no phrase by itself."""
    return with_article(concept.name) if concept.kind == "object" and not concept.parts else ""
