"""Records that the modules of the training package exchange.

A letter in a shape has the same meaning everywhere: B batch, C latent channels, h and w latent height and width, H and
W picture height and width, L token positions, D width of the text encoder, K adversarial tokens.

The base is the pipeline before the erasure. A threat tier, ``T0`` to ``T7``, states what an attacker can access; see
``evaluation.threat_model.TIERS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

Form = Literal["weights", "adapter", "projection", "delta", "eraser"]
Component = Literal["text_encoder", "text_encoder_2", "unet"]
CandidateKind = Literal["text", "token_embeddings", "conditioning", "latent", "image", "clean_latent"]
AttackUse = Literal["unet", "base", "queries", "drafts"]


@dataclass(frozen=True)
class Edit:
    """The result of an erasure: the changed tensors of one pipeline component.

    Args:
        form: Artifact form in which the tensors are stored.
        component: Pipeline component that the tensors belong to, for example ``text_encoder``.
        tensors: Tensors by name; the form ``weights`` uses the ``text_model.*`` names, ``projection`` its own names.
        config: Configuration of the component, as its ``to_dict()`` returns it.
        log: Numbers recorded during the erasure for the artifact's recipe: losses, UNet calls, seconds.
    """

    form: Form
    component: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    log: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One prompt under attack or test; ``seed`` fixes everything random about it.

    Args:
        index: Position of the case in its prompt set.
        prompt: Text of the prompt.
        seed: Seed of the picture's initial latent.
        expected: Value that a faithful picture shows for each attribute, for example ``{"colour": "red"}``.
        reference_latent: Clean latent (C, h, w) of the picture that the base draws for ``wanted``; None if no attack
            needs it.
        goal: Prompt for the picture that an attack tries to obtain; empty if ``prompt`` itself describes it.
        negative: Negative prompt of the unattacked picture; empty for none. Attacks do not use it.
        groups: Sub-groups of the concept's prompts that the case belongs to, by label, for example ``{"style":
            "line art"}``. Rates can be compared between them; attacks and detectors do not use them.
    """

    index: int
    prompt: str
    seed: int
    expected: Mapping[str, str] = field(default_factory=dict)
    reference_latent: Tensor | None = None
    goal: str = ""
    negative: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def wanted(self) -> str:
        """Prompt for the picture that an attack tries to obtain."""
        return self.goal or self.prompt


@dataclass(frozen=True)
class Candidate:
    """One adversarial input that an attack proposes.

    The shape and meaning of ``value`` depend on ``kind``:

    - ``text``: a prompt;
    - ``token_embeddings``: token embeddings (L, D);
    - ``conditioning``: conditioning (L, D), or (2, L, D) with the conditioning of the empty prompt first;
    - ``latent``: initial latent (C, h, w), used instead of the noise that the seed gives;
    - ``image``: clean latent (C, h, w) of the input picture for image-to-image;
    - ``clean_latent``: clean latent (C, h, w) of a picture that the attack itself has finished; it is only decoded.

    Args:
        kind: Kind of the input, see above.
        value: The text or tensor.
        step: Number of attack iterations spent when the candidate was found.
        strength: Strength of image-to-image in (0, 1]; 1 keeps nothing of the input picture.
        norm: Largest norm of its free embeddings, in multiples of the vocabulary's largest norm; None if it has none.
    """

    kind: CandidateKind
    value: str | Tensor
    step: int
    strength: float = 1.0
    norm: float | None = None


@dataclass(frozen=True)
class AttackResult:
    """The candidates of an attack on one case, and their cost.

    Args:
        candidates: Candidates in the order found; a detector decides afterwards which of them succeed.
        queries: Number of pictures that the attack requested from the model.
        unet_calls: Number of UNet forward passes on one latent, those of drafts included, those of queries not. A
            backward pass to activations counts as one more.
    """

    candidates: tuple[Candidate, ...]
    queries: int
    unet_calls: int


@dataclass(frozen=True)
class AttackFacts:
    """Facts about an attack other than its name and tier; each is a class variable of the attack's class.

    If a class leaves a fact out, the default of this record applies. A fact that depends on the settings, such as
    ``joint`` or ``whole_prompt``, may be a property instead.

    Args:
        joint: True if every result depends on all cases together. Otherwise the evaluation does not attack cases that
            succeed without an attack.
        deterministic: True if nothing is random. Another seed then gives the same result, so the attack runs only once.
        searches: True if a low success rate may come from a weak search. False for the plain prompt and for random
            controls.
        uses: Parts that the attack needs in addition to the text encoder under attack: ``unet``, the ``base``,
            ``queries`` or ``drafts``. Only attacks that name ``queries`` receive scores of finished pictures; their
            tier is T2 or T3. Attacks that name ``drafts`` receive scores of pictures of few steps. An attack that only
            chooses by them which of its texts are drawn whole keeps its tier: whoever tries all texts needs no scores.
        budget_fields: Fields that the cost is proportional to. A check of the budget halves the first one above 1.
        iteration_fields: Fields whose product is the number of iterations, as ``Candidate.step`` counts them.
        whole_prompt: True if it may replace the whole prompt. An attack that keeps the prompt has less freedom, so the
            checks do not compare them.
    """

    joint: bool = False
    deterministic: bool = False
    searches: bool = True
    uses: tuple[AttackUse, ...] = ("unet",)
    budget_fields: tuple[str, ...] = ()
    iteration_fields: tuple[str, ...] = ()
    whole_prompt: bool = False

    @classmethod
    def of(cls, attack: object) -> AttackFacts:
        """Return the facts of an attack or of an attack's class."""
        found: dict[str, Any] = {fact.name: getattr(attack, fact.name, fact.default) for fact in fields(cls)}
        # A property has no value on the class, so the default applies.
        return cls(**{name: value for name, value in found.items() if not isinstance(value, property)})


@dataclass(frozen=True)
class Result:
    """One measured or reported number, with all that is needed to measure it again.

    Args:
        metric: Name of the metric, for example ``asr_any``.
        value: Value of the metric; in [0, 1] for rates.
        n: Number of cases behind the value.
        interval: 95 % interval, or None if the metric has none.
        detector: Name of the detector that judged the pictures; empty if no detector was used.
        detector_version: Version of the detector.
        threshold: Threshold of the detector; None if no detector was used.
        seeds: Seeds of the run.
        prompt_set: Name of the prompt set.
        prompt_sha256: Hash of the prompts and seeds of the prompt set.
        settings: Settings of attack and sampling.
        versions: Library versions.
        unet_calls: Total number of UNet forward passes on one latent.
        origin: ``measured`` by this package, or only ``reported`` by others.
        tier: Threat tier, ``T0`` to ``T7``, of a success rate; ``T0-T3`` for a worst case over these tiers; empty for
            other metrics.
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
class JudgedPicture:
    """One picture that a detector was asked about, with its scores and the place where it is kept.

    Args:
        place: Place of the candidate among those of the attack, counted from 0; for a query its number in the case.
        step: Number of attack iterations spent when the candidate was found.
        kind: Kind of the input, see ``Candidate``.
        text: Text of the picture; empty if the input is no text.
        ids: Token ids of the text, without padding, as the tokenizer of the attacked pipeline gives them.
        seed: Seed of the picture.
        margins: Name of each single detector to its margin, the score minus the threshold; it finds the concept at 0 or
            above.
        hit: True if all of them find the concept.
        picture: Archive and file of the picture, ``ARCHIVE/FILE.png``; see ``evaluation.judged_pictures``.
        sha256: First 16 digits of the hash of the picture's pixels.
        queried: True if the attack itself asked for the picture during its search.
        norm: Largest norm of the input vectors, if the input is token embeddings; None for other inputs.
    """

    place: int
    step: int
    kind: CandidateKind
    text: str
    ids: tuple[int, ...]
    seed: int
    margins: Mapping[str, float]
    hit: bool
    picture: str = ""
    sha256: str = ""
    queried: bool = False
    norm: float | None = None

    @property
    def margin(self) -> float:
        """The smallest margin of all single detectors."""
        return min(self.margins.values())

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> JudgedPicture:
        """Return the picture of a record that ``dataclasses.asdict`` and JSON made."""
        return cls(**{**record, "ids": tuple(record["ids"])})


@dataclass(frozen=True)
class Verdict:
    """The outcome of one case under one attack.

    Success means that the detector finds the concept in the picture. Records of suite version 1 end with ``text``; the
    further fields then have their defaults.

    Args:
        index: Index of the case.
        prompt: Prompt of the case, without the attack.
        seed: Seed of the picture.
        before: True if the prompt succeeds without an attack.
        any: True if the prompt or any candidate succeeds.
        last: True if the prompt or the last candidate succeeds.
        step: Number of attack iterations at the first candidate that succeeds; 0 if the prompt succeeds without an
            attack, None if nothing succeeds.
        text: Text of the first candidate that succeeds, or of the last candidate if none does; empty if it is no text.
        pictures: Pictures that the detector was asked about: those of queries, then one for each judged candidate.
            Candidates of the same text share one picture.
        unattacked: Picture of the prompt without the attack; None if it was not recorded.
        candidates: Number of candidates that the attack proposed; None if it was not recorded.
        tries: Number of different pictures that were judged for this case, without the unattacked one; None if it was
            not recorded.
        unet_calls: Number of UNet forward passes on one latent for search and pictures of this case; None if it was not
            recorded.
        best: Place in ``pictures`` of the first candidate that succeeds, or of the one with the highest margin; None if
            no candidate was judged.
        drafts: Number of different drafts that the attack requested at this case; None if it was not recorded. Drafts
            are no judged pictures and are not kept.
    """

    index: int
    prompt: str
    seed: int
    before: bool
    any: bool
    last: bool
    step: int | None
    text: str = ""
    pictures: tuple[JudgedPicture, ...] = ()
    unattacked: JudgedPicture | None = None
    candidates: int | None = None
    tries: int | None = None
    unet_calls: int | None = None
    best: int | None = None
    drafts: int | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Verdict:
        """Return the verdict of a record that ``dataclasses.asdict`` and JSON made, of any suite version."""
        pictures = tuple(map(JudgedPicture.from_record, record.get("pictures", ())))
        plain = record.get("unattacked")
        unattacked = None if plain is None else JudgedPicture.from_record(plain)
        return cls(**{**record, "pictures": pictures, "unattacked": unattacked})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the single detectors that judged; empty if they were not recorded."""
        return () if self.unattacked is None else tuple(self.unattacked.margins)

    def found_by(self, name: str) -> bool:
        """Return True if one single detector finds the concept in any judged picture, the unattacked one included."""
        seen = [*self.pictures, *([] if self.unattacked is None else [self.unattacked])]
        return any(picture.margins[name] >= 0 for picture in seen)


# Function from texts and their cases to margins (B,). A margin is the detector's score of the finished picture minus
# the detector's threshold; at 0 or above, the detector finds the concept.
Query = Callable[[Sequence[str], Sequence[Case]], Tensor]


@dataclass(frozen=True)
class DraftScores:
    """Scores of drafts, pictures of few denoising steps with the text and seed of a whole picture.

    Args:
        margins: Margins (B,), see ``Query``.
        unet_calls: Number of UNet forward passes on one latent for each text; 0 for a text that the pipeline reads as
            an earlier one of the same seed, so that both share a draft.
    """

    margins: Tensor
    unet_calls: tuple[int, ...]


# Function from texts, their cases and a number of denoising steps to the scores of drafts.
Draft = Callable[[Sequence[str], Sequence[Case], int], DraftScores]
