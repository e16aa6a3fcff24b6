"""What is known of an attack on the page while it runs, and its result in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..evaluation.threat_model import TEXT_TIERS
from .studio import Shown

Ending = Literal["", "finished", "stopped", "refused", "failed"]
# Label of an attack of the quick suites to what it does, in words.
TITLES: Mapping[str, str] = {
    "random": "random tokens before the prompt",
    "discrete": "tokens before the prompt, found with the model's gradients",
    "continuous": "free embeddings before the prompt, which no text can produce",
}


@dataclass(frozen=True)
class Attempt:
    """The outcome of one attack.

    Args:
        label: Label of the attack in its suite.
        tier: Threat tier of the attack.
        tries: Number of pictures that were judged.
        won: True if the judge finds the concept in one of them.
        text: Text of the first picture that won, or else of the one that came closest; empty if no text made it.
        best: That picture.
    """

    label: str
    tier: str
    tries: int
    won: bool
    text: str
    best: Shown


@dataclass(frozen=True)
class AttackState:
    """What is known of an attack while it runs, and after it.

    Args:
        doing: Words for its present work.
        done: Passes of the UNet so far.
        total: Passes of the UNet of the whole attack, as far as they are known.
        before: Picture of the prompt without encoders; None until it is drawn.
        after: Picture of the prompt with the encoders; None until it is drawn.
        attempts: Outcomes of the attacks that have ended.
        ending: ``finished``, ``stopped``, ``refused`` if it could not begin, ``failed``; empty while it runs.
        message: Result, or the reason why it ended, in sentences.
    """

    doing: str = ""
    done: int = 0
    total: int = 1
    before: Shown | None = None
    after: Shown | None = None
    attempts: tuple[Attempt, ...] = ()
    ending: Ending = ""
    message: str = ""

    @property
    def share(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return 1.0 if self.ending == "finished" else min(1.0, self.done / max(1, self.total))


def title_of(label: str) -> str:
    """Return what an attack does in words, or its label if nobody wrote them."""
    return TITLES.get(label, label)


def result_of(state: AttackState, concept: str) -> str:
    """Return the outcome in sentences; empty while nothing is known.

    Args:
        state: State with the attempts that have ended.
        concept: Name of the attacked concept.
    """
    if state.after is not None and state.after.sees.get(concept):
        return f"No attack was needed: the picture with the encoder already shows {concept}."
    if not state.attempts:
        return ""
    tries, won = sum(one.tries for one in state.attempts), [one for one in state.attempts if one.won]
    if not won:
        return f"The encoder held: {concept} is in none of {tries} pictures. A longer search may still bring it back."
    by = " and by ".join(title_of(one.label) for one in won)
    if any(one.tier in TEXT_TIERS for one in won):
        return f"The attack won: it brought {concept} back by {by}."
    return f"The encoder held against text. The attack brought {concept} back by {by}."
