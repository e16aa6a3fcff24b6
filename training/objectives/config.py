"""Settings of the objectives that train a text encoder: one dataclass for each group of loss terms.

A conditioning is the text encoder's output for a prompt: one vector of width D at each of L positions. The student is
the text encoder in training. The base is the frozen model that training starts from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..prompts.layout import Placement, PromptLayout
from ..provenance import EXTRA
from .language_config import LanguageConfig

Space = Literal["noise", "conditioning", "both"]


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """Settings of the terms on prompts with the concept.

    Args:
        batch: Number of prompts with the concept per iteration (paper: 1).
        eta: Strength of negative guidance. The target is e_b - eta (e_p - e_b), where e_p is the base's
            prediction for the prompt and e_b is its prediction for the prompt that ``target`` chooses. With 0, the
            target is e_b.
        target: Prompt that the target starts from. ``negative_guidance`` takes the empty prompt, as the paper does.
            ``anchor`` takes the same prompt with the concept's words replaced by the anchor. That is a departure from
            the paper; it keeps the rest of a caption.
        plain_weight: Weight of an additional term on prompts without adversarial tokens; 0 leaves it out. It is a
            departure from the paper, whose term sees only attacked prompts after the warm-up. With that term alone,
            the concept returns for plain captions.
        plain_space: Space of the plain term. ``noise`` repeats the main term on plain prompts. ``conditioning`` pulls
            the student's conditioning to the base's conditioning of the anchored prompt. It makes no UNet call and
            begins at the first iteration.
        plain_batch: Number of prompts per iteration of the plain term.
        pull_weight: Weight of a term on the conditionings of the attacked prompts; 0 leaves it out. Its targets are
            the base's conditionings of the anchored prompts, shifted by ``hardening.eta``. It is a departure from the
            paper: the noise term sees one timestep of one picture, this term sees the whole conditioning and makes no
            UNet call.
    """

    batch: int = 1
    eta: float = 1.0
    target: Literal["negative_guidance", "anchor"] = "negative_guidance"
    plain_weight: float = field(default=0.0, metadata=EXTRA)
    plain_space: Literal["noise", "conditioning"] = field(default="noise", metadata=EXTRA)
    plain_batch: int = field(default=8, metadata=EXTRA)
    pull_weight: float = field(default=0.0, metadata=EXTRA)

    def for_processes(self, n: int) -> UnlearnConfig:
        """Return a copy with n times the batch sizes, for n processes to share."""
        return replace(self, batch=n * self.batch, plain_batch=n * self.plain_batch)

    @property
    def pulls_plain(self) -> bool:
        """True if there is a plain term on conditionings."""
        return self.plain_weight > 0 and self.plain_space == "conditioning"


@dataclass(frozen=True, kw_only=True)
class RetainConfig:
    """Settings of the terms on retain prompts, the prompts that keep their meaning.

    Args:
        prompts: Retain prompts, the prompts that keep their meaning.
        weight: Weight of the noise term (paper: 0.3 for nudity, 0.5 for styles and objects).
        batch: Number of points per iteration of the noise term (paper: 5). A point is a latent at a timestep, with one
            of the retain prompts.
        space: Space in which student and base are compared. ``noise`` compares predictions, as the paper does.
            ``conditioning`` compares conditionings in the metric of the UNet's cross-attention. It is a departure from
            the paper that takes hundreds of prompts per iteration and makes no UNet call. ``both`` has both terms.
        conditioning_weight: Weight of the conditioning term, whose loss has the scale of the noise loss (see
            ``ConditioningMetric``).
        conditioning_batch: Number of prompts per iteration of the conditioning term.

    Raises:
        ValueError: If there are no prompts, and a term needs them.
    """

    prompts: tuple[str, ...] = field(default=(), metadata=EXTRA)
    weight: float = 0.3
    batch: int = 5
    space: Space = field(default="noise", metadata=EXTRA)
    conditioning_weight: float = field(default=1.0, metadata=EXTRA)
    conditioning_batch: int = field(default=128, metadata=EXTRA)

    def __post_init__(self) -> None:
        if not self.prompts and (self.in_noise or self.in_conditioning):
            raise ValueError(
                "expected retain prompts, found none: give retain.prompts, or set "
                "retain.weight and retain.conditioning_weight to 0"
            )

    def for_processes(self, n: int) -> RetainConfig:
        """Return a copy with n times the batch sizes, for n processes to share."""
        return replace(self, batch=n * self.batch, conditioning_batch=n * self.conditioning_batch)

    @property
    def in_noise(self) -> bool:
        """True if there is a retention term on predictions."""
        return self.space != "conditioning" and self.weight > 0

    @property
    def in_conditioning(self) -> bool:
        """True if there is a retention term on conditionings."""
        return self.space != "noise" and self.conditioning_weight > 0


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Placement and start of the inner attack's adversarial tokens.

    Args:
        warmup: Number of first iterations without an attack (paper: 200 of 1000).
        placements: Positions of the adversarial tokens in the prompt; each iteration draws one (paper: prefix).
        tokens: Numbers of adversarial tokens; each iteration draws one (paper: 1).
        start: Embeddings that the attack begins at. ``random`` takes those of random tokens, special tokens included.
            ``latest`` takes the result of the last attack with the same number of tokens.
        points: Latents and timesteps of the attack steps. ``fresh`` draws new ones for each step. ``fixed`` keeps those
            of the iteration.
        in_place: Numbers of adversarial tokens that replace the concept's words, as in concept inversion (Pham et al.,
            ICLR 2024). Each of these numbers is drawn as often as each pair of a placement and a token number. It is a
            departure from the paper, as are ``shared`` and ``restart``; empty leaves it out.
        shared: Share, from 0 to 1, of the attacks through the UNet that learn one set of tokens for all prompts, as
            concept inversion and universal prompts do. Each continues the last shared attack in its placement.
        restart: Probability that a shared attack begins at random tokens instead of continuing the last one.

    Raises:
        ValueError: If there is no placement or no number of tokens, or if a number is outside its range.
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
        """Return every pair of a placement and a number of tokens."""
        return [PromptLayout(placement, k) for placement in self.placements for k in self.tokens]


@dataclass(frozen=True, kw_only=True)
class HardeningConfig:
    """Settings of terms on conditionings that harden an encoder beyond the paper's attack; the default has none.

    Args:
        objective: Space in which prompts with the concept are attacked and unlearned. ``noise`` takes the UNet's
            predictions, as the paper does. ``conditioning`` attacks and pulls the conditioning instead, in the metric
            of the UNet's cross-attention: many adversarial prompts per iteration without a UNet call. ``both`` has
            both terms, each with its own prompts and attack.
        weight: Weight of the conditioning term, whose loss has the scale of the noise loss.
        batch: Number of prompts per iteration of the conditioning term.
        eta: Strength of negative guidance on conditionings. The target is c_a - eta (c - c_a), where c is the base's
            conditioning of the prompt and c_a that of the anchored prompt. With 0 the target is c_a, and conditionings
            between c and c_a may still draw the concept. It also holds for the plain term on conditionings. Pairs of
            prompts with different numbers of tokens cannot be compared position by position; their target is c_a.
        additions_weight: Weight of a term on prompts with added tokens; 0 leaves it out. The tokens come from the
            retain prompts and are added at any position. A neighbour's word beside the concept's must not bring the
            concept back.
        additions_batch: Number of prompts per iteration of the term with added tokens.
        additions: Largest number of tokens added to a prompt.
        vocabulary: Share, from 0 to 1, of the added tokens drawn from the whole vocabulary. The others come from the
            retain prompts.
        cut: Share, from 0 to 1, of the prompts with added tokens that lose the concept's words first. Their target
            stays the same: a caption that leaves the concept's place open must not bring the concept back either.
        neighbours_weight: Weight of a term that keeps neighbouring prompts; 0 leaves it out. Half of them are prompts
            with a random token in place of the concept's words, half are retain prompts. Both may get added tokens.
            All keep the base's conditioning, so that only the concept's own words are unlearned.
        neighbours_batch: Number of prompts per iteration of the term on neighbouring prompts.
        neighbours_from: Smallest distance of a neighbour's conditioning from the concept's, in units of the mean
            distance over all tokens drawn. Tokens nearer than that may be other names of the concept. The distance is
            known only if the concept's words are one token; otherwise every token is accepted.
        candidates: Number of prompts with added tokens that are made for each one kept. The prompts farthest from
            their targets are kept. This is a search over text without gradients; each process makes its own choice.

    Raises:
        ValueError: If a number is outside its range, or if no term uses it.
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
                "none: give hardening.additions_weight, or leave both at 0"
            )

    def for_processes(self, n: int) -> HardeningConfig:
        """Return a copy with n times the batch sizes, for n processes to share."""
        batches = {name: n * getattr(self, name) for name in ("batch", "additions_batch", "neighbours_batch")}
        return replace(self, **batches)

    def batches(self) -> dict[str, int]:
        """Map each active term to its number of prompts per iteration; for the neighbours, to half of it."""
        terms = {"attacked": self.batch} if self.in_conditioning else {}
        terms |= {"additions": self.additions_batch} if self.additions_weight > 0 else {}
        return terms | ({"neighbours": max(self.neighbours_batch // 2, 1)} if self.neighbours_weight > 0 else {})

    @property
    def in_noise(self) -> bool:
        """True if there is an unlearning term on predictions."""
        return self.objective != "conditioning"

    @property
    def in_conditioning(self) -> bool:
        """True if conditionings are attacked and unlearned."""
        return self.objective != "noise" and self.weight > 0

    @property
    def cuts(self) -> bool:
        """True if a term cuts the concept's words out of its prompts."""
        return self.cut > 0 or self.neighbours_weight > 0


@dataclass(frozen=True, kw_only=True)
class OutlierConfig:
    """Settings of terms that map outliers, text that no caption resembles, to the anchor; the default has none.

    The base reads an outlier as something between captions. Between captions there may be the concept: the base draws
    a ring beside a cross as a circle. These terms therefore unlearn every string of words and tokens that is not
    caption-like. A string is caption-like if it has exactly one of ``alternatives``, no word of the concept, and enough
    tokens that captions use. Without ``alternatives`` no string is caption-like.

    Caption-like strings keep the base's conditioning. The target of an outlier is the base's conditioning of another
    string. There the anchor replaces every alternative and every word of the concept, or stands in front if the outlier
    has none of these. ``hardening.eta`` shifts that target away from the concept.

    Args:
        alternatives: Words for other values in the concept's place, as "square" is for "circle"; the anchor must be
            one of them. An alternative that is one token is never added to the prompts that
            ``hardening.neighbours_weight`` keeps.
        caption_share: Smallest share, from 0 to 1, of a caption-like string's tokens that must occur in the retain
            prompts or in ``alternatives``.
        strings_weight: Weight of the term on random strings; 0 leaves it out.
        strings_batch: Number of random strings per iteration.
        longest: Largest number of words in a random string.
        vocabulary: Share, from 0 to 1, of single tokens from the whole vocabulary in every second random string. The
            other strings have only words of the retain prompts.
        shuffled_weight: Weight of a term on shuffled retain prompts; 0 leaves it out. Their words stand in random
            order, a tenth of the words is left out, and they keep the base's conditioning. The retain prompts should
            be caption-like: any other would be kept by this term and unlearned by the one on random strings.
        shuffled_batch: Number of shuffled retain prompts per iteration.
        off_manifold_weight: Weight of a term on off-manifold embeddings in place of the concept's words; 0 leaves it
            out. An off-manifold embedding belongs to no token: it is a mixture of several, or noise.
        off_manifold_batch: Number of prompts with an off-manifold embedding per iteration.
        inserted_weight: Weight of a term on prompts with the concept and inserted off-manifold embeddings; 0 leaves it
            out. The embeddings stand in front of the prompt, behind it, or anywhere inside it.
        inserted_batch: Number of prompts with inserted embeddings per iteration.
        inserted_tokens: Largest number of embeddings inserted into a prompt, all in one place. All prompts of an
            iteration get the same number.
        searched_weight: Weight of a term on strings found by a search through the UNet; 0 leaves it out. The search
            makes the student predict what the base predicts for the concept, as P4D (Chin et al., ICML 2024)
            does. A resulting string that is caption-like keeps the base's conditioning; any other is unlearned.
        searched: Number of strings that the search keeps; each continues where its last steps ended.
        searched_batch: Number of strings that the search continues in each iteration.
        searched_tokens: Number of tokens of each searched string.
        searched_steps: Number of search steps for each continued string per iteration.
        searched_rate: Length of a search step, as a share of the root mean square of the string's embeddings.
        restart: Probability that a searched string begins anew after its steps.
        empty_weight: Weight of a term that keeps the empty prompt's conditioning beside any other term of this group.
            The empty prompt is an outlier too and would change with the others. Then every picture would change,
            because classifier-free guidance subtracts the prediction for the empty prompt.

    Raises:
        ValueError: If a number is outside its range, if the search keeps fewer strings than it continues per
            iteration, or if ``caption_share`` is set and no term has strings that may be caption-like.
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
                "expected batches, longest, tokens and steps of at least 1, and searched of at least searched_batch, "
                f"found {self}"
            )
        shares = (self.caption_share, self.vocabulary, self.restart)
        if not all(0 <= share <= 1 for share in shares) or self.searched_rate <= 0:
            raise ValueError(
                f"expected caption_share, vocabulary and restart in [0, 1] and a searched_rate above 0, found {shares} "
                f"and {self.searched_rate}"
            )
        if self.caption_share > 0 and not (self.alternatives and max(self.strings_weight, self.searched_weight) > 0):
            raise ValueError(
                f"expected outliers.alternatives, and outliers.strings_weight or outliers.searched_weight, beside "
                f"outliers.caption_share {self.caption_share}, found {self}: give them, or leave "
                "outliers.caption_share at 0"
            )

    def for_processes(self, n: int) -> OutlierConfig:
        """Return a copy with n times the batch sizes, for n processes to share."""
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
        """Map each active term to its number of rows per iteration."""
        weights = {name: getattr(self, f"{name}_weight") for name in self._batches()}
        return {name: size for name, size in self._batches().items() if weights[name] > 0}

    def _batches(self) -> dict[str, int]:
        names = ("strings", "shuffled", "off_manifold", "inserted", "searched")
        return {name: getattr(self, f"{name}_batch") for name in names}

    @property
    def searches(self) -> bool:
        """True if there is a term on strings from a search through the UNet."""
        return self.searched_weight > 0

    @property
    def cuts(self) -> bool:
        """True if a term cuts the concept's words out of its prompts."""
        return self.off_manifold_weight > 0


@dataclass(frozen=True)
class TermsConfig:
    """All settings of an objective on a text encoder, for every method.

    Args:
        unlearn: Settings of the terms on prompts with the concept.
        retain: Settings of the terms on retain prompts.
        hardening: Settings of the terms on conditionings against stronger attacks.
        outliers: Settings of the terms on outliers.
        adversary: Placement and start of the inner attack; None for no attack.
        language: Settings of the terms on any text.

    Raises:
        ValueError: If a setting has no effect beside the others, or if there is a search or a pool but no attack.
    """

    unlearn: UnlearnConfig
    retain: RetainConfig
    hardening: HardeningConfig
    outliers: OutlierConfig
    adversary: AdversaryConfig | None = None
    language: LanguageConfig = field(default_factory=LanguageConfig)

    def __post_init__(self) -> None:
        if self.hardening.eta and not (self._eta_matters or self.unlearn.pulls_plain or self.unlearn.pull_weight > 0):
            raise ValueError(
                f"expected a term on conditionings that uses hardening.eta {self.hardening.eta}, found none: set "
                "hardening.objective, hardening.additions_weight, unlearn.pull_weight, or unlearn.plain_weight with "
                "unlearn.plain_space 'conditioning', or leave hardening.eta at 0"
            )
        if self.unlearn.pull_weight > 0 and not self.hardening.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for unlearn.pull_weight {self.unlearn.pull_weight}, found "
                f"hardening.objective {self.hardening.objective!r}, which has none: choose 'noise' or 'both', or leave "
                "unlearn.pull_weight at 0"
            )
        if self.adversary is None and self.outliers.searches:
            raise ValueError(
                f"expected outliers.searched_weight 0, found {self.outliers.searched_weight}: the search is an attack, "
                "and ESD has no attack; leave it at 0, or train AdvUnlearn"
            )
        if self.adversary is None and self.language.inverts:
            raise ValueError(
                f"expected language.pool_weight 0, found {self.language.pool_weight}: the pool is fitted by an attack, "
                "and ESD has no attack; leave it at 0, or train AdvUnlearn"
            )
        if self.adversary is not None and self.adversary.shared > 0 and not self.hardening.in_noise:
            raise ValueError(
                f"expected attacks through the UNet for adversary.shared {self.adversary.shared}, found "
                "hardening.objective 'conditioning', which has none: choose 'noise' or 'both', or leave "
                "adversary.shared at 0"
            )

    @property
    def _eta_matters(self) -> bool:
        """True if ``hardening.eta`` shifts the targets of a hardening or outlier term."""
        others = set(self.outliers.batches()) - {"shuffled"}
        hardened = self.hardening.in_conditioning or self.hardening.additions_weight > 0
        return hardened or bool(others) or self.language.inverts

    @property
    def hardens(self) -> bool:
        """True if there is a hardening or outlier term, or one on any text."""
        return bool(self.hardening.batches() or self.outliers.batches() or self.language.batches())

    @property
    def predicts(self) -> bool:
        """True if a term compares predictions of the UNet, or searches through it; otherwise nothing runs the UNet."""
        plain = self.unlearn.plain_weight > 0 and not self.unlearn.pulls_plain
        return self.hardening.in_noise or plain or self.retain.in_noise or self.outliers.searches

    @property
    def pulls_conditioning(self) -> bool:
        """True if a term on prompts with the concept compares conditionings."""
        return self.unlearn.pull_weight > 0 or self.unlearn.pulls_plain or self.hardens

    @property
    def wants_anchors(self) -> bool:
        """True if a term uses anchored prompts."""
        return self.unlearn.target == "anchor" or self.pulls_conditioning

    @property
    def cuts(self) -> bool:
        """True if a term on conditionings cuts the concept's words out of its prompts."""
        return self.hardening.cuts or self.outliers.cuts
