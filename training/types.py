"""The records that the rooms of the training package exchange.

Letters in shapes mean one thing everywhere: B batch, C latent channels, h and w latent height and width, H and W
picture height and width, L token positions, D width of the text encoder, K adversarial tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

Form = Literal["weights", "adapter", "projection"]
CandidateKind = Literal["text", "token_embeddings", "conditioning", "latent", "image", "clean_latent"]
AttackUse = Literal["unet", "base", "queries"]


@dataclass(frozen=True)
class Edit:
    """What an eraser made: the changed tensors of one component.

    Args:
        form: The artifact form the tensors are stored in.
        component: The pipeline component they belong to, for example ``text_encoder``.
        tensors: Names to tensors; form ``weights`` uses the ``text_model.*`` names, ``projection`` its own.
        config: The component's configuration, as its ``to_dict()`` gives it.
        log: Numbers recorded on the way, for the artifact's recipe (losses, UNet calls, seconds).
    """

    form: Form
    component: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    log: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One prompt under attack or test; everything random about it follows from ``seed``.

    Args:
        index: Position in its prompt set.
        prompt: The text.
        seed: Seeds the picture's initial latent.
        expected: Attribute to the value that a faithful picture shows, for example ``{"colour": "red"}``.
        reference_latent: Clean latent (C, h, w) of the base's own picture of ``wanted``, for attacks that need one.
        goal: Prompt that says what an attack is after; empty where that is the prompt itself.
    """

    index: int
    prompt: str
    seed: int
    expected: Mapping[str, str] = field(default_factory=dict)
    reference_latent: Tensor | None = None
    goal: str = ""

    @property
    def wanted(self) -> str:
        """The prompt that says what an attack is after."""
        return self.goal or self.prompt


@dataclass(frozen=True)
class Candidate:
    """One adversarial input, in the order found.

    Args:
        kind: What ``value`` is.
        value: The text, or a tensor: token embeddings (L, D), conditioning (L, D), or (2, L, D) with the empty prompt's
            first, latent (C, h, w) that the picture starts from instead of the seed's noise, image (C, h, w), the
            clean latent of an input picture of image-to-image, clean_latent (C, h, w) of a picture that the attack
            itself has finished, which is decoded and no more.
        step: How many attack iterations had been spent when it was found.
        strength: Of image-to-image, in (0, 1]; 1 keeps nothing of the input picture.
    """

    kind: CandidateKind
    value: str | Tensor
    step: int
    strength: float = 1.0


@dataclass(frozen=True)
class AttackResult:
    """What an attack on one case proposes, and what it cost.

    Args:
        candidates: In the order found; a detector decides afterwards which of them succeeded.
        queries: Pictures the attack asked for.
        unet_calls: UNet forwards on one latent; a backward to activations counts as one more.
    """

    candidates: tuple[Candidate, ...]
    queries: int
    unet_calls: int


@dataclass(frozen=True)
class AttackFacts:
    """Facts about an attack beside its name and tier; each stands on the attack's class, as a class variable.

    A fact that a class leaves out has the default of this record. ``joint`` may be a property instead.

    Args:
        joint: A result depends on all cases together. Otherwise cases that succeed unattacked are left out.
        deterministic: Nothing is random, so another seed finds the same; such an attack is not run again.
        searches: A low rate may come from a weak search. False for the plain prompt and for random controls.
        uses: Parts that it needs beside the text encoder under attack: ``unet``, the ``base``, or ``queries``. Scores
            of finished pictures are told only to attacks that name ``queries``; their tier is T2.
        budget_fields: Fields to which the cost is proportional. A check halves the first of them that is above 1.
        iteration_fields: Fields whose product is the number of iterations, as ``Candidate.step`` counts them.
    """

    joint: bool = False
    deterministic: bool = False
    searches: bool = True
    uses: tuple[AttackUse, ...] = ("unet",)
    budget_fields: tuple[str, ...] = ()
    iteration_fields: tuple[str, ...] = ()

    @classmethod
    def of(cls, attack: object) -> AttackFacts:
        """Return the facts of an attack, or of an attack's class."""
        found: dict[str, Any] = {fact.name: getattr(attack, fact.name, fact.default) for fact in fields(cls)}
        # On a class, a property has no value yet.
        return cls(**{name: value for name, value in found.items() if not isinstance(value, property)})


@dataclass(frozen=True)
class Result:
    """One measured or reported number, with all that is needed to measure it again.

    Args:
        metric: For example ``asr_any``.
        value: In [0, 1] for rates.
        n: How many cases it rests on.
        interval: 95 % interval, or None where none is defined.
        detector: Name of what judged; empty where nothing did.
        detector_version: Its version.
        threshold: Its threshold.
        seeds: Seeds of the run.
        prompt_set: Name of the prompt set.
        prompt_sha256: Hash of its prompts and seeds.
        settings: Attack and sampling settings.
        versions: Library versions.
        unet_calls: UNet forwards on one latent, in all.
        origin: Measured by us, or only reported by others.
        tier: Threat tier, ``T0`` to ``T7``, of a rate of success; ``T0-T3`` of a worst case over such; else empty.
    """

    metric: str
    value: float
    n: int
    interval: tuple[float, float] | None = None
    detector: str = ""
    detector_version: str = ""
    threshold: float | None = None
    seeds: tuple[int, ...] = ()
    prompt_set: str = ""
    prompt_sha256: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    unet_calls: int = 0
    origin: Literal["measured", "reported"] = "measured"
    tier: str = ""

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


@dataclass(frozen=True)
class Verdict:
    """What became of one case under one attack.

    Args:
        index: Of the case.
        prompt: Unattacked.
        seed: Of the picture.
        before: The unattacked prompt succeeds.
        any: It, or some candidate, does.
        last: It, or the candidate found last, does.
        step: Attack iterations at the first candidate that succeeds; 0 if none was needed, None if none does.
        text: That candidate if it is a text, or else the last one's text.
    """

    index: int
    prompt: str
    seed: int
    before: bool
    any: bool
    last: bool
    step: int | None
    text: str = ""


# Texts and their cases to margins (B,): the detector's score of the finished picture, less its threshold. At 0 or above
# the concept is found.
Query = Callable[[Sequence[str], Sequence[Case]], Tensor]
