"""The way of the data, the places where attacks enter, and the threat tiers, from the names in the code."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from robust_encoders import RobustEncoder
from robust_encoders.training import Backbone, Edit, InnerAttack, Recipe, evaluate
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.threat_model import LIMITS, TEXT_TIERS, TIERS
from robust_encoders.training.trajectories.bank import TrajectoryBank
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept

from . import svg


@dataclass(frozen=True)
class Step:
    """One box of a way.

    Args:
        what: Class or function of the package; its name is the box's title.
        does: Line below the title.
    """

    what: Any
    does: str

    @property
    def title(self) -> str:
        """Name of the class or function, as users write it."""
        name: str = self.what.__qualname__
        return name.replace("LoadedArtifact", "RobustEncoder")


# Colour of a part of the way, its title, its steps.
_WAY = (
    (
        *("c0", "Train"),
        (
            Step(Recipe, "a concept, a method and all its settings"),
            Step(Backbone, "the frozen base: tokenizer, text encoder, UNet"),
            Step(TrajectoryBank, "latents and predictions of the base, drawn once"),
            Step(InnerAttack, "brings the concept back; the loss then unlearns it"),
            Step(Edit, "what has changed, and nothing else"),
        ),
    ),
    (
        *("c2", "Publish"),
        (
            Step(RobustEncoder.save_pretrained, "safetensors, a manifest with hashes, a model card"),
            Step(RobustEncoder.push_to_hub, "the Hub; the catalog gives a short name"),
        ),
    ),
    (
        *("c1", "Use"),
        (
            Step(RobustEncoder.from_pretrained, "every byte is checked against the manifest"),
            Step(RobustEncoder.check, "does it fit? Every reason why not, at once"),
            Step(RobustEncoder.attach, "your pipeline, with one part exchanged"),
        ),
    ),
    ("c3", "Judge", (Step(evaluate, "attacks of all tiers; detectors look at the pictures"),)),
)
_BOX, _GAP, _MARGIN = 46, 16, 10


def way() -> bytes:
    """Return the way from a recipe to a protected pipeline and its numbers."""
    parts: list[str] = []
    y = float(_MARGIN)
    for colour, title, steps in _WAY:
        parts.append(svg.text(_MARGIN, y + 14, title, bold=True, colour=colour))
        y += 24
        for step in steps:
            parts += [
                svg.box(_MARGIN, y, svg.WIDTH - 2 * _MARGIN, _BOX, colour=colour),
                svg.text(_MARGIN + 12, y + 19, step.title, bold=True),
                svg.text(_MARGIN + 12, y + 36, step.does),
                svg.arrow(svg.WIDTH / 2, y + _BOX + 1, y + _BOX + _GAP - 1),
            ]
            y += _BOX + _GAP
    parts += svg.paragraph(
        _MARGIN, y + 12, ["results.json and report.html; the numbers go into the", "manifest and onto the card."]
    )
    return svg.picture("The way of the data from a recipe to a judged encoder", parts, y + 12 + svg.LINE + _MARGIN)


# Part of a pipeline, and what enters before it: tiers, and how.
_PARTS = (
    ("prompt", ("T0", "T1", "T2", "T3"), "any text"),
    ("token embeddings", ("T4", "T7"), "free embeddings; learned tokens"),
    ("text encoder", (), "what this package hardens"),
    ("conditioning", ("T7",), "prompt_embeds from elsewhere"),
    ("UNet and schedule", ("T5", "T6", "T7"), "picture, latents, weights"),
    ("picture", (), "what the detectors judge"),
)


def entrances() -> bytes:
    """Return the parts of a pipeline with the tiers of the attacks that enter at each."""
    parts: list[str] = []
    left, y = 150.0, float(_MARGIN)
    for name, tiers, how in _PARTS:
        hardened = name == "text encoder"
        parts.append(svg.box(_MARGIN, y, left, _BOX, colour="c0" if hardened else "ink", strength=0.2 * hardened))
        parts.append(svg.text(_MARGIN + left / 2, y + 27, name, bold=hardened, anchor="middle"))
        x = _MARGIN + left + 16
        for place, tier in enumerate(tiers):
            parts += _badge(x + 44 * place, y + 1, tier)
        if tiers:
            tip = _MARGIN + left + 3
            parts.append(f'<path d="M{x - 2:g} {y + 12:g}H{tip:g}m6-4l-6 4l6 4" fill="none" stroke="var(--ink)"/>')
        parts.append(svg.text(x, y + (42 if tiers else 27), how))
        if name != _PARTS[-1][0]:
            parts.append(svg.arrow(_MARGIN + left / 2, y + _BOX + 1, y + _BOX + _GAP - 1))
        y += _BOX + _GAP
    legend = (
        *(("c0", "a text encoder can defend"), ("c1", "it can defend in part")),
        ("ink", "it cannot: the attack goes around it"),
    )
    for colour, words in legend:
        parts.append(f'<rect x="{_MARGIN}" y="{y:g}" width="12" height="12" rx="3" fill="var(--{colour})"/>')
        parts.append(svg.text(_MARGIN + 18, y + 11, words))
        y += svg.LINE
    return svg.picture("Where attacks enter a pipeline, by threat tier", parts, y + _MARGIN)


def _badge(x: float, y: float, tier: str) -> list[str]:
    colour = colour_of(tier)
    return [
        f'<rect x="{x:g}" y="{y:g}" width="38" height="22" rx="11" fill="var(--{colour})"/>',
        svg.text(x + 19, y + 16, tier, bold=True, colour="paper", anchor="middle"),
    ]


def colour_of(tier: str) -> str:
    """Return the colour of a tier: can a text encoder defend, in part, or not at all?"""
    return "c0" if tier in TEXT_TIERS else "ink" if tier in LIMITS else "c1"


def tiers() -> bytes:
    """Return the ladder of tiers: what the attacker has, and the attacks of the suite ``standard``."""
    attacks = defaultdict(list)
    for label, attack in shapes_suite("standard", ShapesConcept.parse("circle")).items():
        attacks[attack.tier].append(label)
    parts: list[str] = []
    y, x = float(_MARGIN), 60.0
    for tier, words in TIERS.items():
        title = svg.wrapped(words, 0.92 * (svg.WIDTH - x - 2 * _MARGIN))  # bold letters are wider
        labels = svg.wrapped(", ".join(attacks[tier]), svg.WIDTH - x - 2 * _MARGIN)
        height = 14 + svg.LINE * (len(title) + len(labels))
        colour = colour_of(tier)
        parts.append(svg.box(_MARGIN, y, svg.WIDTH - 2 * _MARGIN, height, colour=colour, strength=0.1))
        parts += _badge(_MARGIN + 6, y + 7, tier)
        parts += svg.paragraph(x, y + 21, title, bold=True)
        parts += svg.paragraph(x, y + 21 + svg.LINE * len(title), labels)
        y += height + 8
    return svg.picture("The threat tiers T0 to T7 and their attacks", parts, y - 8 + _MARGIN)
