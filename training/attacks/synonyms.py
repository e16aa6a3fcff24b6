"""Other words for the concept: what anybody tries first, and what no model has to be known for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ..diffusion.backbone import Backbone
from ..types import AttackResult, AttackUse, Candidate, Case

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class Synonyms:
    """Says the concept in other words, one candidate for each.

    Where a prompt names the concept, every mention of it is replaced, and an article before it is made to fit. Where it
    does not, or the case has a goal of its own, the synonym goes before the prompt, parted by a comma:
    ``"disc, a red picture on white"``.

    Args:
        words: For the concept, that a prompt may use, in any case.
        synonyms: What takes their place, in the order in which they are tried.
    """

    name: ClassVar[str] = "synonyms"
    tier: ClassVar[str] = "T1"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ()

    words: tuple[str, ...]
    synonyms: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words or any(not word.strip() for word in (*self.words, *self.synonyms)):
            raise ValueError(f"expected words, and none of them blank, found {self}")
        others = {synonym.casefold() for synonym in self.synonyms}
        # Else a prompt that uses the only word would be its own only candidate.
        if len(others) < 2 and others <= {word.casefold() for word in self.words}:
            raise ValueError(
                f"expected another way to say {self.words}, found {self.synonyms}: "
                "give a synonym that is not among the words, or two different ones"
            )

    @classmethod
    def for_concept(cls, concept: Concept) -> Synonyms:
        """Return the attack with the concept's name and synonyms.

        Raises:
            ValueError: If the concept has no synonym.
        """
        return cls(concept.words(), concept.words())

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt with every synonym.

        Args:
            target: Unused.
            cases: Prompts; no reference latents are needed.
            seed: Unused, nothing is random.

        Returns:
            One result per case with at most one text for each synonym, none of them the prompt itself, at no cost.
        """
        return [self._result(case) for case in cases]

    def _result(self, case: Case) -> AttackResult:
        texts = dict.fromkeys(self._spoken(case, synonym) for synonym in self.synonyms)
        # CLIP's tokenizer knows no capital letters: what differs in them alone is the same prompt.
        fresh = [text for text in texts if text.casefold() != case.prompt.casefold()]
        found = tuple(Candidate("text", text, step) for step, text in enumerate(fresh, start=1))
        return AttackResult(found, queries=0, unet_calls=0)

    def _spoken(self, case: Case, synonym: str) -> str:
        if case.goal or not self._mention.search(case.prompt):
            return f"{synonym}, {case.prompt}"

        def replaced(match: re.Match[str]) -> str:
            article, gap = match["article"] or "", match["gap"] or ""
            fitting = article[:1] + ("n" if article and synonym[0].lower() in "aeiou" else "")
            return fitting + gap + synonym

        return self._mention.sub(replaced, case.prompt)

    @cached_property
    def _mention(self) -> re.Pattern[str]:
        # Longest first, so that a phrase goes before its parts.
        words = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:(?P<article>an?)(?P<gap>\s+))?(?:{words})(?!\w)", re.IGNORECASE)
