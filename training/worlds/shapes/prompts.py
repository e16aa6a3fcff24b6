"""Prompts that measure which abilities an encoder keeps on shapes.

There are captions with one to three attributes, captions of the concept's neighbours, and captions that leave a factor
open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .captions import TEMPLATES, ScenePrompt, caption, scene_prompts, stated, words_for
from .clip_score import ClipScorer, load_clip_scorer
from .concepts import ShapesConcept, factor_of
from .render import random_scene
from .vocabulary import FACTORS, VALUES, WORDS

SHAPELESS_TEMPLATES = (
    "a {style} {colour} on a {background} background",
    "a {colour} picture on {background}",
    "a {style} picture on a {background} background",
)


def binding_prompts(n: int, *, attributes: int, seed: int, exclude: Mapping[str, str]) -> list[ScenePrompt]:
    """Return ``n`` captions of a shape with a given number of attributes among colour, style and background.

    The base was trained on all these templates. Captions with one attribute come only from templates that erasure
    methods may use; the others also come from held-out templates.

    Args:
        n: Number of captions.
        attributes: Number of attributes of every caption: 1, 2 or 3.
        seed: Seed of the random draws; equal seeds give equal captions.
        exclude: Values that no caption states, by factor; the erased concept is given here.

    Raises:
        ValueError: If no template states that many attributes.
    """
    counts = {len(stated(template)) - 1 for template in TEMPLATES["all"]} - {0}
    if attributes not in counts:
        raise ValueError(f"expected a number of attributes among {sorted(counts)}, found {attributes}")
    # At least one caption in five fits, so forty times as many are enough for any n.
    found = (p for p in scene_prompts(40 * n, seed=seed, templates="all", words="name", exclude=exclude))
    return [prompt for prompt in found if len(prompt.expected) == attributes + 1][:n]


@dataclass(frozen=True)
class Neighbours:
    """The other values of a concept's factor, split into near and far ones.

    Args:
        near: Nearest values, the nearest first.
        far: All other values, the nearest first.
    """

    near: tuple[str, ...]
    far: tuple[str, ...]


def neighbours(concept: ShapesConcept, *, k: int = 2, scorer: ClipScorer | None = None) -> Neighbours:
    """Split the other values of a concept's factor by their cosine to the concept in the base's contrastive space.

    Args:
        concept: Concept whose neighbours are wanted.
        k: Number of values that count as near.
        scorer: Scorer with the text encoder of that space; None takes the packaged one.

    Raises:
        ValueError: If there are too few other values.
    """
    factor, value, others = concept.factor, concept.value, concept.others
    if not 0 < k < len(others):
        raise ValueError(f"expected k between 1 and {len(others) - 1}, found {k}")
    vectors = {v: _direction(scorer or load_clip_scorer(), factor, v) for v in VALUES[factor]}
    ranked = sorted(others, key=lambda other: -float(vectors[value] @ vectors[other]))
    return Neighbours(tuple(ranked[:k]), tuple(ranked[k:]))


@torch.no_grad()
def _direction(scorer: ClipScorer, factor: str, value: str) -> Tensor:
    """Return the mean unit vector of short captions with the words for a value that training may use."""
    words = WORDS[factor][value][:-1]
    texts = [f"a {word}" if factor == "shape" else f"a {word} circle" for word in words]
    length = scorer.tokenizer.model_max_length
    tokens = scorer.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    embedded = scorer.tower.embed_pooled(scorer.text_encoder(tokens.input_ids).pooler_output)
    return torch.nn.functional.normalize(embedded.mean(0), dim=0)


def value_prompts(values: Sequence[str], n: int, *, seed: int) -> list[ScenePrompt]:
    """Return ``n`` captions from held-out templates that name the given values of one factor in turn."""
    sets = [
        scene_prompts(-(-n // len(values)), seed=seed + i, fixed=dict([factor_of(value)]), words="name")
        for i, value in enumerate(values)
    ]
    return [prompt for row in zip(*sets, strict=True) for prompt in row][:n]


def open_prompts(concept: ShapesConcept, n: int, *, seed: int) -> list[ScenePrompt]:
    """Return ``n`` captions that leave the concept's factor open, so that some pictures show the concept by chance.

    The templates are held-out ones. Every caption of the world names a shape, so concepts that are shapes use
    ``SHAPELESS_TEMPLATES``.
    """
    factor = concept.factor
    held_out = [t for t in TEMPLATES["held_out"] if factor not in stated(t)]
    templates = SHAPELESS_TEMPLATES if factor == "shape" else held_out
    rng = np.random.default_rng(seed)
    return [_open_prompt(rng, templates) for _ in range(n)]


def _open_prompt(rng: np.random.Generator, templates: Sequence[str]) -> ScenePrompt:
    scene = random_scene(rng)
    words = {factor: words_for(factor, getattr(scene, factor), "name")[0] for factor in FACTORS}
    return caption(scene, templates[int(rng.integers(len(templates)))], words)


def values_in(text: str) -> dict[str, str]:
    """Return the canonical values that a caption of any template states, by factor; empty for any other text.

    Args:
        text: Caption, whose values may be said by any of their words.
    """
    for template in (*TEMPLATES["all"], *SHAPELESS_TEMPLATES):
        if (found := re.fullmatch(_pattern(template), text)) is not None:
            words = found.groupdict()
            return {factor: next(v for v, said in WORDS[factor].items() if words[factor] in said) for factor in words}
    return {}


def _pattern(template: str) -> str:
    """Return a regular expression of all captions of a template."""
    choices = {f: f"(?P<{f}>{'|'.join(w for said in WORDS[f].values() for w in said)})" for f in stated(template)}
    return re.sub(r"\ba (?=\()", "an? ", template.format(**choices))


def goal_prompt(concept: ShapesConcept, prompt: ScenePrompt) -> ScenePrompt:
    """Return a caption with the values of an open prompt that also names the concept.

    Raises:
        ValueError: If the prompt states the concept's factor, or if no template states exactly the prompt's factors and
            the concept's.
    """
    factor, value = concept.factor, concept.value
    if factor in prompt.expected:
        raise ValueError(f"expected a prompt that leaves the {factor} open, found {prompt.text!r}")
    wanted = {*prompt.expected, factor}
    template = next((t for t in TEMPLATES["all"] if {*stated(t)} == wanted), None)
    if template is None:
        raise ValueError(f"expected a template that states {', '.join(sorted(wanted))}, found none")
    values = {**prompt.expected, factor: value}
    words = {f: words_for(f, v, "name")[0] for f, v in values.items()}
    return ScenePrompt(re.sub(r"\ba (?=[aeiou])", "an ", template.format(**words)), values)
