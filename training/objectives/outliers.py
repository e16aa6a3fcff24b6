"""Terms on what is no clear caption: strings, words in another order, embeddings that are no token's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..losses import negative_guidance_target
from .hardening import HardeningTerms, Pulled
from .outlier_config import OutlierConfig
from .prompt_search import Attacked, PromptSearch

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

_PARTS = 4  # tokens that a mixture of embeddings is of
_SCALES = (0.3, 3.3)  # how far from the vocabulary's mean, in its own units
_LEFT_OUT = 0.1  # share of the words of a retain prompt in another order

Word = tuple[int, ...]  # its tokens


@dataclass(frozen=True)
class Vocabulary:
    """The words that decide what a text says in the concept's place, and those that strings are made of.

    Args:
        others: Words that say something else.
        named: Words of the concept.
        name: Its name.
        anchor: Its anchor.
        captions: The words of each retain prompt.
        known: Share of a text's tokens that must be of these, or of ``others``, for it to be clear.
    """

    others: tuple[Word, ...]
    named: tuple[Word, ...]
    name: Word
    anchor: Word
    captions: tuple[tuple[Word, ...], ...]
    known: float = 0.0

    @classmethod
    def read(cls, teacher: Backbone, settings: OutlierConfig, concept: Concept, retained: Sequence[str]) -> Vocabulary:
        """Tokenize the words of a concept, of what is beside it, and of the retain prompts.

        Raises:
            ValueError: Several concepts in one, no anchor, one that does not say something else, no retain prompts for
                terms that take their words, or no room for the tokens of strings under search.
        """
        if concept.parts or not concept.anchor:
            raise ValueError(
                f"expected one concept with an anchor for hardening.doubt, found {concept.name!r} "
                f"{'of several parts' if concept.parts else 'without one'}: give an anchor, train concepts one by one, "
                "or leave its weights at 0"
            )
        takers = {"strings", "shuffled", *(["searched"] if settings.known > 0 else [])}
        wanted = sorted(takers & set(settings.batches()))
        if wanted and not retained:
            raise ValueError(f"expected retain prompts, whose words {' and '.join(wanted)} take, found none")
        if settings.others and concept.anchor not in settings.others:
            raise ValueError(
                f"expected the anchor {concept.anchor!r} among outliers.others, for it says something else, found "
                f"{settings.others}: add it"
            )
        room = teacher.max_length - 2
        if settings.searches and settings.searched_tokens > room:
            raise ValueError(
                f"expected outliers.searched_tokens of at most {room}, as many as a prompt has, found "
                f"{settings.searched_tokens}"
            )
        known: dict[str, Word] = {}

        def word(text: str) -> Word:
            if text not in known:
                known[text] = tuple(teacher.tokenizer(text, add_special_tokens=False).input_ids)
            return known[text]

        captions = tuple(tuple(map(word, prompt.replace(",", " , ").split())) for prompt in retained)
        others, named = (tuple(map(word, words)) for words in (settings.others, concept.words()))
        return cls(others, named, word(concept.name), word(concept.anchor), captions, settings.known)

    @cached_property
    def lexicon(self) -> tuple[Word, ...]:
        """Every word of the retain prompts, in their order."""
        return tuple(dict.fromkeys(word for caption in self.captions for word in caption))

    @cached_property
    def _heard(self) -> frozenset[int]:
        return frozenset(token for word in (*self.lexicon, *self.others) for token in word)

    @cached_property
    def _telling(self) -> frozenset[Word]:
        return frozenset(self.others) | frozenset(self.named)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._telling))

    def words(self, row: Sequence[int]) -> list[Word]:
        """Return a row of tokens as words: those that tell what is said in the concept's place, else single tokens."""
        found: list[Word] = []
        while (at := sum(map(len, found))) < len(row):
            sizes = range(min(self._longest, len(row) - at), 1, -1)
            found.append(next((w for k in sizes if (w := tuple(row[at : at + k])) in self._telling), (row[at],)))
        return found

    def clear(self, row: Sequence[int]) -> bool:
        """Return whether a row of known tokens says exactly one other thing, however often, and not the concept."""
        words = set(self.words(row))
        known = sum(token in self._heard for token in row) >= self.known * len(row)
        return known and len(words & set(self.others)) == 1 and not words & set(self.named)

    def saying(self, row: Sequence[int], word: Word) -> list[Word]:
        """Return the words of a row with every telling one replaced by ``word``, which stands in front if none is."""
        words = self.words(row)
        if not self._telling & set(words):
            return [word, *words]
        return [word if one in self._telling else one for one in words]


@dataclass(frozen=True)
class OutlierTerms:
    """Rows of this process for the terms that ``OutlierConfig`` describes.

    Args:
        settings: Weights and batches.
        hardening: Prompts with the concept, their targets, and who takes which rows.
        vocabulary: The words.
        search: Strings under search; None where no term wants them.
    """

    settings: OutlierConfig
    hardening: HardeningTerms
    vocabulary: Vocabulary
    search: PromptSearch | None = field(default=None)

    @classmethod
    def of(cls, hardening: HardeningTerms, vocabulary: Vocabulary) -> OutlierTerms:
        """Open the terms that the settings of ``hardening`` ask for."""
        settings, teacher = hardening.settings.doubt, hardening.teacher
        search = PromptSearch(settings, teacher, hardening.ordinary) if settings.searches else None
        return cls(settings, hardening, vocabulary, search)

    def __call__(self, generator: Generator, attacked: Attacked | None) -> list[Pulled]:
        """Return this iteration's rows.

        Args:
            generator: Draws for all processes.
            attacked: The loss of strings under search; None leaves these where they are, and without a term.
        """
        sizes, found = self.settings.batches(), []
        if "strings" in sizes:
            found.append(self._judged("strings", self._strings(sizes["strings"], generator)))
        if "shuffled" in sizes:
            ids = self._shuffled(sizes["shuffled"], generator)
            found.append(self._pulled("shuffled", ids, self._frozen(ids)))
        if "strangers" in sizes:
            found.append(self._strangers(sizes["strangers"], generator))
        if "inserted" in sizes:
            found.append(self._inserted(sizes["inserted"], generator))
        if self.settings.empty_weight > 0:
            ids = self._placed([()])
            found.append(self._pulled("empty", ids, self._frozen(ids)))
        if self.search is not None and attacked is not None:
            found.append(self._judged("searched", self.search.advance(generator, attacked, self.hardening.shard)))
        return found

    def _judged(self, name: str, ids: Tensor) -> Pulled:
        """Pull what is clear to its own frozen conditioning, and all else to one that says the anchor."""
        v = self.vocabulary
        rows = [row[1 : row.index(self._eos, 1)] for row in ids.tolist()]
        clear = torch.tensor([v.clear(row) for row in rows], device=ids.device)
        anchored = self._frozen(self._placed([v.saying(row, v.anchor) for row in rows]))
        eta = self.hardening.settings.eta
        if eta and len(v.anchor) == len(v.name):
            named = self._frozen(self._placed([v.saying(row, v.name) for row in rows]))
            anchored = negative_guidance_target(anchored, named, eta)
        return self._pulled(name, ids, torch.where(clear[:, None, None], self._frozen(ids), anchored))

    def _pulled(self, name: str, ids: Tensor, target: Tensor) -> Pulled:
        weight = getattr(self.settings, f"{name}_weight")
        total = self.settings.batches().get(name, self.hardening.shard.count)  # the empty prompt once in each process
        return Pulled(name, weight, total, self._teacher.embed(ids).detach(), ids, target)

    @property
    def _teacher(self) -> Backbone:
        return self.hardening.teacher

    @property
    def _eos(self) -> int:
        return int(self._teacher.tokenizer.eos_token_id)

    @cached_property
    def _known(self) -> Tensor:
        """Embeddings (V, D) of all tokens but the special ones."""
        return self._teacher.embed(self.hardening.ordinary).detach()

    @torch.no_grad()
    def _frozen(self, ids: Tensor) -> Tensor:
        return self._teacher.encode(self._teacher.embed(ids), ids)

    def _strings(self, n: int, generator: Generator) -> Tensor:
        """Return ids (B, L) of this process's part of n strings of words and tokens."""
        s, words, ordinary = self.settings, self.vocabulary.lexicon, self.hardening.ordinary
        counts = torch.randint(1, s.longest + 1, (n,), generator=generator).tolist()
        of_words = torch.randint(len(words), (n, s.longest), generator=generator).tolist()
        of_tokens = ordinary[torch.randint(len(ordinary), (n, s.longest), generator=generator)].tolist()
        rare = torch.rand(n, s.longest, generator=generator) < s.vocabulary
        rare &= torch.rand(n, 1, generator=generator) < 0.5
        rows = [
            [(token,) if alone else words[word] for word, token, alone in zip(w[:k], t[:k], r[:k], strict=True)]
            for k, w, t, r in zip(counts, of_words, of_tokens, rare.tolist(), strict=True)
        ]
        return self._placed(rows[self.hardening.shard.part(n)])

    def _shuffled(self, n: int, generator: Generator) -> Tensor:
        """Return ids (B, L) of this process's part of n retain prompts, their words in any order, some left out."""
        kept, others = [], set(self.vocabulary.others)
        for i in torch.randint(len(self.vocabulary.captions), (n,), generator=generator).tolist():
            words = self.vocabulary.captions[i]
            share = torch.rand(len(words), generator=generator).tolist()
            order = torch.randperm(len(words), generator=generator).tolist()
            kept.append([words[j] for j in order if words[j] in others or share[j] >= _LEFT_OUT])
        return self._placed(kept[self.hardening.shard.part(n)])

    def _placed(self, rows: Sequence[Sequence[Word]]) -> Tensor:
        """Return ids (B, L) of rows of words; what does not fit is cut off."""
        empty: list[int] = self._teacher.tokenize([""])[0].tolist()
        begin, pad, room = empty[0], empty[-1], len(empty) - 2
        cut = [[token for word in words for token in word][:room] for words in rows]
        whole = [[begin, *tokens, self._eos, *[pad] * (room - len(tokens))] for tokens in cut]
        return torch.tensor(whole, device=self._teacher.device).reshape(-1, len(empty))

    def _strangers(self, n: int, generator: Generator) -> Pulled:
        """Return prompts with an embedding in the concept's place that is no token's, and the targets they had."""
        h = self.hardening
        embeds = off_manifold_embeddings(self._known, n, generator)[h.shard.part(n)]
        index, rows = h.filled(n, embeds[:, None], generator)
        return Pulled("strangers", self.settings.strangers_weight, n, *rows, h.targets[index])

    def _inserted(self, n: int, generator: Generator) -> Pulled:
        """Return prompts with the concept and embeddings that are no token's, and the targets of these prompts."""
        h = self.hardening
        k = int(torch.randint(1, self.settings.inserted_tokens + 1, (1,), generator=generator))
        embeds = off_manifold_embeddings(self._known, n * k, generator).view(n, k, -1)[h.shard.part(n)]
        index, rows = h.put_anywhere(n, embeds, generator)
        return Pulled("inserted", self.settings.inserted_weight, n, *rows, h.targets[index])

    def state(self) -> dict[str, Tensor]:
        """Return where the strings under search are."""
        return {} if self.search is None else self.search.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        if self.search is not None:
            self.search.load_state(state)


def off_manifold_embeddings(vocabulary: Tensor, n: int, generator: Generator) -> Tensor:
    """Return embeddings (n, D) that are no token's: half are mixtures of a few tokens, half noise, nearer or farther.

    Args:
        vocabulary: Embeddings (V, D) of the tokens.
        n: How many.
        generator: On the CPU.
    """
    mean, spread = vocabulary.mean(0), vocabulary.std(0)
    rows = torch.randint(len(vocabulary), (n, _PARTS), generator=generator).to(vocabulary.device)
    # Squares of normal variables, normalised: Dirichlet's distribution of 1/2 each, mostly one or two of them.
    shares = torch.randn(n, _PARTS, generator=generator).square()
    shares = (shares / shares.sum(1, keepdim=True)).to(vocabulary)
    scale = (_SCALES[0] + (_SCALES[1] - _SCALES[0]) * torch.rand(n, 1, generator=generator)).to(vocabulary)
    noise = torch.randn(n, vocabulary.shape[1], generator=generator).to(vocabulary) * spread
    mixed = (vocabulary[rows] * shares[..., None]).sum(1) - mean
    mixture = (torch.rand(n, 1, generator=generator) < 0.5).to(vocabulary.device)
    return mean + torch.where(mixture, scale * mixed + 0.3 * noise, scale * noise)
