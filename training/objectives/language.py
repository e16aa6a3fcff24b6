"""Terms on any text, which need no list of words: random tokens around, negative prompts, and the list of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..prompts.concept_words import anchor_prompts
from ..prompts.encoded import conditionings
from ..prompts.layout import prompt_lengths
from .inverted_pool import InvertedPool
from .language_rows import LanguageRows, require_words
from .terms import Iteration, LossTerm, TermRows
from .word_pairs import Pairs


@dataclass(frozen=True)
class KeptContext:
    """Term that keeps the base's conditionings of retain prompts at their own tokens, among random tokens around them.

    The base's conditionings are those of the whole row, because a token's conditioning depends on its position.

    Args:
        language: Settings, texts and encoded prompts.
    """

    name: ClassVar[str] = "context"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    language: LanguageRows

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.language.config.context_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.language.config.context_batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration; prompts without room for a token get fewer or none."""
        made, n = self.language, self.least
        own = made.shard.part(n)
        ids, starts, sizes = self.draw(n, iteration.generator)
        ids, starts, sizes = ids[own], starts[own, None], sizes[own, None]
        at = torch.arange(ids.shape[1], device=ids.device)
        compared = (at >= starts) & (at < starts + sizes)
        if made.config.context_end:
            compared |= at > prompt_lengths(ids, made.prompts.eos)[:, None]
        return TermRows(n, made.teacher.embed(ids).detach(), ids, made.frozen(ids), compared=compared)

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n rows of all processes: ids (n, L), and first position (n,) and length (n,) of the prompts in them."""
        made, most = self.language, self.language.config.context_tokens
        _, ids = made.prompts.retain_prompts
        index = torch.randint(len(ids), (n,), generator=generator)
        tokens = made.around[torch.randint(len(made.around), (n, most), generator=generator).to(made.around.device)]
        counts = torch.randint(1, most + 1, (n,), generator=generator).tolist()
        shares = torch.rand(n, generator=generator).tolist()
        extras = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        made_rows = [
            self._surrounded(row, extra, share)
            for row, extra, share in zip(ids[index.to(ids.device)].tolist(), extras, shares, strict=True)
        ]
        rows, starts, sizes = (torch.tensor(one, device=ids.device) for one in zip(*made_rows, strict=True))
        return rows, starts, sizes

    def _surrounded(self, row: list[int], extra: list[int], share: float) -> tuple[list[int], int, int]:
        """Return a row with tokens around its prompt, a share of them before it, and the prompt's place and length."""
        size = row.index(self.language.prompts.eos, 1) - 1
        extra = extra[: len(row) - 2 - size]
        first = int(share * (len(extra) + 1))
        begin, prompt, end = row[:1], row[1 : 1 + size], row[1 + size : len(row) - len(extra)]
        return [*begin, *extra[:first], *prompt, *extra[first:], *end], 1 + first, size


@dataclass(frozen=True)
class NegativePrompts:
    """Term that keeps the concept's conditionings from lying beyond the anchor, so that negative prompts stay negative.

    Classifier-free guidance leads away from the negative prompt. With the base's conditionings c of the concept and a
    of the anchor, the student's conditioning s lies beyond the anchor by ``t = <s - a, a - c> / <a - c, a - c>`` if
    that is above 0. The inner product is that of the UNet's cross-attention over all positions. The loss is the squared
    length of ``max(t, 0) (a - c)``.

    Args:
        language: Settings, texts and encoded prompts.
        ids: Token ids (N, L) of the concept's words, and after them those of its prompts.
        named: Number of the concept's words.
        concept: The base's conditionings (N, L, D).
        anchored: The base's conditionings (N, L, D) of the same texts with the anchor.
    """

    name: ClassVar[str] = "negative"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    language: LanguageRows
    ids: Tensor
    named: int
    concept: Tensor
    anchored: Tensor

    @classmethod
    def of(cls, language: LanguageRows) -> NegativePrompts:
        """Encode the concept's words and prompts, and the same texts with the anchor."""
        words, teacher = language.concept.words(), language.teacher
        texts = (*words, *language.texts)
        both = (conditionings(teacher, found) for found in (texts, anchor_prompts(texts, language.concept)))
        return cls(language, teacher.tokenize(texts), len(words), *both)

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.language.config.negative_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.language.config.negative_batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration, each with its own conditioning pulled back as the target."""
        made, n, generator = self.language, self.least, iteration.generator
        words = torch.randint(self.named, (n,), generator=generator)
        prompts = self.named + torch.randint(len(made.texts), (n,), generator=generator)
        index = torch.where(torch.arange(n) < (n + 1) // 2, words, prompts)[made.shard.part(n)].to(self.ids.device)
        ids = self.ids[index]
        embeds = made.teacher.embed(ids).detach()
        with torch.no_grad():
            student = made.prompts.student.encode(embeds, ids)
            target = pulled_back(student, self.concept[index], self.anchored[index], made.prompts.metric.gram)
        return TermRows(n, embeds, ids, target)


def pulled_back(student: Tensor, concept: Tensor, anchored: Tensor, gram: Tensor) -> Tensor:
    """Return the conditionings without what lies beyond the anchor, see ``NegativePrompts``.

    The gradient of the squared distance to this target is that of the squared length of ``max(t, 0) (a - c)``.

    Args:
        student: Conditionings (B, L, D) of the student.
        concept: Conditionings (B, L, D) of the base for prompts with the concept.
        anchored: Conditionings (B, L, D) of the base for the anchored prompts.
        gram: Matrix G (D, D) of the inner product.
    """
    away = anchored - concept
    seen = away @ gram
    length = (seen * away).sum((1, 2)).clamp(min=torch.finfo(away.dtype).tiny)
    beyond = ((student - anchored) * seen).sum((1, 2)) / length
    return student - beyond.clamp(min=0)[:, None, None] * away


@dataclass(frozen=True)
class EmptyPrompt:
    """Term that keeps the base's conditioning of the empty prompt, one row in each process.

    Args:
        language: Settings and encoded prompts.
    """

    name: ClassVar[str] = "empty_prompt"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    language: LanguageRows

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.language.config.empty_weight

    @property
    def least(self) -> int:
        """Number of processes."""
        return self.language.shard.count

    def rows(self, iteration: Iteration) -> TermRows:
        """Return the row of the empty prompt."""
        ids = self.language.teacher.tokenize([""])
        return TermRows(self.least, self.language.teacher.embed(ids).detach(), ids, self.language.frozen(ids))


def language_terms(language: LanguageRows) -> list[LossTerm]:
    """Return the terms that the settings ask for, in the order in which they draw.

    Args:
        language: Settings, texts and encoded prompts.

    Raises:
        ValueError: If a term lacks the prompts that it needs; see ``require_words``.
    """
    config, asked, found = language.config, language.config.batches(), list[LossTerm]()
    if not asked:
        return found
    require_words(language)
    if "pairs" in asked:
        found.append(Pairs(language))
    if "pool" in asked:
        found.append(InvertedPool(config, language.prompts))
    if "context" in asked:
        found.append(KeptContext(language))
    if "negative" in asked:
        found.append(NegativePrompts.of(language))
    return [*found, EmptyPrompt(language)] if config.empty_weight > 0 else found
