"""Terms on any text, which need no list of words: two words in one place, random tokens around, negative prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..prompts.concept_words import anchor_prompts, in_place_of
from ..prompts.encoded import conditionings
from ..prompts.fitting_words import fitting_words, words_of
from ..prompts.layout import prompt_lengths
from ..prompts.vocabulary_words import whole_words
from .inverted_pool import InvertedPool
from .language_config import LanguageConfig
from .prompt_augmentation import ConceptPrompts
from .terms import Iteration, LossTerm, TermRows

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class LanguageRows:
    """The part that all terms on any text share: settings, texts, and the encoded prompts.

    Args:
        config: Weights and batch sizes.
        prompts: Prompts with the concept, with their target conditionings and the share of this process.
        concept: Concept to erase.
        texts: Texts of the prompts with the concept.
        retained: Retain prompts.
    """

    config: LanguageConfig
    prompts: ConceptPrompts
    concept: Concept
    texts: tuple[str, ...]
    retained: tuple[str, ...]

    @property
    def teacher(self) -> Backbone:
        """The frozen base."""
        return self.prompts.teacher

    @property
    def shard(self) -> Shard:
        """Share of this process."""
        return self.prompts.shard

    @torch.no_grad()
    def frozen(self, ids: Tensor) -> Tensor:
        """Return the base's conditionings (B, L, D) of rows of ids (B, L)."""
        return self.teacher.encode(self.teacher.embed(ids), ids)

    @cached_property
    def fitting(self) -> tuple[str, ...]:
        """Words that fit the concept's place, see ``fitting_words``.

        Raises:
            ValueError: If the retain prompts have no such word.
        """
        found = fitting_words(self.texts, self.concept.words(), self.retained)
        if not found:
            raise ValueError(
                f"expected retain prompts with words in the place of {self.concept.name!r} for language.pairs_weight, "
                f"found none among {len(self.retained)}, such as {self.retained[:1]}: retain prompts that differ from "
                "the concept's prompts in its word alone, or leave language.pairs_weight at 0"
            )
        return found

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """Words from anywhere: those of the retain prompts, and all whole words of the vocabulary."""
        named = {word.lower() for word in self.concept.words()}
        known = dict.fromkeys((*words_of(self.retained), *whole_words(self.teacher.tokenizer)))
        return tuple(word for word in known if word.lower() not in named)

    @cached_property
    def around(self) -> Tensor:
        """Ids (V,) of the tokens that may stand around a retain prompt: all but special ones and the concept's."""
        tokens = self.teacher.tokenizer(list(self.concept.words()), add_special_tokens=False).input_ids
        named = torch.tensor(sorted({i for row in tokens for i in row}), device=self.prompts.ordinary.device)
        return self.prompts.ordinary[~torch.isin(self.prompts.ordinary, named)]


@dataclass(frozen=True)
class Pairs:
    """Term that gives two words in the concept's place the meaning of the first one that fits there.

    Two words beside each other blend: the base draws a circle for "a ring cross". The target is the base's conditioning
    of the prompt with the one word alone, token by token. The other word's tokens get that of the one word.

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
        both, alone, first = zip(*drawn, strict=True)
        ids, wanted = (teacher.tokenize(list(texts)) for texts in (both, alone))
        rows = zip(ids.tolist(), wanted.tolist(), first, strict=True)
        index = torch.tensor([aligned(*row, eos=self.language.prompts.eos) for row in rows], device=ids.device)
        frozen = self.language.frozen(wanted)
        target = frozen.gather(1, index[..., None].expand(-1, -1, frozen.shape[2]))
        return TermRows(n, teacher.embed(ids).detach(), ids, target)

    def draw(self, n: int, generator: Generator) -> list[tuple[str, str, bool]]:
        """Draw n prompts with two words in the concept's place.

        Returns:
            Each prompt, the same with the word that counts, and True if that is the first of the two words.
        """
        made = self.language
        index = torch.randint(len(made.texts), (n,), generator=generator).tolist()
        fits = torch.randint(len(made.fitting), (n, 2), generator=generator).tolist()
        others = torch.randint(len(made.foreign), (n,), generator=generator).tolist()
        odd, before = torch.rand(n, 2, generator=generator).T.tolist()
        found = []
        for i, (one, two), other, share, side in zip(index, fits, others, odd, before, strict=True):
            pair = [made.fitting[one], made.foreign[other] if share < made.config.foreign else made.fitting[two]]
            pair = pair[::-1] if side < 0.5 else pair
            first = pair[0] in self._known
            counts = pair[0] if first else pair[1]
            found.append((self._placed(i, " ".join(pair)), self._placed(i, counts), first))
        return found

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.language.fitting)

    def _placed(self, i: int, phrase: str) -> str:
        placed = in_place_of(self.language.texts[i], self.language.concept.words(), phrase)
        assert placed is not None, "every prompt with the concept names it"
        return placed


def aligned(both: Sequence[int], alone: Sequence[int], first: bool, *, eos: int) -> list[int]:
    """Return for each token of a row with two words the position of its counterpart in the row with one of them.

    A token that the shorter row lacks gets the nearest token of the word that counts. The padding moves along.

    Args:
        both: Token ids (L) of the row with two words.
        alone: Token ids (L) of the row with the word that counts.
        first: True if that word is the first of the two.
        eos: Id of the end token.
    """
    sizes = both.index(eos, 1), alone.index(eos, 1)
    extra, shortest = max(0, sizes[0] - sizes[1]), min(sizes)
    if first:
        after = next((i for i in range(shortest) if both[i] != alone[i]), shortest)
        place, counterpart = after, after - 1
    else:
        same = next((i for i in range(shortest) if both[sizes[0] - 1 - i] != alone[sizes[1] - 1 - i]), shortest)
        place, counterpart = sizes[0] - same - extra, sizes[1] - same
    return [i if i < place else counterpart if i < place + extra else i - extra for i in range(len(both))]


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


def require_words(language: LanguageRows) -> None:
    """Refuse terms without the prompts that they need, before anything long begins.

    Raises:
        ValueError: If no retain prompt has a word in the concept's place, if the term on random tokens has no retain
            prompts, or if a prompt has no room for two words in the concept's place.
    """
    asked = language.config.batches()
    if ("pairs" in asked and not language.retained) or ("context" in asked and language.prompts.retained is None):
        raise ValueError(
            "expected retain prompts for language.pairs_weight and language.context_weight, found none: give retain "
            "prompts and a weight above 0 for them, or leave both weights at 0"
        )
    if "pairs" in asked:
        _require_room(language.teacher, language.texts, language)


def _require_room(teacher: Backbone, texts: Sequence[str], language: LanguageRows) -> None:
    longest = max(language.fitting, key=lambda word: len(teacher.tokenizer(word, add_special_tokens=False).input_ids))
    filled = (in_place_of(text, language.concept.words(), f"{longest} {longest}") or text for text in texts)
    if odd := next((text for text in filled if not teacher.fits(text)), None):
        raise ValueError(
            f"expected prompts with room for two words in the concept's place, of {teacher.max_length - 2} tokens in "
            f"all, found {odd!r}: shorten the concept's prompts, or leave language.pairs_weight at 0"
        )
