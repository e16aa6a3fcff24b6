"""Settings of the objectives that train a text encoder: one dataclass a group of loss terms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..prompts.layout import Placement, PromptLayout
from ..provenance import EXTRA

Space = Literal["noise", "conditioning", "both"]


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """Terms on prompts with the concept.

    Args:
        batch: Prompts per iteration (paper: 1).
        eta: Negative guidance: distance of the target beyond its base; 0 targets the base itself.
        target: Base of the target. ``negative_guidance`` is the paper's, the empty prompt. ``anchor`` is the same
            prompt with the concept's words replaced by its anchor: a departure, which keeps the rest of a caption.
        plain_weight: Weight of an additional term on plain prompts. A departure: after the warm-up the paper's term
            sees adversarial prompts alone, and plain captions come back.
        plain_space: Space of the plain term. ``noise`` repeats the main term on plain prompts. ``conditioning`` pulls
            the student's conditioning to the frozen one of the anchored prompt, at no UNet call, from the first
            iteration on.
        plain_batch: Prompts per iteration of the plain term.
        pull_weight: Weight of a term on the conditionings of the attacked prompts themselves. Their targets are the
            frozen ones of the anchored prompts, or ``hardening.eta`` beyond. A departure: the noise term sees one
            timestep of one picture, this one the whole conditioning, at no UNet call.
    """

    batch: int = 1
    eta: float = 1.0
    target: Literal["negative_guidance", "anchor"] = "negative_guidance"
    plain_weight: float = field(default=0.0, metadata=EXTRA)
    plain_space: Literal["noise", "conditioning"] = field(default="noise", metadata=EXTRA)
    plain_batch: int = field(default=8, metadata=EXTRA)
    pull_weight: float = field(default=0.0, metadata=EXTRA)

    def for_processes(self, n: int) -> UnlearnConfig:
        """Return the same with n times the batches, for n processes to share."""
        return replace(self, batch=n * self.batch, plain_batch=n * self.plain_batch)

    @property
    def pulls_plain(self) -> bool:
        """Whether the conditionings of plain prompts are pulled."""
        return self.plain_weight > 0 and self.plain_space == "conditioning"


@dataclass(frozen=True, kw_only=True)
class RetainConfig:
    """Terms on prompts that keep their meaning.

    Args:
        prompts: Retain set.
        weight: Weight of the noise term (paper: 0.3 for nudity, 0.5 for styles and objects).
        batch: Points per iteration of the noise term (paper: 5).
        space: Space of the terms. ``noise`` compares predictions, as the paper does. ``conditioning`` compares
            conditionings in the metric of the UNet's cross-attention, a departure: hundreds of prompts per iteration
            at no UNet call. ``both`` has both terms.
        conditioning_weight: Weight of the conditioning term, in units of the noise loss (see ``ConditioningMetric``).
        conditioning_batch: Prompts per iteration of the conditioning term.

    Raises:
        ValueError: No prompts, and a term that wants some.
    """

    prompts: tuple[str, ...] = field(default=(), metadata=EXTRA)
    weight: float = 0.3
    batch: int = 5
    space: Space = field(default="noise", metadata=EXTRA)
    conditioning_weight: float = field(default=1.0, metadata=EXTRA)
    conditioning_batch: int = field(default=128, metadata=EXTRA)

    def __post_init__(self) -> None:
        if not self.prompts and (self.in_noise or self.in_conditioning):
            raise ValueError("expected retain prompts, found none: give retain.prompts, or set both weights to 0")

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
    """Placement and start of the inner attack's tokens.

    Args:
        warmup: First iterations, without attack (paper: 200 of 1000).
        placements: Placements of the tokens; one is drawn at every iteration (paper: prefix).
        tokens: Numbers of adversarial tokens; one is drawn at every iteration (paper: 1).
        start: ``random`` begins at the embeddings of random tokens, specials included; ``latest`` where the last
            attack with as many tokens ended.
        points: ``fresh`` draws new latents and timesteps for each attack step, ``fixed`` keeps the iteration's own.
        in_place: Numbers of tokens in place of the concept's words, as concept inversion (Pham et al., ICLR 2024) has
            them; each is drawn as often as each placement. A departure, as all that follows.
        shared: Share of the attacks through the UNet that learn one set of tokens for all prompts, as concept inversion
            and universal prompts do. Each goes on from where the last one in that placement ended.
        restart: Chance that a shared attack begins anew all the same.

    Raises:
        ValueError: No placement, no number of tokens, or a number outside its range.
    """

    warmup: int = 200
    placements: tuple[Placement, ...] = ("prefix",)
    tokens: tuple[int, ...] = (1,)
    start: Literal["random", "latest"] = "random"
    points: Literal["fresh", "fixed"] = "fresh"
    in_place: tuple[int, ...] = field(default=(), metadata=EXTRA)
    shared: float = field(default=0.0, metadata=EXTRA)
    restart: float = field(default=0.04, metadata=EXTRA)

    def __post_init__(self) -> None:
        if not self.layouts():
            raise ValueError("expected at least one placement and one number of tokens, found none")
        if min(self.in_place, default=1) < 1 or not 0 <= self.shared <= 1 or not 0 <= self.restart <= 1:
            raise ValueError(
                f"expected in_place of at least 1 token, shared and restart in [0, 1], found {self.in_place}, "
                f"{self.shared} and {self.restart}"
            )

    def layouts(self) -> list[PromptLayout]:
        """Return every layout that may be drawn."""
        return [PromptLayout(placement, k) for placement in self.placements for k in self.tokens]


@dataclass(frozen=True, kw_only=True)
class HardeningConfig:
    """Terms on conditionings that harden an encoder beyond the paper's attack; by default there are none.

    Args:
        objective: Space in which prompts with the concept are attacked and unlearned. ``noise`` is the paper's:
            predictions of the UNet. ``conditioning`` attacks and pulls the conditioning instead, in the metric of the
            UNet's cross-attention: many adversarial prompts per iteration at no UNet call. ``both`` has both terms,
            each with its own prompts and attack.
        weight: Weight of the conditioning term, in units of the noise loss.
        batch: Prompts per iteration of the conditioning term.
        eta: Distance of the target beyond the frozen conditioning c_a of an anchored prompt, away from that of the
            prompt itself, c: c_a - eta (c - c_a), as the noise term's negative guidance has it for predictions. With 0,
            nothing between the two is kept clear of the concept. Also holds for the plain term. Only where both prompts
            have as many tokens: elsewhere position by position says nothing, and the target is c_a.
        additions_weight: Weight of a term on prompts to which tokens of the retain prompts were added anywhere: a
            neighbour's word next to the concept's must not bring the concept back.
        additions_batch: Prompts per iteration of that term.
        additions: Largest number of added tokens.
        vocabulary: Share of the added tokens that is drawn from the whole vocabulary; the others are from the retain
            prompts.
        cut: Share of these prompts from which the concept's words are cut out before, towards the same target: an open
            caption must not bring the concept back either.
        neighbours_weight: Weight of a term on prompts with a random token of the vocabulary in place of the concept's
            words, and on retain prompts, half of each, to which additions are made as well. They keep the conditioning
            that the base gives them, so that the concept's own words alone make the difference.
        neighbours_batch: Prompts per iteration of that term.
        neighbours_from: Least distance of another meaning from the concept's conditioning, in units of the mean
            distance over all tokens drawn. Nearer ones may be the concept by another name. Only known where the
            concept's words are one token; elsewhere all tokens are taken.
        candidates: Prompts with additions that are made for each that is kept, which are those farthest from their
            targets. Each process chooses for itself. A search over text at no gradient.

    Raises:
        ValueError: A number outside its range, or one that nothing uses.
    """

    objective: Space = "noise"
    weight: float = 10.0
    batch: int = 16
    eta: float = 0.0
    additions_weight: float = 0.0
    additions_batch: int = 16
    additions: int = 4
    vocabulary: float = 0.0
    cut: float = 0.0
    neighbours_weight: float = 0.0
    neighbours_batch: int = 32
    neighbours_from: float = 1.0
    candidates: int = 1

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
        return replace(self, **batches)

    def batches(self) -> dict[str, int]:
        """Return the terms and the prompts of each per iteration, of the neighbours half of them."""
        terms = {"attacked": self.batch} if self.in_conditioning else {}
        terms |= {"additions": self.additions_batch} if self.additions_weight > 0 else {}
        return terms | ({"neighbours": max(self.neighbours_batch // 2, 1)} if self.neighbours_weight > 0 else {})

    @property
    def in_noise(self) -> bool:
        """Whether predictions are unlearned."""
        return self.objective != "conditioning"

    @property
    def in_conditioning(self) -> bool:
        """Whether conditionings are attacked and unlearned."""
        return self.objective != "noise" and self.weight > 0

    @property
    def cuts(self) -> bool:
        """Whether any term cuts the concept's words out of its prompts."""
        return self.cut > 0 or self.neighbours_weight > 0


@dataclass(frozen=True, kw_only=True)
class OutlierConfig:
    """Terms on outliers, text that no caption resembles: it is mapped to the anchor. By default there are none.

    The base reads such a text as something between captions, and what lies between them may be the concept: a ring
    beside a cross is drawn as a circle. So strings of words and of tokens are unlearned unless they are caption-like:
    they have exactly one of ``alternatives``, no word of the concept, and enough tokens of captions. Caption-like ones
    keep the conditioning that the base gives them. Outliers get the one that the base gives the same string with the
    anchor in place of all these words, or in front where it has none, and ``hardening.eta`` beyond it. Where
    ``alternatives`` is empty no string is caption-like.

    Args:
        alternatives: Words with another value in the concept's place, as "square" is beside "circle", the anchor
            among them. Those of one token are not added to what ``hardening.neighbours_weight`` keeps.
        caption_share: Least share of a caption-like string's tokens that are of the retain prompts, or of
            ``alternatives``.
        strings_weight: Weight of the term on strings.
        strings_batch: Strings per iteration.
        longest: Largest number of words of a string.
        vocabulary: Share of single tokens from the whole vocabulary in every second string; the other strings are of
            words of the retain prompts alone.
        shuffled_weight: Weight of a term on words of a retain prompt in any order, a tenth of them left out, which keep
            the base's conditioning. Its retain prompts should be caption-like; others would be kept here and unlearned
            as strings.
        shuffled_batch: Such prompts per iteration.
        off_manifold_weight: Weight of a term on embeddings that are no token's, mixtures of several and noise, in place
            of the concept's words.
        off_manifold_batch: Prompts with such an embedding per iteration.
        inserted_weight: Weight of a term on prompts with the concept into which such embeddings are inserted, in front,
            behind, or anywhere between.
        inserted_batch: Such prompts per iteration.
        inserted_tokens: Largest number of embeddings inserted into each, all in one place; as many into all prompts of
            an iteration.
        searched_weight: Weight of a term on strings that are searched for through the UNet, as P4D does (Chin et al.,
            ICML 2024): they have the student predict what the base does for the concept. They are judged as other
            strings are: what is found and caption-like gets the base's conditioning back.
        searched: Strings under search at once, each going on from where it was left.
        searched_batch: Strings taken on per iteration.
        searched_tokens: Tokens of each.
        searched_steps: Steps for each per iteration.
        searched_rate: Length of a step, as a share of the embeddings' root mean square.
        restart: Chance that one begins anew after it was taken on.
        empty_weight: Weight of a term that keeps the empty prompt's conditioning, beside any of the others. The empty
            prompt is an outlier, too, and would follow what is unlearned: every picture would change, for guidance
            takes its prediction away.

    Raises:
        ValueError: A number outside its range, fewer strings under search than are taken on, or ``caption_share``
            without strings that may be caption-like.
    """

    alternatives: tuple[str, ...] = ()
    caption_share: float = 0.0
    strings_weight: float = 0.0
    strings_batch: int = 64
    longest: int = 10
    vocabulary: float = 0.5
    shuffled_weight: float = 0.0
    shuffled_batch: int = 64
    off_manifold_weight: float = 0.0
    off_manifold_batch: int = 48
    inserted_weight: float = 0.0
    inserted_batch: int = 48
    inserted_tokens: int = 3
    searched_weight: float = 0.0
    searched: int = 64
    searched_batch: int = 8
    searched_tokens: int = 8
    searched_steps: int = 2
    searched_rate: float = 0.1
    restart: float = 0.05
    empty_weight: float = 80.0

    def __post_init__(self) -> None:
        counts = (*self._batches().values(), self.longest)
        counts += (self.inserted_tokens, self.searched_tokens, self.searched_steps)
        if min(counts) < 1 or self.searched < self.searched_batch:
            raise ValueError(
                "expected batches, longest, tokens and steps of at least 1, and at least as many strings under search "
                f"as are taken on, found {self}"
            )
        shares = (self.caption_share, self.vocabulary, self.restart)
        if not all(0 <= share <= 1 for share in shares) or self.searched_rate <= 0:
            raise ValueError(
                f"expected caption_share, vocabulary and restart in [0, 1] and a searched_rate above 0, found {shares} "
                f"and {self.searched_rate}"
            )
        if self.caption_share > 0 and not (self.alternatives and max(self.strings_weight, self.searched_weight) > 0):
            raise ValueError(
                f"expected alternatives, and strings or a search, for caption_share {self.caption_share} to matter, "
                f"found {self}: give them, or leave it at 0"
            )

    def for_processes(self, n: int) -> OutlierConfig:
        """Return the same with n times the batches, for n processes to share."""
        return replace(
            self,
            strings_batch=n * self.strings_batch,
            shuffled_batch=n * self.shuffled_batch,
            off_manifold_batch=n * self.off_manifold_batch,
            inserted_batch=n * self.inserted_batch,
            searched_batch=n * self.searched_batch,
            searched=n * self.searched,
        )

    def batches(self) -> dict[str, int]:
        """Return the terms and the rows of each per iteration."""
        weights = {name: getattr(self, f"{name}_weight") for name in self._batches()}
        return {name: size for name, size in self._batches().items() if weights[name] > 0}

    def _batches(self) -> dict[str, int]:
        names = ("strings", "shuffled", "off_manifold", "inserted", "searched")
        return {name: getattr(self, f"{name}_batch") for name in names}

    @property
    def searches(self) -> bool:
        """Whether strings are searched for through the UNet."""
        return self.searched_weight > 0

    @property
    def cuts(self) -> bool:
        """Whether any term cuts the concept's words out of its prompts."""
        return self.off_manifold_weight > 0


@dataclass(frozen=True)
class TermsConfig:
    """All settings of an objective on a text encoder, whichever method they belong to.

    Args:
        unlearn: Terms on prompts with the concept.
        retain: Terms on prompts that keep their meaning.
        hardening: Terms on conditionings against stronger attacks.
        outliers: Terms on outliers.
        adversary: Placement and start of the inner attack; None where there is no attack.

    Raises:
        ValueError: A setting that would do nothing beside the others, or a search without an attack.
    """

    unlearn: UnlearnConfig
    retain: RetainConfig
    hardening: HardeningConfig
    outliers: OutlierConfig
    adversary: AdversaryConfig | None = None

    def __post_init__(self) -> None:
        if self.hardening.eta and not (self._eta_matters or self.unlearn.pulls_plain or self.unlearn.pull_weight > 0):
            raise ValueError(
                f"expected a term on conditionings for hardening.eta, found none to which its {self.hardening.eta} "
                "would matter: choose an objective, additions, pull_weight or plain_space='conditioning', or leave it "
                "at 0"
            )
        if self.unlearn.pull_weight > 0 and not self.hardening.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for pull_weight {self.unlearn.pull_weight}, found the objective "
                f"{self.hardening.objective!r}, which has none: choose another, or leave it at 0"
            )
        if self.adversary is None and self.outliers.searches:
            raise ValueError(
                "expected no strings under search, found a weight for them in outliers.searched_weight: ESD has no "
                "attack, so leave it at 0, or train AdvUnlearn"
            )
        if self.adversary is not None and self.adversary.shared > 0 and not self.hardening.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for adversary.shared, found {self.adversary.shared} with the "
                "objective 'conditioning', which has none: leave it at 0, or choose 'noise' or 'both'"
            )

    @property
    def _eta_matters(self) -> bool:
        """Whether there is a term whose targets lie ``hardening.eta`` beyond the anchored prompts."""
        others = set(self.outliers.batches()) - {"shuffled"}
        return self.hardening.in_conditioning or self.hardening.additions_weight > 0 or bool(others)

    @property
    def hardens(self) -> bool:
        """Whether there is any term on conditionings beyond the paper."""
        return bool(self.hardening.batches() or self.outliers.batches())

    @property
    def pulls_conditioning(self) -> bool:
        """Whether there is a term of the concept in the space of conditionings."""
        return self.unlearn.pull_weight > 0 or self.unlearn.pulls_plain or self.hardens

    @property
    def wants_anchors(self) -> bool:
        """Whether any term looks at anchored prompts."""
        return self.unlearn.target == "anchor" or self.pulls_conditioning

    @property
    def cuts(self) -> bool:
        """Whether any term on conditionings cuts the concept's words out of its prompts."""
        return self.hardening.cuts or self.outliers.cuts
