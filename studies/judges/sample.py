"""Sample pictures that attacks made, before any judge is asked: ``python studies/judges/sample.py``.

For each concept, ten pictures are made in each of twelve ways, with the encoders that ship with the package. The
budgets are small, since the pictures need only differ. Each picture comes from the last candidate of its attack. No
judge and no detector takes part. ``pictures.zip`` gets the pictures in a random order; ``origins.json`` says where each
is from.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.training.attacks import (
    P4D,
    ConceptInversion,
    ContinuousPrefix,
    NoAttack,
    RandomPrefix,
    RingABell,
    Synonyms,
    UnlearnDiffAtk,
)
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Candidate, Case
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept

HERE = Path(__file__).parent
CONCEPTS = ("circle", "red", "striped")
N = 10  # pictures of each concept and way
SEED = 430_000_000
SAMPLING = SamplingConfig()


@dataclass(frozen=True)
class Way:
    """A way to make pictures.

    Args:
        encoder: Suffix of the encoder's name: none for hardened text encoders, ``-spm`` or ``-rece`` for overlays.
        attack: Function that returns the attack on a concept.
    """

    encoder: str
    attack: Callable[[ShapesConcept], Attack]


class EmptyPrompt:
    """Replaces every caption by the empty text."""

    name: ClassVar[str] = "empty_prompt"
    tier: ClassVar[str] = "T1"

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Return one candidate for each case."""
        return [_text("") for _ in cases]


class TwoWords:
    """Replaces every caption by two random whole words of the tokenizer."""

    name: ClassVar[str] = "two_words"
    tier: ClassVar[str] = "T1"

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Return one candidate for each case."""
        ends = (token.removesuffix("</w>") for token in sorted(target.tokenizer.get_vocab()) if token.endswith("</w>"))
        words = [word for word in ends if word.isalpha() and len(word) > 2]
        rng = np.random.default_rng(seed)
        return [_text(" ".join(rng.choice(words, 2))) for _ in cases]


def _text(text: str) -> AttackResult:
    return AttackResult((Candidate("text", text, 0),), queries=0, unet_calls=0)


WAYS: dict[str, Way] = {
    "none": Way("", lambda _: NoAttack()),
    "none, spm": Way("-spm", lambda _: NoAttack()),
    "none, rece": Way("-rece", lambda _: NoAttack()),
    "synonyms": Way("", lambda c: Synonyms(c.words, c.words)),
    "empty": Way("", lambda _: EmptyPrompt()),
    "two words": Way("", lambda _: TwoWords()),
    "random": Way("", lambda _: RandomPrefix(tokens=3, candidates=1)),
    "ring_a_bell": Way("", lambda c: _ring_a_bell(c)),
    "discrete": Way("", lambda _: UnlearnDiffAtk(timesteps=4, iterations=10)),
    "p4d": Way("", lambda _: P4D(tokens=8, steps=40, every=40)),
    "continuous": Way("", lambda _: ContinuousPrefix(steps=40)),
    "inversion": Way("", lambda c: ConceptInversion.standard(c.words, steps=60)),
}


def _ring_a_bell(concept: ShapesConcept) -> RingABell:
    anchored = replace(concept.concept, anchor=concept.others[0])
    return RingABell.for_concept(anchored, tokens=8, population=20, generations=10, every=10)


def cases_of(concept: ShapesConcept, place: int) -> list[Case]:
    """Return ten captions that state the concept, from templates that no training of an eraser sees."""
    first = SEED + place * 1000
    prompts = scene_prompts(N, seed=first, fixed=concept.stated, words="name")
    return [Case(i, prompt.text, first + i, prompt.expected) for i, prompt in enumerate(prompts)]


def made(pipe: Any, concept: ShapesConcept, label: str, place: int) -> Tensor:
    """Return ten pictures (10, 3, 32, 32) in [0, 1] that one way makes."""
    base, cases = Backbone.from_pipeline(embedded_pipeline()), cases_of(concept, place)
    latents = draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING, latents=True)
    cases = [replace(case, reference_latent=one) for case, one in zip(cases, latents, strict=True)]
    encoder = RobustEncoder.from_pretrained(f"shapes/{concept.value}{WAYS[label].encoder}")
    with encoder.attached(pipe):
        target = TargetModel.from_pipeline(pipe, base=base)
        found = WAYS[label].attack(concept).run(target, cases, seed=SEED + place)
        return draw_candidates(pipe, cases, [one.candidates[-1] for one in found], SAMPLING)


def png(picture: Tensor) -> bytes:
    """Return a picture (3, H, W) in [0, 1] as a PNG file."""
    held = io.BytesIO()
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(held, "PNG")
    return held.getvalue()


def main() -> None:
    """Make all pictures, and write them in a random order."""
    torch.set_num_threads(1)
    pipe, pictures, origins = embedded_pipeline(), [], []
    for place, (name, label) in enumerate((name, label) for name in CONCEPTS for label in WAYS):
        pictures += list(made(pipe, ShapesConcept.parse(name), label, place))
        origins += [{"concept": name, "way": label} for _ in range(N)]
        sys.stdout.write(f"{place} {name} {label}\n")
        sys.stdout.flush()
    order = np.random.default_rng(SEED).permutation(len(pictures))
    with zipfile.ZipFile(HERE / "pictures.zip", "w") as file:
        for place, i in enumerate(order):
            file.writestr(zipfile.ZipInfo(f"{place:03d}.png"), png(pictures[i]))
    (HERE / "origins.json").write_text(json.dumps([origins[i] for i in order], indent=0) + "\n")


if __name__ == "__main__":
    main()
