"""Settings of terms on any text, which need no list of words; one dataclass, as for every group of loss terms."""

from __future__ import annotations

from dataclasses import dataclass, replace

_TERMS = ("pairs", "pool", "context", "negative")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings of terms on any text; the default has none.

    The terms on outliers need a list of the words for other values in the concept's place. The terms here need none.
    Their words are those of the retain prompts and the tokens of the tokenizer. None of them runs the UNet.

    Args:
        pairs_weight: Weight of a term on two words in the concept's place; 0 leaves it out. The first one fits there,
            which means that retain prompts have it in the same place. The target is the base's conditioning of the
            prompt with the first word alone.
        pairs_batch: Number of prompts with two words per iteration.
        foreign: Share, from 0 to 1, of the pairs whose second word comes from anywhere: from the retain prompts, or a
            whole word of the tokenizer's vocabulary. The second words of the other pairs fit as well. A word from
            anywhere never comes first: "yellow star" keeps its meaning. Words that the concept's prompts have beside
            the concept are left out, for they mean something there, as in "green striped circle".
        pool_weight: Weight of a term on a pool of prompts of free embeddings; 0 leaves it out. An attack fits them
            until the student answers as the base does for a prompt with the concept. The attack goes on in every
            iteration, so the pool follows the student. The targets are the base's conditionings of the anchored
            prompts.
        pool: Number of prompts in the pool.
        pool_batch: Number of prompts of the pool per iteration. The attack continues these.
        pool_tokens: Numbers of free embeddings. Each of them has an equal part of the pool and of the batch. A number
            above the room of a prompt, its positions less two, is refused when the training begins.
        pool_steps: Number of attack steps per iteration.
        pool_rate: Learning rate of the attack's Adam, in the units of the token embeddings.
        pool_bound: Largest norm of a free embedding, in multiples of the vocabulary's largest norm.
        pool_restart: Probability that a prompt of the batch begins anew after its steps: at random tokens, and towards
            another prompt with the concept.
        context_weight: Weight of a term that keeps retain prompts among random tokens; 0 leaves it out. The tokens come
            from the whole vocabulary, except the concept's words and the words that fit its place. The retain prompt's
            own tokens keep the base's conditioning. The other positions are not compared.
        context_batch: Number of retain prompts among random tokens per iteration.
        context_tokens: Largest number of random tokens before and after a retain prompt together.
        context_end: Switch that also keeps the base's conditioning at the end token and the padding.
        negative_weight: Weight of a term on the concept's words and prompts as negative prompts; 0 leaves it out. A
            conditioning beyond the anchor, seen from the concept, turns a negative prompt round: guidance away from it
            leads to the concept. The term pulls such conditionings back to the anchor's side and leaves others alone.
        negative_batch: Number of negative prompts per iteration, half of them the concept's words.
        empty_weight: Weight of a term that keeps the empty prompt's conditioning beside any other term of this group;
            see ``OutlierConfig.empty_weight``.

    Raises:
        ValueError: If a number is outside its range, or if the pool has fewer prompts than a batch.
    """

    pairs_weight: float = 0.0
    pairs_batch: int = 32
    foreign: float = 0.5
    pool_weight: float = 0.0
    pool: int = 96
    pool_batch: int = 24
    pool_tokens: tuple[int, ...] = (3, 8)
    pool_steps: int = 3
    pool_rate: float = 0.02
    pool_bound: float = 1.0
    pool_restart: float = 0.05
    context_weight: float = 0.0
    context_batch: int = 48
    context_tokens: int = 5
    context_end: bool = False
    negative_weight: float = 0.0
    negative_batch: int = 8
    empty_weight: float = 80.0

    def __post_init__(self) -> None:
        counts = (self.pairs_batch, self.pool_batch, self.context_batch, self.negative_batch)
        if min(*counts, *self.pool_tokens, self.pool_steps, self.context_tokens) < 1:
            raise ValueError(f"expected batches, tokens and steps of at least 1, found {self}")
        if not all(0 <= share <= 1 for share in (self.foreign, self.pool_restart)):
            raise ValueError(
                f"expected foreign and pool_restart in [0, 1], found {self.foreign} and {self.pool_restart}"
            )
        if min(self.pool_rate, self.pool_bound) <= 0:
            raise ValueError(f"expected pool_rate and pool_bound above 0, found {self.pool_rate} and {self.pool_bound}")
        self._require_parts()

    def _require_parts(self) -> None:
        parts = len(set(self.pool_tokens))
        if parts != len(self.pool_tokens) or not parts or self.pool % parts or self.pool_batch % parts:
            raise ValueError(
                f"expected different language.pool_tokens, and language.pool and language.pool_batch that their number "
                f"divides, found {self.pool_tokens}, {self.pool} and {self.pool_batch}: choose multiples of {parts}"
            )
        if self.pool < self.pool_batch:
            raise ValueError(
                f"expected language.pool of at least language.pool_batch {self.pool_batch}, found {self.pool}: enlarge "
                "the pool, or lower the batch"
            )

    def for_processes(self, n: int) -> LanguageConfig:
        """Return a copy with n times the batch sizes, for n processes to share."""
        sizes = {f"{name}_batch": n * getattr(self, f"{name}_batch") for name in _TERMS}
        return replace(self, **sizes, pool=n * self.pool)

    def batches(self) -> dict[str, int]:
        """Map each active term to its number of rows per iteration."""
        return {name: getattr(self, f"{name}_batch") for name in _TERMS if getattr(self, f"{name}_weight") > 0}

    @property
    def inverts(self) -> bool:
        """True if there is a pool, whose prompts an attack fits."""
        return self.pool_weight > 0
