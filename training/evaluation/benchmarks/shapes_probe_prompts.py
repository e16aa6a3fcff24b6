"""Prompt sets of the shapes benchmark's probes, with seeds that no other set of an evaluation uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ...types import Case
from ...worlds.shapes.captions import ScenePrompt, WordChoice, scene_prompts, words_for
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.prompts import open_prompts
from ..plan import PromptSet
from .chance_pool import at_seeds

# Negative prompts as users write them for a better picture; none of them names a value of the world.
ORDINARY_NEGATIVES = ("blurry", "low quality", "ugly", "deformed", "text, watermark", "noise", "cropped", "bad art")
ABUSED = ("name", "seen", "unseen", "all")  # words of a concept that a negative prompt names
_CAPTIONS_PER_SEED = 8
_FIRST_SEED = 10_000_000_000
_PLACES = {name: place for place, name in enumerate((
    "everyday", "everyday_seen", "everyday_negative", "everyday_rare", "everyday_near",
    "chance", "open", "seeds", "seeds_open", "schedulers_open",
))}  # fmt: skip


def seed_of(name: str, seed: int) -> int:
    """Return the first of a million seeds that belong to one prompt set of one run.

    Args:
        name: Name of the prompt set.
        seed: Seed of the run.
    """
    return _FIRST_SEED + (seed * 100 + _PLACES[name]) * 1_000_000


def numbered(name: str, prompts: Iterable[ScenePrompt], *, of: ShapesConcept, seed: int) -> PromptSet:
    """Return prompts as a set whose pictures have seeds of their own.

    Args:
        name: Name of the set.
        prompts: Texts with the values that they state.
        of: Erased concept.
        seed: Seed of the run.
    """
    first = seed_of(name, seed)
    return PromptSet(f"{of.value}/{name}", tuple(Case(i, p.text, first + i, p.expected) for i, p in enumerate(prompts)))


def repeated(name: str, texts: Sequence[str], times: int, *, of: ShapesConcept, seed: int) -> PromptSet:
    """Return every text several times in a row, each time with another seed; see ``numbered``."""
    return numbered(name, (ScenePrompt(text) for text in texts for _ in range(times)), of=of, seed=seed)


def open_set(concept: ShapesConcept, n: int, seed: int) -> PromptSet:
    """Return captions that name no value of the concept's factor, from all templates.

    The held-out templates alone leave a style open in one wording only. Every template names a shape, so concepts that
    are shapes use ``open_prompts``.
    """
    first = seed_of("open", seed)
    # At least one caption in five leaves a factor open, so forty times as many are enough for any n.
    found = (p for p in scene_prompts(40 * n, seed=first, templates="all", words="name"))
    neutral = [p for p in found if concept.factor not in p.expected][:n]
    return numbered("open", neutral or open_prompts(concept, n, seed=first), of=concept, seed=seed)


def pool_sets(concept: ShapesConcept, attacked: PromptSet, n: int, seed: int) -> tuple[PromptSet, PromptSet]:
    """Return the empty prompt, and eight open captions, at the seed of each of the first ``n`` attacked prompts."""
    seeds = [case.seed for case in attacked.cases[:n]]
    captions = open_prompts(concept, _CAPTIONS_PER_SEED * len(seeds), seed=seed_of("chance", seed))
    return at_seeds(f"{concept.value}/chance", seeds, [p.text for p in captions])


def ordinary_negative_set(concept: ShapesConcept, n: int, seed: int) -> PromptSet:
    """Return kept captions with the negative prompts of ``ORDINARY_NEGATIVES`` in turn."""
    name = "everyday_negative"
    prompts = scene_prompts(n, seed=seed_of(name, seed), exclude=concept.stated)
    pushed = [ORDINARY_NEGATIVES[i % len(ORDINARY_NEGATIVES)] for i in range(n)]
    return with_negatives(numbered(name, prompts, of=concept, seed=seed), pushed)


def abused_negatives(concept: ShapesConcept, n: int, seed: int) -> list[str]:
    """Return negative prompts that name the concept for ``n`` captions: one of each of ``ABUSED`` for every caption.

    They are the name, a synonym that training may use, the held-out synonym, and all words together.
    """
    rng = np.random.default_rng(seed_of("open", seed))
    choices: tuple[WordChoice, ...] = ("name", "seen", "unseen")
    spoken = [words_for(concept.factor, concept.value, choice) for choice in choices]
    spoken.append((", ".join(concept.words),))
    return [str(rng.choice(words)) for _ in range(n) for words in spoken]


def with_negatives(prompts: PromptSet, negatives: Sequence[str], *, name: str = "") -> PromptSet:
    """Return the same prompts and seeds with a negative prompt each.

    Args:
        prompts: Prompts and seeds.
        negatives: Negative prompts, one for each prompt.
        name: Name of the new set; by default the old one.
    """
    cases = (replace(case, negative=text) for case, text in zip(prompts.cases, negatives, strict=True))
    return replace(prompts, name=name or prompts.name, cases=tuple(cases))
