"""Other words for the concept: the simplest attack, which needs no knowledge of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import in_place_of
from ..types import AttackResult, AttackUse, Candidate, Case

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class Synonyms:
    """Attack that replaces the concept's words in the prompt by synonyms, with one candidate per synonym.

    If a prompt names the concept, the synonym replaces every mention, and an article before it is adapted. If the
    prompt does not name the concept, or the case has a goal of its own, the synonym stands before the prompt, separated
    by a comma: ``"disc, a red picture on white"``.

    Args:
        words: Words for the concept that a prompt may contain; upper and lower case do not matter.
        synonyms: Words that replace them, in the order in which they are tried.
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
            raise ValueError(f"expected at least one word and no blank words or synonyms, found {self}")
        others = {synonym.casefold() for synonym in self.synonyms}
        # Otherwise a prompt with the only word would be its own only candidate.
        if len(others) < 2 and others <= {word.casefold() for word in self.words}:
            raise ValueError(
                f"expected another word for {self.words}, found {self.synonyms}: "
                "give a synonym that is not among the words, or two different synonyms"
            )

    @classmethod
    def for_concept(cls, concept: Concept) -> Synonyms:
        """Return the attack with the concept's name and synonyms, both as words and as their replacements.

        Raises:
            ValueError: If the concept has no synonym.
        """
        return cls(concept.words(), concept.words())

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt with every synonym.

        Args:
            target: Unused.
            cases: Cases; their reference latents are not needed.
            seed: Unused; nothing is random.

        Returns:
            One result per case with at most one text per synonym, never the prompt itself, at no cost.
        """
        return [self._result(case) for case in cases]

    def _result(self, case: Case) -> AttackResult:
        texts = dict.fromkeys(self._spoken(case, synonym) for synonym in self.synonyms)
        # CLIP's tokenizer ignores upper and lower case: texts that differ only in case are the same prompt.
        fresh = [text for text in texts if text.casefold() != case.prompt.casefold()]
        found = tuple(Candidate("text", text, step) for step, text in enumerate(fresh, start=1))
        return AttackResult(found, queries=0, unet_calls=0)

    def _spoken(self, case: Case, synonym: str) -> str:
        found = None if case.goal else in_place_of(case.prompt, self.words, synonym)
        return f"{synonym}, {case.prompt}" if found is None else found
