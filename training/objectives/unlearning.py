"""The loss of AdvUnlearn and of ESD on a text encoder: one training iteration, attack included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..diffusion.memory import in_pieces
from ..distributed import Shard
from ..losses import ConditioningMetric, negative_guidance_target, squared_error, weighted_sum
from ..trajectories.bank import BankBatch, TrajectoryBank, draw
from ..trajectories.resample import FreshTrajectories, sample_part
from .config import AdversaryConfig, RetainConfig, UnlearnConfig
from .hardening import HardeningTerms
from .outliers import OutlierTerms
from .placement import TokenPlacement, TokenPlacements, placement_name
from .prompt_search import Attacked

Source = TrajectoryBank | FreshTrajectories


@dataclass(frozen=True)
class Prompts:
    """Prompts with all that the frozen text encoder says about them.

    Args:
        texts: N prompts.
        ids: (N, L).
        embeds: Token embeddings (N, L, D), which no eraser changes.
        targets: Frozen conditionings (N, L, D) that the student is pulled to; None where no term wants them.
    """

    texts: tuple[str, ...]
    ids: Tensor
    embeds: Tensor
    targets: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def read(cls, teacher: Backbone, texts: Sequence[str], targets: Sequence[str] | None = None) -> Prompts:
        """Tokenize ``texts``, and encode ``targets``, one for each text, in pieces."""
        ids = teacher.tokenize(texts)
        return cls(tuple(texts), ids, teacher.embed(ids), None if targets is None else conditionings(teacher, targets))

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Token embeddings (N, L, D) and ids (N, L)."""
        return self.embeds, self.ids


@torch.no_grad()
def conditionings(teacher: Backbone, texts: Sequence[str]) -> Tensor:
    """Return the frozen conditionings (N, L, D) of prompts, read in pieces."""
    return torch.cat([teacher.condition(texts[i : i + 256]) for i in range(0, len(texts), 256)])


@dataclass(frozen=True)
class _Term:
    """One summand: rows of token embeddings, what they shall lead to, and where that is measured."""

    name: str
    weight: float
    total: int  # rows in all processes
    embeds: Tensor  # (B, L, D)
    ids: Tensor  # (B, L)
    target: Tensor  # (B, C, h, w) with points, else (B, L, D)
    points: BankBatch | None = None


@dataclass
class Objective:
    """One iteration of AdvUnlearn (Zhang et al. 2024), or without adversary of ESD (Gandikota et al. 2023).

    Every noise term of an iteration goes through the UNet in one batch, or in pieces of ``micro_batch`` with the same
    sum; every prompt goes through the student in one. Several processes share the batches that the settings ask for:
    all draw all of it from equal generators, each takes its own rows, and their losses add up to one process's.

    Args:
        teacher: The frozen base; its counter counts.
        student: Its text encoder is trained, and its UNet, which may be the teacher's, predicts.
        unlearn: Settings of the concept's terms.
        retain: Settings of the retain terms.
        adversary: The attack; None trains ESD.
        concept_prompts: Prompts with the concept; the targets are the frozen conditionings of the anchored ones, or
            beyond.
        retain_prompts: The retain set; None without retain terms.
        concept_points: Training points on the first of ``concept_prompts``.
        retain_points: Training points on the first of ``retain_prompts``; None without a noise retain term.
        metric: Compares conditionings; None without conditioning terms.
        places: Where adversarial tokens may stand in ``concept_prompts``; None without adversary.
        hardening: Terms on conditionings against stronger attacks; None without.
        doubt: Terms on what is no clear caption; None without.
        latest: Where the last attack with so many tokens ended (B, K, D), in this process, and where the last shared
            one of a place did (1, K, D), in all.
        micro_batch: Most latents that go through the UNet at once; None takes all.
        shard: Which of the rows are this process's.

    Raises:
        ValueError: A noise or hardening term with fewer rows than processes.
    """

    teacher: Backbone
    student: Backbone
    unlearn: UnlearnConfig
    retain: RetainConfig
    adversary: AdversaryConfig | None
    concept_prompts: Prompts
    retain_prompts: Prompts | None
    concept_points: Source
    retain_points: Source | None
    metric: ConditioningMetric | None
    places: TokenPlacements | None = None
    hardening: HardeningTerms | None = None
    doubt: OutlierTerms | None = None
    latest: dict[str, Tensor] = field(default_factory=dict)
    micro_batch: int | None = None
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        batches = {"unlearn": self.unlearn.batch} if self.unlearn.harden.in_noise else {}
        if self.unlearn.plain_weight > 0 and self.unlearn.plain_space == "noise":
            batches["plain"] = self.unlearn.plain_batch
        if self.retain.in_noise:
            batches["retain"] = self.retain.batch
        if self.hardening is not None:
            batches |= self.hardening.settings.batches() | self.hardening.settings.doubt.batches()
        if min(batches.values(), default=self.shard.count) < self.shard.count:
            raise ValueError(
                f"expected at least one row in every noise and hardening term for each of {self.shard.count} "
                f"processes, found {batches}: choose larger batches or launch fewer processes"
            )

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of the loss () of one iteration and of the mean of each term."""
        attacked = self.adversary is not None and iteration >= self.adversary.warmup
        adversary = self.adversary if attacked else None
        terms = self._unlearn_terms(adversary, generator) if self.unlearn.harden.in_noise else []
        terms += self._pulled_terms(generator, attacked=attacked)
        if self.unlearn.plain_weight > 0 and (attacked or self.unlearn.plain_space == "conditioning"):
            terms.append(self._plain_term(generator))
        if self.retain_points is not None and self.retain_prompts is not None:
            index, points = self._sample(self.retain_points, self.retain.batch, generator)
            rows = _rows(self.retain_prompts, points.prompt_index)
            terms.append(_Term("retain", self.retain.weight, len(index), *rows, points.pred_cond, points))
        if self.retain.in_conditioning and self.retain_prompts is not None:
            r = self.retain
            name = "retain_conditioning"
            terms.append(self._pull(name, r.conditioning_weight, self.retain_prompts, r.conditioning_batch, generator))
        return self._evaluate(terms)

    def state(self) -> dict[str, Tensor]:
        """Return where the latest attacks of all processes ended, and the UNet calls of all."""
        calls = self.shard.total(torch.tensor(self.teacher.unet_calls, device=self.teacher.device))
        ended = {k: v if k.startswith("shared.") else self.shard.gathered(v) for k, v in self.latest.items()}
        return {**ended, **(self.doubt.state() if self.doubt is not None else {}), "unet_calls": calls}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned, the calls in the main process alone."""
        self.teacher.unet_calls = int(state["unet_calls"]) if self.shard.main else 0
        if self.doubt is not None:
            self.doubt.load_state(state)
        latest = {k: v for k, v in state.items() if k.startswith(("latest.", "shared."))}
        latest = {k: v if k.startswith("shared.") else v[self.shard.part(len(v))] for k, v in latest.items()}
        self.latest = {k: v.to(self.teacher.device) for k, v in latest.items()}

    def _unlearn_terms(self, adversary: AdversaryConfig | None, generator: Generator) -> list[_Term]:
        index, points = self._sample(self.concept_points, self.unlearn.batch, generator)
        rows = _rows(self.concept_prompts, points.prompt_index)
        if adversary is not None and self.places is not None:
            place, adv = self._attack(adversary, self.places, index, points, generator=generator)
            rows = self.places.put(place, points.prompt_index, adv)
        terms = [_Term("unlearn", 1.0, len(index), *rows, self._target(points), points)]
        if self.unlearn.pull_weight > 0:
            target = _targets("pull", self.concept_prompts, points.prompt_index)
            terms.append(_Term("pull", self.unlearn.pull_weight, len(index), *rows, target))
        return terms

    def _pulled_terms(self, generator: Generator, *, attacked: bool) -> list[_Term]:
        """Return the terms beyond the paper whose rows are pulled to conditionings."""
        pulled = [] if self.hardening is None else self.hardening(generator, attacked=attacked)
        if self.doubt is not None:
            pulled += self.doubt(generator, self._searched(generator) if attacked else None)
        return [_Term(*one) for one in pulled]

    def _plain_term(self, generator: Generator) -> _Term:
        u = self.unlearn
        if u.plain_space == "conditioning":
            return self._pull("plain", u.plain_weight, self.concept_prompts, u.plain_batch, generator)
        index, points = self._sample(self.concept_points, u.plain_batch, generator)
        rows = _rows(self.concept_prompts, points.prompt_index)
        return _Term("plain", u.plain_weight, len(index), *rows, self._target(points), points)

    def _sample(
        self, source: Source, n: int, generator: Generator, index: Tensor | None = None
    ) -> tuple[Tensor, BankBatch]:
        """Return the prompts (n,) of all processes, drawn unless given, and this one's points on its part of them."""
        index = draw(len(source.prompts), n, generator) if index is None else index
        if self.shard.count == 1:
            return index, source.sample(n, generator, prompt_index=index)
        return index, sample_part(source, index, generator, self.shard.part(n))

    def _pull(self, name: str, weight: float, prompts: Prompts, n: int, generator: Generator) -> _Term:
        """Draw n prompts without replacement where there are enough, to be pulled to their targets."""
        index = torch.randperm(len(prompts.texts), generator=generator)[:n]
        own = index[self.shard.part(len(index))]
        embeds, ids = _rows(prompts, own)
        return _Term(name, weight, len(index), embeds, ids, _targets(name, prompts, own))

    def _target(self, points: BankBatch) -> Tensor:
        base = points.pred_null if self.unlearn.target == "negative_guidance" else points.pred_anchor
        if base is None:
            raise ValueError("expected points with anchor predictions, found none: open the source with anchors")
        return negative_guidance_target(base, points.pred_cond, self.unlearn.eta)

    def _attack(
        self,
        adversary: AdversaryConfig,
        places: TokenPlacements,
        index: Tensor,
        points: BankBatch,
        *,
        generator: Generator,
    ) -> tuple[TokenPlacement, Tensor]:
        """Return a place, and the adversarial tokens (B, K, D) where the attack ended.

        ``index`` (n,) are the prompts of all processes, of which ``points`` are this one's part.
        """
        place = places.draw(generator)
        own = points.prompt_index.to(places.ids.device)
        shared = adversary.shared > 0 and float(torch.rand(1, generator=generator)) < adversary.shared

        def loss(adv: Tensor) -> Tensor:
            at = points
            if adversary.points == "fresh":
                at = self._sample(self.concept_points, len(index), generator, index)[1]
            tokens = self.shard.spread(adv).expand(len(own), -1, -1) if shared else adv
            return self._errors([at], [at.pred_cond], self.student.encode(*places.put(place, own, tokens)))

        key = f"shared.{placement_name(place)}" if shared else f"latest.{places.size(place)}"
        start = self.latest.get(key) if shared or adversary.start == "latest" else None
        again = shared and start is not None and float(torch.rand(1, generator=generator)) < adversary.restart
        if start is None or again:
            start = self._random_tokens(1 if shared else len(index), places.size(place), generator, whole=shared)
        adv = adversary.attack(loss, start, generator=generator)
        if shared or adversary.start == "latest":
            self.latest[key] = adv
        return place, adv.expand(len(own), -1, -1)

    def _searched(self, generator: Generator) -> Attacked:
        """Return the loss of strings: how far the student's predictions are from the base's for the concept."""

        def loss(embeds: Tensor, ids: Tensor) -> Tensor:
            n = self.unlearn.harden.doubt.searched_batch
            points = self._sample(self.concept_points, n, generator)[1]
            return self._errors([points], [points.pred_cond], self.student.encode(embeds, ids))

        return loss

    def _random_tokens(self, n: int, k: int, generator: Generator, *, whole: bool = False) -> Tensor:
        """Return the embeddings of this process's part of n times k random tokens, or of all."""
        vocabulary = self.teacher.text_encoder.config.vocab_size
        drawn = torch.randint(vocabulary, (n, k), generator=generator)[slice(None) if whole else self.shard.part(n)]
        return self.teacher.embed(drawn.to(self.teacher.device)).detach()

    def _evaluate(self, terms: Sequence[_Term]) -> tuple[Tensor, dict[str, float]]:
        """Encode and predict all terms together, then weigh their losses."""
        sizes = [len(term.ids) for term in terms]
        encoded = self.student.encode(torch.cat([t.embeds for t in terms]), torch.cat([t.ids for t in terms]))
        losses: dict[str, tuple[float, Tensor]] = {}
        seen: list[tuple[_Term, BankBatch, Tensor]] = []
        for term, cond in zip(terms, torch.split(encoded, sizes), strict=True):
            if term.points is not None:
                seen.append((term, term.points, cond))
            elif self.metric is not None:
                losses[term.name] = (term.weight, self.metric(cond, term.target))
        if seen:
            points, targets = [p for _, p, _ in seen], [term.target for term, _, _ in seen]
            errors = self._errors(points, targets, torch.cat([cond for _, _, cond in seen]))
            for (term, _, _), error in zip(seen, torch.split(errors, [len(p.t) for p in points]), strict=True):
                losses[term.name] = (term.weight, error)
        return weighted_sum(losses, {t.name: t.total for t in terms} if self.shard.count > 1 else None)

    def _errors(self, points: Sequence[BankBatch], targets: Sequence[Tensor], cond: Tensor) -> Tensor:
        """Return the squared error (B,) of the prediction at each of the points with its conditioning (B, L, D)."""
        latents, t, target = (
            torch.cat([p.latents for p in points]),
            torch.cat([p.t for p in points]),
            torch.cat([*targets]),
        )
        self.teacher.unet_calls += 2 * len(latents)  # there and back

        def error(rows: slice, part: Tensor) -> Tensor:
            return squared_error(self.student.predict(latents[rows], t[rows], part), target[rows])

        return error(slice(None), cond) if self.micro_batch is None else in_pieces(error, cond, self.micro_batch)


def _rows(prompts: Prompts, index: Tensor) -> tuple[Tensor, Tensor]:
    at = index.to(prompts.ids.device)
    return prompts.embeds[at], prompts.ids[at]


def _targets(name: str, prompts: Prompts, index: Tensor) -> Tensor:
    if prompts.targets is None:
        raise ValueError(f"expected target conditionings for the term {name!r}, found none")
    return prompts.targets[index.to(prompts.targets.device)]
