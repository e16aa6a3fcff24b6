"""Term on two words in the concept's place, which mean the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Generator

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import texts_around
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
        pairs = self.draw(n, iteration.generator)[self.language.shard.part(n)]
        ids, wanted = (teacher.tokenize(list(texts)) for texts in zip(*((p.both, p.alone) for p in pairs), strict=True))
        index = torch.tensor([aligned(pair.seconds(teacher), ids.shape[1]) for pair in pairs], device=ids.device)
        frozen = self.language.frozen(wanted)
        target = frozen.gather(1, index[..., None].expand(-1, -1, frozen.shape[2]))
        return TermRows(n, teacher.embed(ids).detach(), ids, target)

    def draw(self, n: int, generator: Generator) -> list[WordPair]:
        """Draw n prompts, each with two words in the concept's place."""
        prompts = [(place, i) for place in self.language.places for i in range(len(place.roomy))]
        index = torch.randint(len(prompts), (n,), generator=generator).tolist()
        shares = torch.rand(n, 3, generator=generator, dtype=torch.float64).tolist()
        odd = (torch.rand(n, generator=generator) < self.language.config.foreign).tolist()
        found = []
        for (place, i), (one, two, other), anywhere in zip([prompts[k] for k in index], shares, odd, strict=True):
            fitting, foreign = place.fitting, place.foreign[: place.seconds[i]]
            first = fitting[int(one * len(fitting))]
            second = foreign[int(other * len(foreign))] if anywhere and foreign else fitting[int(two * len(fitting))]
            found.append(WordPair(texts_around(place.roomy[i], place.words, first), first, second))
        return found


@dataclass(frozen=True)
class WordPair:
    """A prompt with two words in the place of every mention of the concept.

    Args:
        around: Texts before, between and after the mentions.
        first: Word that fits the concept's place.
        second: Word behind it.
    """

    around: tuple[str, ...]
    first: str
    second: str

    @property
    def both(self) -> str:
        """The prompt with both words."""
        return f"{self.first} {self.second}".join(self.around)

    @property
    def alone(self) -> str:
        """The prompt with the first word alone."""
        return self.first.join(self.around)

    def seconds(self, teacher: Backbone) -> list[int]:
        """Return the positions of the second word's tokens in the row with both words.

        A tokenizer splits at the space between the words and at the second one's end, so it splits a text that ends
        there as it splits the whole one.

        Args:
            teacher: Frozen base, whose tokenizer counts.
        """
        found, text = list[int](), ""
        for before in self.around[:-1]:
            ends = [f"{text}{before}{self.first}", f"{text}{before}{self.first} {self.second}"]
            start, stop = (len(ids) for ids in teacher.tokenizer(ends, add_special_tokens=False).input_ids)
            found += range(1 + start, 1 + stop)
            text = ends[1]
        return found


def aligned(seconds: Sequence[int], length: int) -> list[int]:
    """Return for each token of a row with two words the position of its counterpart in the row with the first.

    Tokens of the second word get the last token of the first. What follows moves along, the padding too.

    Args:
        seconds: Positions of the second word's tokens, at every mention of the concept.
        length: Number L of tokens of a row.
    """
    inside = set(seconds)
    return [i - 1 for i in accumulate(int(i not in inside) for i in range(length))]
