"""Print what the mechanism attack wins with and without its term: compare.py [ENCODER ...]."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robust_encoders import RobustEncoder
from robust_encoders.training.attacks.common.mechanisms import MechanismName
from robust_encoders.training.attacks.mechanism import Mechanism
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.benchmarks.shapes_detectors import shapes_detector
from robust_encoders.training.types import Case
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, ShapesConcept
from robust_encoders.training.worlds.shapes.judge import load_judge

ENCODERS = ("shapes/circle-spm", "shapes/circle-rece", "shapes/circle")
LABELS = ("mechanism", "mechanism_caption")
PROMPTS = slice(5, 13)  # the first ones chose the settings
SEED = 500  # of the first picture
Scores = Callable[[Sequence[str], Sequence[int]], Tensor]  # of the pictures of texts at seeds; 0 and above is a success


def compare(name: str) -> None:
    """Print one row for each placement of the tokens and each loss."""
    concept = ShapesConcept.parse(name.partition("/")[2].partition("-")[0])
    texts = CONCEPTS[concept.concept.name].prompts[PROMPTS]
    cases = [Case(i, text, SEED + i) for i, text in enumerate(texts)]
    judge = shapes_detector("shapes_agreed", concept.concept.name, concept.concept, load_judge())
    pipe = ShapesWorld().pipeline()
    base, suite = Backbone.from_pipeline(pipe), shapes_suite("standard", concept)
    encoder = RobustEncoder.from_pretrained(name)
    term: MechanismName = "gate" if encoder.manifest.form == "adapter" else "margin"
    terms: tuple[MechanismName, ...] = (term, "none")
    with encoder.attached(pipe):
        target = TargetModel.from_pipeline(pipe, base=base, artifact=encoder)
        for label in LABELS:
            for mechanism in terms:
                attack = suite[label]
                assert isinstance(attack, Mechanism)
                found = replace(attack, mechanism=mechanism)
                row = one(found, target, cases, lambda texts, seeds: judge(draw(pipe, texts, seeds, SamplingConfig())))
                sys.stdout.write(f"| {name} | {label} | {mechanism} | {' | '.join(map(str, row))} |\n")


def one(attack: Mechanism, target: TargetModel, cases: Sequence[Case], scores: Scores) -> list[object]:
    """Return cases won, pictures won, pictures, and processor seconds of the search."""
    start = time.process_time()
    results = attack.run(target, cases, seed=0)
    seconds = time.process_time() - start
    won, hits, pictures = 0, 0, 0
    for case, result in zip(cases, results, strict=True):
        texts = [str(candidate.value) for candidate in result.candidates]
        found = scores(texts, [case.seed] * len(texts)) >= 0
        won, hits, pictures = won + bool(found.any()), hits + int(found.sum()), pictures + len(texts)
    return [f"{won} of {len(cases)}", f"{hits} of {pictures}", round(seconds)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for encoder in sys.argv[1:] or ENCODERS:
        compare(encoder)
