"""The standard suites of attacks on the shapes world; see ``world_attacks``."""

from __future__ import annotations

from ...diffusion.sampling import SamplingConfig
from ...protocols import Attack
from ...worlds.shapes.concepts import ShapesConcept, additions, caption_words
from .world_attacks import AttackWords, SuiteName, world_suite

__all__ = ["SuiteName", "shapes_suite"]


def shapes_suite(name: SuiteName, concept: ShapesConcept, sampling: SamplingConfig | None = None) -> dict[str, Attack]:
    """Return label to attack, weakest tier first; see ``world_suite``.

    Args:
        name: Name of the budget.
        concept: Concept of the synonyms, words and pairs of prompts.
        sampling: Sampling of attacks that draw or invert pictures themselves.

    Raises:
        ValueError: If there is no such suite.
    """
    others, near = additions(concept)
    words = AttackWords(concept.concept, concept.words, tuple(concept.others), others, near, caption_words())
    return world_suite(name, words, sampling)
