"""Settings of AdvUnlearn and of ESD on a text encoder: the concept's terms, the retain terms, the adversary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..attacks.soft_prompt import SoftPrompt
from ..prompts.layout import Placement, PromptLayout
from ..provenance import LATER
from .outlier_config import OutlierConfig

Space = Literal["noise", "conditioning", "both"]


@dataclass(frozen=True, kw_only=True)
class HardeningConfig:
    """Departures from the paper that harden an encoder beyond its attack, on conditionings; by default there are none.

    Args:
        objective: Where prompts with the concept are attacked and unlearned. ``noise`` is the paper's: predictions of
            the UNet. ``conditioning`` attacks and pulls the conditioning instead, in the metric of the UNet's
            cross-attention: many adversarial prompts per iteration at no UNet call. ``both`` has both terms, each with
            its own prompts and attack.
        weight: Of the conditioning term, in units of the noise loss.
        batch: Prompts per iteration in the conditioning term.
        attack: Its inner attack.
        eta: How far beyond the frozen conditioning c_a of an anchored prompt that of the prompt itself, c, shall end:
            c_a - eta (c - c_a), as the noise term's negative guidance has it for predictions. With 0, the anchored
            prompt itself, nothing between the two is kept clear of the concept. Also holds for the plain term. Only
            where both prompts have as many tokens: elsewhere position by position says nothing, and it is c_a.
        additions_weight: Weight of a term on prompts to which tokens of the retain prompts were added anywhere: what
            a neighbour's word next to the concept's must not bring back.
        additions_batch: Prompts per iteration in that term.
        additions: Tokens added at most.
        vocabulary: Share of the added tokens that is drawn from the whole vocabulary; the others are from the retain
            prompts. What nobody retains may be added as well.
        cut: Share of these prompts from which the concept's words are cut out before, towards the same target: what a
            caption leaves open must not bring the concept back either.
        neighbours_weight: Weight of a term on prompts with a random token of the vocabulary in place of the concept's
            words, and on retain prompts, half of each, to which additions are made as well: they keep the conditioning
            that the base gives them, so that the concept's own words alone make the difference.
        neighbours_batch: Prompts per iteration in that term.
        neighbours_from: What is taken for another meaning: a conditioning that far from the concept's, in units of the
            mean distance over all tokens drawn. Nearer ones may be the concept by another name. Only known where the
            concept's words are one token; elsewhere all tokens are taken.
        candidates: So many times as many prompts are made with additions, of which the farthest from their targets
            are kept, by each process for itself: a search over text at no gradient.
        doubt: Terms on what is no clear caption.
    """

    objective: Space = "noise"
    weight: float = 10.0
    batch: int = 16
    attack: SoftPrompt = field(default_factory=lambda: SoftPrompt(steps=4, rate=5e-2))
    eta: float = 0.0
    additions_weight: float = 0.0
    additions_batch: int = 16
    additions: int = 4
    vocabulary: float = field(default=0.0, metadata=LATER)
    cut: float = field(default=0.0, metadata=LATER)
    neighbours_weight: float = field(default=0.0, metadata=LATER)
    neighbours_batch: int = field(default=32, metadata=LATER)
    neighbours_from: float = field(default=1.0, metadata=LATER)
    candidates: int = 1
    doubt: OutlierConfig = field(default_factory=OutlierConfig, metadata=LATER)

    def __post_init__(self) -> None:
        counts = (self.batch, self.additions_batch, self.additions, self.candidates, self.neighbours_batch)
        if min(counts) < 1:
            raise ValueError(f"expected batches, additions and candidates of at least 1, found {self}")
        if self.weight <= 0 and self.objective != "noise":
            raise ValueError(f"expected a weight above 0 for a term on conditionings, found {self.weight}")
        if not 0 <= self.vocabulary <= 1 or not 0 <= self.cut <= 1:
            raise ValueError(f"expected shares in [0, 1] for vocabulary and cut, found {self.vocabulary}, {self.cut}")
        if max(self.vocabulary, self.cut) > 0 and self.additions_weight <= 0:
            raise ValueError(
                f"expected additions for hardening.vocabulary {self.vocabulary} and hardening.cut {self.cut}, found "
                "none: give additions_weight, or leave both at 0"
            )

    def for_processes(self, n: int) -> HardeningConfig:
        """Return the same with n times the batches, for n processes to share."""
        batches = {name: n * getattr(self, name) for name in ("batch", "additions_batch", "neighbours_batch")}
        return replace(self, doubt=self.doubt.for_processes(n), **batches)

    def batches(self) -> dict[str, int]:
        """Return the terms of its own and how many prompts each takes per iteration, of the neighbours half of them."""
        terms = {"attacked": self.batch} if self.in_conditioning else {}
        terms |= {"additions": self.additions_batch} if self.additions_weight > 0 else {}
        return terms | ({"neighbours": max(self.neighbours_batch // 2, 1)} if self.neighbours_weight > 0 else {})

    @property
    def cuts(self) -> bool:
        """Whether any term of its own cuts the concept's words out of its prompts."""
        return self.cut > 0 or self.neighbours_weight > 0 or self.doubt.strangers_weight > 0

    @property
    def in_noise(self) -> bool:
        """Whether predictions are unlearned."""
        return self.objective != "conditioning"

    @property
    def in_conditioning(self) -> bool:
        """Whether conditionings are attacked and unlearned."""
        return self.objective != "noise" and self.weight > 0

    @property
    def pulls(self) -> bool:
        """Whether there is any term of its own."""
        return bool(self.batches() or self.doubt.batches())

    @property
    def has_targets(self) -> bool:
        """Whether there is a term on the concept's prompts, to whose targets eta matters."""
        return self.in_conditioning or self.additions_weight > 0 or self.doubt.has_targets


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """What the student shall do on prompts with the concept.

    Args:
        batch: Prompts per iteration (paper: 1).
        eta: Negative guidance, how far the target lies on the other side of its base; 0 targets the base itself.
        target: Base of the target. ``negative_guidance`` is the paper's, the empty prompt. ``anchor`` is the same
            prompt with the concept's words replaced by its anchor: a departure, which keeps the rest of a caption.
        plain_weight: Weight of an additional term on plain prompts. A departure: after the warm-up the paper's term
            sees adversarial prompts alone, and plain captions come back.
        plain_space: ``noise`` repeats the main term on plain prompts; ``conditioning`` pulls the student's conditioning
            to the frozen one of the anchored prompt, at no UNet call, from the first iteration on.
        plain_batch: Prompts per iteration in the plain term.
        pull_weight: Weight of a term that pulls the conditionings of the attacked prompts themselves to the frozen ones
            of the anchored prompts, or ``hardening.eta`` beyond. A departure: beside the noise term, which sees one
            timestep of one picture, it says what the whole conditioning shall be, at no UNet call.
        harden: Terms on conditionings against stronger attacks than the paper's.
    """

    batch: int = 1
    eta: float = 1.0
    target: Literal["negative_guidance", "anchor"] = "negative_guidance"
    plain_weight: float = 0.0
    plain_space: Literal["noise", "conditioning"] = "noise"
    plain_batch: int = 8
    pull_weight: float = 0.0
    harden: HardeningConfig = field(default_factory=HardeningConfig, metadata=LATER)

    def __post_init__(self) -> None:
        if self.harden.eta and not (self.harden.has_targets or self.pulls_plain or self.pull_weight > 0):
            raise ValueError(
                f"expected a term on conditionings for hardening.eta, found none to which its {self.harden.eta} would "
                "matter: choose an objective, additions, pull_weight or plain_space='conditioning', or leave it at 0"
            )
        if self.pull_weight > 0 and not self.harden.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for pull_weight {self.pull_weight}, found the objective "
                f"{self.harden.objective!r}, which has none: choose another, or leave it at 0"
            )

    def for_processes(self, n: int) -> UnlearnConfig:
        """Return the same with n times the batches, for n processes to share."""
        harden = self.harden.for_processes(n)
        return replace(self, batch=n * self.batch, plain_batch=n * self.plain_batch, harden=harden)

    @property
    def wants_anchors(self) -> bool:
        """Whether any term looks at anchored prompts."""
        return self.target == "anchor" or self.pulls_conditioning

    @property
    def pulls_conditioning(self) -> bool:
        """Whether there is a term in the space of conditionings."""
        return self.pull_weight > 0 or self.pulls_plain or self.harden.pulls

    @property
    def pulls_plain(self) -> bool:
        """Whether the conditionings of plain prompts are pulled."""
        return self.plain_weight > 0 and self.plain_space == "conditioning"


@dataclass(frozen=True, kw_only=True)
class RetainConfig:
    """What the student shall keep.

    Args:
        prompts: The retain set.
        weight: Of the noise term (paper: 0.3 for nudity, 0.5 for styles and objects).
        batch: Points per iteration of the noise term (paper: 5).
        space: ``noise`` compares predictions, as the paper does. ``conditioning`` compares conditionings in the metric
            of the UNet's cross-attention, a departure: hundreds of prompts per iteration at no UNet call.
        conditioning_weight: Of the conditioning term, in units of the noise loss (see ``ConditioningMetric``).
        conditioning_batch: Prompts per iteration of the conditioning term.
    """

    prompts: tuple[str, ...] = ()
    weight: float = 0.3
    batch: int = 5
    space: Space = "noise"
    conditioning_weight: float = 1.0
    conditioning_batch: int = 128

    def __post_init__(self) -> None:
        if not self.prompts and (self.in_noise or self.in_conditioning):
            raise ValueError("expected retain prompts, found none: give RetainConfig.prompts, or set both weights to 0")

    def for_processes(self, n: int) -> RetainConfig:
        """Return the same with n times the batches, for n processes to share."""
        return replace(self, batch=n * self.batch, conditioning_batch=n * self.conditioning_batch)

    @property
    def in_noise(self) -> bool:
        """Whether predictions are retained."""
        return self.space != "conditioning" and self.weight > 0

    @property
    def in_conditioning(self) -> bool:
        """Whether conditionings are retained."""
        return self.space != "noise" and self.conditioning_weight > 0


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Where the attack's tokens go, and how they start.

    Args:
        attack: The inner attack.
        warmup: First iterations, without attack (paper: 200 of 1000).
        placements: One is drawn at every iteration (paper: prefix).
        tokens: Numbers of adversarial tokens; one is drawn at every iteration (paper: 1).
        start: ``random`` begins at the embeddings of random tokens, specials included; ``latest`` where the last
            attack with as many tokens ended.
        points: ``fresh`` draws new latents and timesteps for each attack step, ``fixed`` keeps the iteration's own.
        slots: Numbers of tokens that may stand in place of the concept's words, as concept inversion (Pham et al., ICLR
            2024) has them; each is drawn as often as each layout. A departure, as all that follows.
        shared: Share of the attacks through the UNet that learn one set of tokens for all prompts, as concept inversion
            and universal prompts do, each on from where the last one in that place ended.
        restart: Chance that a shared attack begins anew all the same.
    """

    attack: SoftPrompt = field(default_factory=SoftPrompt)
    warmup: int = 200
    placements: tuple[Placement, ...] = ("prefix",)
    tokens: tuple[int, ...] = (1,)
    start: Literal["random", "latest"] = "random"
    points: Literal["fresh", "fixed"] = "fresh"
    slots: tuple[int, ...] = field(default=(), metadata=LATER)
    shared: float = field(default=0.0, metadata=LATER)
    restart: float = field(default=0.04, metadata=LATER)

    def __post_init__(self) -> None:
        if not self.layouts():
            raise ValueError("expected at least one placement and one number of tokens, found none")
        if min(self.slots, default=1) < 1 or not 0 <= self.shared <= 1 or not 0 <= self.restart <= 1:
            raise ValueError(
                f"expected slots of at least 1 token, shared and restart in [0, 1], found {self.slots}, {self.shared} "
                f"and {self.restart}"
            )

    def layouts(self) -> list[PromptLayout]:
        """Return every layout that may be drawn."""
        return [PromptLayout(placement, k) for placement in self.placements for k in self.tokens]
