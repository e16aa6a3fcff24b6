"""The settings of a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...diffusion.sampling import SamplingConfig

# Largest vocabulary whose pairs are all encoded unless a number is given.
ALL_PAIRS_UP_TO = 1000
SHORTLIST = 1000
TENTHS = 10


@dataclass(frozen=True, kw_only=True)
class CertificateConfig:
    """Numbers of a certificate; a smaller number makes a smaller statement, and the record holds each.

    Args:
        nearest: Number of nearest prompts that are drawn.
        random: Number of prompts drawn from all at random.
        each: Number of prompts drawn at random from each tenth of the ranking.
        seeds: Number of pictures of each prompt, each from its own seed.
        pairs_among: Number of nearest single tokens whose pairs are encoded; 0 for the pairs of all tokens. By default
            all for a vocabulary of at most 1,000 tokens, and otherwise 1,000.
        floor: Number of pictures of the empty prompt, by the encoder and by the base, for the floor of chance.
        seed: Seed of the samples and of all pictures.
        batch: Number of prompts that are encoded at once.
        part: Number of prompts in one finished part of the encoding.
        chunk: Number of pictures in one finished part of the drawing.
        sampling: Sampling of the pictures.

    Raises:
        ValueError: If a number is outside its range.
    """

    nearest: int = 500
    random: int = 200
    each: int = 50
    seeds: int = 4
    pairs_among: int | None = None
    floor: int = 100
    seed: int = 0
    batch: int = 64
    part: int = 4096
    chunk: int = 50
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        counts = ("nearest", "random", "each", "seeds", "floor", "batch", "part", "chunk")
        wrong = [f"{name} {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        wrong += [f"pairs_among {self.pairs_among}"] if self.pairs_among is not None and self.pairs_among < 0 else []
        wrong += [f"seed {self.seed}"] if self.seed < 0 else []
        wrong += [f"floor {self.floor}, below seeds {self.seeds}"] if 1 <= self.floor < self.seeds else []
        if wrong:
            raise ValueError(
                "expected numbers of at least 1, a seed and pairs_among of at least 0, and a floor of at least as many "
                f"pictures as seeds, found {', '.join(wrong)}: raise them"
            )

    def shortlist(self, vocabulary: int) -> int:
        """Return the number of nearest single tokens whose pairs are encoded; 0 for the pairs of all tokens.

        Args:
            vocabulary: Number of the tokenizer's tokens.
        """
        if self.pairs_among is not None:
            return self.pairs_among
        return 0 if vocabulary <= ALL_PAIRS_UP_TO else SHORTLIST

    @property
    def most(self) -> int:
        """Largest number of pictures that are drawn, those of the base's own ranking among them."""
        return (self.nearest + self.random + 2 * TENTHS * self.each) * self.seeds + 2 * self.floor
