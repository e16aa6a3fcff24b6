"""Settings of the terms on what is no clear caption."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..provenance import LATER


@dataclass(frozen=True, kw_only=True)
class OutlierConfig:
    """What says nothing clear counts as the concept; by default there is none of it.

    A text that no caption resembles is read by the base as something between captions, and what lies between them may
    be the concept: a ring beside a cross is drawn as a circle. So strings of words and of tokens are unlearned unless
    they are clear: they have exactly one of ``others``, no word of the concept, and enough tokens that are ``known``.
    Clear ones keep the conditioning that the base gives them. All else gets the one that the base gives the same string
    with the anchor in place of all these words, or in front where it has none, and ``hardening.eta`` beyond it. Where
    ``others`` is empty no string is clear.

    Args:
        others: Words that each say something else in the concept's place, as "square" does beside "circle", the anchor
            among them. Those of one token are not added to what ``hardening.neighbours_weight`` keeps.
        known: Share of a string's tokens that must be of the retain prompts, or of ``others``, for it to be clear: one
            word that says something else does not clear what nobody would write around it.
        strings_weight: Weight of the term on strings.
        strings_batch: Strings per iteration.
        longest: Words of a string at most.
        vocabulary: Half of the strings are of words of the retain prompts alone; in the others this share is of single
            tokens from the whole vocabulary.
        shuffled_weight: Weight of a term on words of a retain prompt in any order, a tenth of them left out, which keep
            the base's conditioning: what is said in another order means the same. Give it retain prompts that are
            clear; others would be kept here and unlearned as strings.
        shuffled_batch: Of these per iteration.
        strangers_weight: Weight of a term on embeddings that are no token's, mixtures of several and noise, in place of
            the concept's words: what no retained word says is the concept.
        strangers_batch: Prompts with such an embedding per iteration.
        inserted_weight: Weight of a term on prompts with the concept into which such embeddings are put, in front,
            behind, or anywhere between: what an attacker learns there must not bring the concept back.
        inserted_batch: Of these prompts per iteration.
        inserted_tokens: Embeddings put into each at most, all in one place; as many into all prompts of an iteration.
        searched_weight: Weight of a term on strings that are searched for through the UNet, as P4D does (Chin et al.,
            ICML 2024): they have the student predict what the base does for the concept. They are judged as other
            strings are: what is found and clear gets the base's conditioning back.
        searched: Strings under search at once, each going on from where it was left.
        searched_batch: Of these taken on per iteration.
        searched_tokens: Tokens of each.
        searched_steps: Steps for each per iteration.
        searched_rate: Length of a step, as a share of the embeddings' root mean square.
        restart: Chance that one begins anew after it was taken on.
        empty_weight: Weight of a term that keeps the empty prompt's conditioning, beside any of the others. It says
            nothing either, and would follow what is unlearned: with it every picture changes, for guidance takes its
            prediction away.

    Raises:
        ValueError: A number outside its range, fewer strings under search than are taken on, or ``known`` without
            strings that may be clear.
    """

    others: tuple[str, ...] = ()
    known: float = field(default=0.0, metadata=LATER)
    strings_weight: float = 0.0
    strings_batch: int = 64
    longest: int = 10
    vocabulary: float = 0.5
    shuffled_weight: float = 0.0
    shuffled_batch: int = 64
    strangers_weight: float = 0.0
    strangers_batch: int = 48
    inserted_weight: float = field(default=0.0, metadata=LATER)
    inserted_batch: int = field(default=48, metadata=LATER)
    inserted_tokens: int = field(default=3, metadata=LATER)
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
        shares = (self.known, self.vocabulary, self.restart)
        if not all(0 <= share <= 1 for share in shares) or self.searched_rate <= 0:
            raise ValueError(
                f"expected known, vocabulary and restart in [0, 1] and a searched_rate above 0, found {shares} and "
                f"{self.searched_rate}"
            )
        if self.known > 0 and not (self.others and max(self.strings_weight, self.searched_weight) > 0):
            raise ValueError(
                f"expected others, and strings or a search, for known {self.known} to matter, found {self}: give them, "
                "or leave it at 0"
            )

    def for_processes(self, n: int) -> OutlierConfig:
        """Return the same with n times the batches, for n processes to share."""
        return replace(
            self,
            strings_batch=n * self.strings_batch,
            shuffled_batch=n * self.shuffled_batch,
            strangers_batch=n * self.strangers_batch,
            inserted_batch=n * self.inserted_batch,
            searched_batch=n * self.searched_batch,
            searched=n * self.searched,
        )

    def batches(self) -> dict[str, int]:
        """Return the terms and how many rows each has per iteration."""
        weights = {name: getattr(self, f"{name}_weight") for name in self._batches()}
        return {name: size for name, size in self._batches().items() if weights[name] > 0}

    @property
    def searches(self) -> bool:
        """Whether strings are searched for through the UNet."""
        return self.searched_weight > 0

    @property
    def has_targets(self) -> bool:
        """Whether there is a term to whose targets ``hardening.eta`` matters."""
        return bool(set(self.batches()) - {"shuffled"})

    def _batches(self) -> dict[str, int]:
        names = ("strings", "shuffled", "strangers", "inserted", "searched")
        return {name: getattr(self, f"{name}_batch") for name in names}
