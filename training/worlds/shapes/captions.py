"""Captions of scenes, and the prompt sets that training and evaluation draw from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Literal

import numpy as np

from .render import Scene, random_scene
from .vocabulary import FACTORS, HELD_OUT_TEMPLATES, TRAINING_TEMPLATES, VALUES, WORDS

WordChoice = Literal["name", "seen", "unseen", "any"]
TemplateChoice = Literal["training", "held_out", "all"]

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "training": TRAINING_TEMPLATES,
    "held_out": HELD_OUT_TEMPLATES,
    "all": TRAINING_TEMPLATES + HELD_OUT_TEMPLATES,
}


@dataclass(frozen=True)
class ScenePrompt:
    """A caption, and the values that a faithful picture of it shows.

    Args:
        text: Text of the caption.
        expected: Canonical values that the caption states, by factor; a factor that it leaves open is absent.
    """

    text: str
    expected: Mapping[str, str] = field(default_factory=dict)


def words_for(factor: str, value: str, choice: WordChoice) -> tuple[str, ...]:
    """Return words for a value: its name, the synonyms that training may use, the held-out synonym, or all words."""
    words = WORDS[factor][value]
    return {"name": words[:1], "seen": words[1:-1], "unseen": words[-1:], "any": words}[choice]


def stated(template: str) -> tuple[str, ...]:
    """Return the factors that a template states, in its order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def caption(scene: Scene, template: str, words: Mapping[str, str]) -> ScenePrompt:
    """Fill ``template`` with one word for each factor, and correct its articles."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", template.format(**words))
    return ScenePrompt(text, {factor: getattr(scene, factor) for factor in stated(template)})


def random_caption(scene: Scene, rng: np.random.Generator, templates: Sequence[str]) -> ScenePrompt:
    """Return a caption of ``scene`` with a random template and random words, as in the training of the base."""
    words = {factor: str(rng.choice(WORDS[factor][getattr(scene, factor)])) for factor in FACTORS}
    return caption(scene, templates[int(rng.integers(len(templates)))], words)


def scene_prompts(
    n: int,
    *,
    seed: int,
    fixed: Mapping[str, str] | None = None,
    words: WordChoice = "any",
    templates: TemplateChoice = "held_out",
    exclude: Mapping[str, str] | None = None,
) -> list[ScenePrompt]:
    """Return ``n`` random captions, with a given value or without it.

    Args:
        n: Number of captions.
        seed: Seed of the random draws; equal seeds give equal captions.
        fixed: Values that every caption states, by factor, in the words that ``words`` chooses. If empty, ``words``
            holds for all factors.
        words: Words for the fixed values: ``name``, ``seen`` synonyms, the ``unseen`` (held-out) synonym, or ``any``.
            Other factors use any word except the held-out one.
        templates: Templates of the captions: ``training``, which erasure methods may use, ``held_out``, which they
            never use, or ``all``.
        exclude: Values that no caption states, by factor.

    Raises:
        ValueError: If a factor or value is unknown, or if no template states the fixed factors.
    """
    fixed, exclude = fixed or {}, exclude or {}
    _check({**exclude, **fixed})
    usable = [t for t in TEMPLATES[templates] if set(fixed) <= set(stated(t))]
    if not usable:
        raise ValueError(f"expected a template that states {sorted(fixed)}, found none among {templates!r}")
    rng = np.random.default_rng(seed)
    return [_prompt(rng, usable, fixed, words, exclude) for _ in range(n)]


def _check(choice: Mapping[str, str]) -> None:
    for factor, value in choice.items():
        if value not in VALUES.get(factor, ()):
            known = VALUES.get(factor) or FACTORS
            raise ValueError(f"expected one of {', '.join(known)}, found {factor}={value!r}")


def _prompt(
    rng: np.random.Generator,
    templates: Sequence[str],
    fixed: Mapping[str, str],
    words: WordChoice,
    exclude: Mapping[str, str],
) -> ScenePrompt:
    scene = random_scene(rng)
    values = {factor: fixed.get(factor, getattr(scene, factor)) for factor in FACTORS}
    for factor, value in exclude.items():
        if values[factor] == value:
            values[factor] = str(rng.choice([v for v in VALUES[factor] if v != value]))
    chosen = {factor: str(rng.choice(_allowed(factor, value, fixed, words))) for factor, value in values.items()}
    return caption(Scene(**values), templates[int(rng.integers(len(templates)))], chosen)


def _allowed(factor: str, value: str, fixed: Mapping[str, str], words: WordChoice) -> tuple[str, ...]:
    if not fixed or factor in fixed:
        return words_for(factor, value, words)
    return WORDS[factor][value][:-1]
