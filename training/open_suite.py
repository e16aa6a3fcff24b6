"""Attacks at the budgets of their papers, for an evaluation on a real base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from .attacks import P4D, ConceptInversion, ContinuousPrefix, RandomPrefix, RingABell, UnlearnDiffAtk
from .backbone import Precision
from .protocols import PromptAttack

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

OpenSuite = Literal["none", "quick", "standard", "full"]


def open_suite(
    name: OpenSuite,
    concept: Concept,
    *,
    words: Sequence[str] = (),
    batch: int = 8,
    precision: Precision = "bf16",
) -> dict[str, PromptAttack]:
    """Return label to attack, at the budgets of their papers.

    ``quick`` is UnlearnDiffAtk at a fortieth of its budget, for trying things out: its rate is a lower bound.
    ``standard`` is UnlearnDiffAtk as published and continuous prefixes, which no paper sets a budget for. ``full`` adds
    P4D-N, Ring-A-Bell and Concept Inversion as published. Each comes with random prefixes, as many for each prompt as
    UnlearnDiffAtk proposes. Adversarial tokens are 5 for contents such as nudity, else 3, as in UnlearnDiffAtk.

    Args:
        name: Of the suite; ``none`` has no attacks.
        concept: What is attacked; Ring-A-Bell needs its captions.
        words: Its words in prompts; by default its name and synonyms.
        batch: Prompts attacked at once.
        precision: Of the UNet; the papers' is fp32.

    Raises:
        ValueError: If ``full`` is asked for a concept without captions, or one names it by none of its words.
    """
    if name == "none":
        return {}
    tokens = 5 if concept.kind == "content" else 3
    discrete = UnlearnDiffAtk(tokens=tokens, batch=batch, precision=precision)
    if name == "quick":
        discrete = replace(discrete, timesteps=5, iterations=10)
    suite: dict[str, PromptAttack] = {"discrete": discrete}
    if name != "quick":
        suite["continuous"] = ContinuousPrefix(tokens=tokens, batch=batch, precision=precision)
    if name == "full":
        suite["p4d"] = P4D(batch=batch, precision=precision)
        suite["ring_a_bell"] = _ring_a_bell(concept, words)
        suite["concept_inversion"] = ConceptInversion(tuple(words) or concept.words(), precision=precision)
    return {**suite, "random": RandomPrefix(tokens=tokens, candidates=discrete.timesteps)}


def _ring_a_bell(concept: Concept, words: Sequence[str]) -> RingABell:
    if not concept.prompts:
        raise ValueError(
            f"expected captions that contain {concept.name!r} for Ring-A-Bell, found none: give the concept prompts, "
            "or choose the suite 'standard'"
        )
    named = replace(concept, synonyms=tuple(dict.fromkeys((*concept.synonyms, *words))))
    return RingABell.for_concept(named)
