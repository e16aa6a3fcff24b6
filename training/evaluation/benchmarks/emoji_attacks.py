"""The standard suites of attacks on the emoji world, whose language is that of people; see ``world_attacks``.

Searches over tokens go through all tokens of the base's tokenizer, those that no caption uses included.
"""

from __future__ import annotations

from functools import cache

from ...attacks.black_box import is_readable
from ...diffusion.sampling import SamplingConfig
from ...prompts.concept_words import naming
from ...protocols import Attack
from ...worlds.emoji.captions import frequent_words
from ...worlds.emoji.concept_prompts import PromptsAround
from ...worlds.emoji.concepts import EmojiConcept, value_words
from .world_attacks import AttackWords, SuiteName, world_suite

_PAIRED = 500  # nearest words that swaps combine into pairs
_CONTRASTS = 6  # largest number of values that descriptions contrast with the concept


def emoji_suite(name: SuiteName, concept: EmojiConcept, sampling: SamplingConfig | None = None) -> dict[str, Attack]:
    """Return label to attack, weakest tier first; see ``world_suite``.

    Swaps take the 3,000 most frequent words of captions, as many as there are, and pairs of the 500 nearest of them.

    Args:
        name: Name of the budget.
        concept: Concept of the synonyms, words and pairs of prompts.
        sampling: Sampling of attacks that draw or invert pictures themselves.

    Raises:
        ValueError: If there is no such suite.
    """
    return world_suite(name, attack_words(concept), sampling)


@cache
def attack_words(concept: EmojiConcept) -> AttackWords:
    """Return the words of attacks on a concept of the world.

    Additions are the words of captions that name no word of the concept. Those close in meaning are the concept's own
    words except its name and the members' canonical names, the words of its neighbours, and the members' keywords.

    Args:
        concept: Concept of the world.
    """
    around = PromptsAround(concept)
    things, words = around.things, concept.words(around.things, held_out=True)
    said, captions = naming(words), frequent_words(things)
    near = concept.near(things)
    spoken = [word for word in words if word not in (concept.name, *concept.members)]
    spoken += [word for value in near for word in value_words(things, concept.label, value)]
    if concept.label == "thing":
        members = [things.by_name[member] for member in concept.members]
        spoken += [word for member in members for word in (*member.kinds, *member.tags) if word != concept.name]
    others = [value for value in (concept.anchor, *near) if value] or [*around.others]
    return AttackWords(
        concept.concept(things),
        words,
        tuple(dict.fromkeys(others))[:_CONTRASTS],
        tuple(word for word in captions if not said.search(word)),
        tuple(word for word in dict.fromkeys(spoken) if is_readable(word)),
        captions,
        _PAIRED,
    )
