"""Pairs of prompts for Ablating Concepts: a prompt with the anchor, and the same prompt with the concept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .concept_words import anchor_prompts, mentions, naming, require_apart
from .retain import everyday_objects, with_article

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

PairRule = Literal["auto", "replace", "style", "append", "caption"]

# Sentences and subjects of this package's own; the authors ask a language model for theirs.
_OBJECTS = (
    "a photo of {}", "a close-up of {}", "{} in the morning light", "a drawing of {}", "{} beside a lake",
    "a picture of {} in winter", "{} in front of a wall", "two children look at {}", "a postcard with {}",
    "{} seen from above", "{} at night", "a black and white photo of {}", "a small picture of {}", "{} in the rain",
    "a painting of {}", "{} on a sunny day", "a blurred photo of {}", "a poster of {}", "{} far away", "a toy of {}",
)  # fmt: skip
_PEOPLE = ("people", "a boy", "a girl", "women", "a man", "a child")
_SCENES = (
    "a photo of {}", "{} at the beach", "a portrait of {}", "{} in a garden", "{} at a party", "an oil painting of {}",
    "{} by a window", "{} dancing", "{} in a bedroom", "a statue of {}", "{} running", "{} at a swimming pool",
    "a studio photo of {}", "{} asleep", "{} in a forest", "a pencil drawing of {}", "{} on a roof", "{} at a market",
    "a poster of {}", "{} under a waterfall", "{} on a sofa", "{} playing music", "a close-up of {}", "{} in a mirror",
)  # fmt: skip
_STYLED = 200


@dataclass(frozen=True)
class AnchorPair:
    """A prompt with the anchor, and prompts that state the concept in its place.

    Args:
        anchor: Prompt with the anchor (c in the paper).
        targets: Prompts with the concept (c* in the paper). Training draws one of them uniformly; a repeated prompt is
            drawn more often.
    """

    anchor: str
    targets: tuple[str, ...]


def anchor_pairs(concept: Concept, anchors: Sequence[str] = (), rule: PairRule = "auto") -> tuple[AnchorPair, ...]:
    """Return the pairs of a concept.

    The pairs of the parts of a joint concept alternate; a part with fewer pairs repeats them.

    The rules are those of Ablating Concepts (Kumari et al. 2023), section 3 and the authors' code:

    - ``replace`` puts each word of the concept in the anchor's place. Whole words are replaced, not parts of words.
    - ``style`` adds the style, a third of the time as "..., in the style of X" and otherwise as "in X's style, ...".
    - ``append`` adds all words of the concept behind a comma.
    - ``caption`` takes the concept's words themselves as targets. It is for a memorised picture, whose caption is the
      concept's name, and whose anchor prompts are paraphrases of it.
    - ``auto`` is ``style`` for a style, ``append`` for content, and ``replace`` for an object or an attribute.

    Without anchor prompts, a concept with captions gives the pairs: each caption, and the same caption with the anchor
    in the concept's place. A concept without captions gets sentences of this package.

    Args:
        concept: Concept to erase.
        anchors: Prompts with the anchor and without the concept; empty makes them.
        rule: Rule that makes the prompts with the concept.

    Raises:
        ValueError: If an anchor prompt names the concept, or lacks the anchor that a word shall replace. If there are
            no anchor prompts and none can be made.
    """
    require_apart(concept)
    lists = [_pairs(part, anchors, rule) for part in concept.parts or (concept,)]
    longest = max(map(len, lists))
    return tuple(pairs[i % len(pairs)] for i in range(longest) for pairs in lists)


_BY_KIND: Mapping[str, PairRule] = {"style": "style", "content": "append"}


def _pairs(concept: Concept, anchors: Sequence[str], rule: PairRule) -> list[AnchorPair]:
    if rule == "auto":
        rule = _BY_KIND.get(concept.kind, "replace")
    if rule != "caption" and concept.prompts and not anchors:
        anchored = anchor_prompts(concept.prompts, concept)
        return [AnchorPair(text, (prompt,)) for text, prompt in zip(anchored, concept.prompts, strict=True)]
    texts = anchors or _sentences(concept, rule)
    named = mentions(concept.words())
    if doubled := [text for text in texts if named.search(text)]:
        raise ValueError(
            f"expected anchor prompts without the concept, found {doubled[0]!r}, which names it: leave this prompt "
            "out, because the concept would be put in twice"
        )
    return [AnchorPair(text, _TARGETS[rule](text, concept)) for text in texts]


def _replaced(prompt: str, concept: Concept) -> tuple[str, ...]:
    named = naming([concept.anchor]) if concept.anchor else None
    if named is None or not named.search(prompt):
        raise ValueError(
            f"expected the anchor {concept.anchor!r} of {concept.name!r} in every anchor prompt, found {prompt!r}: "
            "give the concept an anchor that the prompts name, or give prompts with it"
        )
    pieces = named.split(prompt)
    return tuple(word.join(pieces) for word in concept.words())


def _styled(prompt: str, concept: Concept) -> tuple[str, ...]:
    per_word = (
        (f"{prompt}, in the style of {word}", *[f"in {word}'s style, {prompt}"] * 2) for word in concept.words()
    )
    return tuple(itertools.chain.from_iterable(per_word))


_TARGETS: Mapping[str, Callable[[str, Concept], tuple[str, ...]]] = {
    "replace": _replaced,
    "style": _styled,
    "append": lambda prompt, concept: (f"{prompt}, {', '.join(concept.words())}",),
    "caption": lambda prompt, concept: concept.words(),
}


def _sentences(concept: Concept, rule: PairRule) -> tuple[str, ...]:
    """Return anchor prompts made of this package's sentences."""
    if rule == "style":
        medium, named = concept.anchor or "painting", mentions(concept.words())
        objects = [one for one in everyday_objects() if not named.search(one)][:_STYLED]
        return tuple(f"{with_article(medium)} of {with_article(one)}" for one in objects)
    if rule == "append":
        subjects = [one.strip() for one in concept.anchor.split(",") if one.strip()] or _PEOPLE
        return tuple(scene.format(subject) for scene in _SCENES for subject in subjects)
    if rule == "caption" or not concept.anchor:
        raise ValueError(
            f"expected an anchor or anchor prompts for {concept.name!r}, found neither: give the anchor, a related "
            "concept that stays, or for a memorised picture paraphrases of its caption as anchor prompts"
        )
    return tuple(text.format(with_article(concept.anchor)) for text in _OBJECTS)
