"""Term on two words in the concept's place, which mean the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator

from ..prompts.concept_words import in_place_of
from .language_rows import LanguageRows
from .terms import Iteration, TermRows


@dataclass(frozen=True)
class Pairs:
    """Term that gives two words in the concept's place the meaning of the first, which fits there.

    Two words beside each other blend: the base draws a circle for "a ring cross". The target is the base's conditioning
    of the prompt with the first word alone, token by token. The second word's tokens get that of the first.

    Args:
        language: Settings, texts and encoded prompts.
    """

    name: ClassVar[str] = "pairs"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    language: LanguageRows

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.language.config.pairs_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.language.config.pairs_batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        teacher, n = self.language.teacher, self.least
        drawn = self.draw(n, iteration.generator)[self.language.shard.part(n)]
        ids, wanted = (teacher.tokenize(list(texts)) for texts in zip(*drawn, strict=True))
        rows = zip(ids.tolist(), wanted.tolist(), strict=True)
        index = torch.tensor([aligned(*row, eos=self.language.prompts.eos) for row in rows], device=ids.device)
        frozen = self.language.frozen(wanted)
        target = frozen.gather(1, index[..., None].expand(-1, -1, frozen.shape[2]))
        return TermRows(n, teacher.embed(ids).detach(), ids, target)

    def draw(self, n: int, generator: Generator) -> list[tuple[str, str]]:
        """Draw n prompts, each with two words in the concept's place, and the same with the first of them."""
        made = self.language
        index = torch.randint(len(made.roomy), (n,), generator=generator).tolist()
        fits = torch.randint(len(made.fitting), (n, 2), generator=generator).tolist()
        others = torch.randint(len(made.foreign), (n,), generator=generator).tolist()
        odd = (torch.rand(n, generator=generator) < made.config.foreign).tolist()
        found = []
        for i, (one, two), other, anywhere in zip(index, fits, others, odd, strict=True):
            first, second = made.fitting[one], made.foreign[other] if anywhere else made.fitting[two]
            found.append((self._placed(i, f"{first} {second}"), self._placed(i, first)))
        return found

    def _placed(self, i: int, phrase: str) -> str:
        placed = in_place_of(self.language.roomy[i], self.language.concept.words(), phrase)
        assert placed is not None, "every prompt with the concept names it"
        return placed


def aligned(both: Sequence[int], alone: Sequence[int], *, eos: int) -> list[int]:
    """Return for each token of a row with two words the position of its counterpart in the row with the first.

    Tokens of the second word get the last token of the first. What follows moves along, the padding too.

    Args:
        both: Token ids (L) of the row with two words.
        alone: Token ids (L) of the row with the first of them.
        eos: Id of the end token.
    """
    sizes = both.index(eos, 1), alone.index(eos, 1)
    extra, shortest = max(0, sizes[0] - sizes[1]), min(sizes)
    after = next((i for i in range(shortest) if both[i] != alone[i]), shortest)
    return [i if i < after else max(after - 1, i - extra) for i in range(len(both))]
