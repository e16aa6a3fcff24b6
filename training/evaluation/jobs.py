"""The parts of an evaluation: one process makes each part from its own inputs and writes it to a file."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..attacks.transfer import OnBase, Transfer
from ..diffusion.backbone import Backbone
from ..diffusion.sampling import SamplingConfig, draw, draw_candidates, packed, unpacked
from ..diffusion.swapping import scheduled
from ..diffusion.target import TargetModel
from ..protocols import Attack
from ..types import AttackFacts, AttackResult, Candidate, Case, DraftScores, JudgedPicture, Verdict
from .cache import Cache
from .config import EvaluationConfig
from .defence import DefendedPipeline
from .judged_pictures import PictureArchive
from .judging import PictureJudge, judge_candidates
from .plan import Plan, PromptSet, SetProbe, described
from .suite import SUITE_KEY, SUITE_VERSION


@dataclass
class Jobs:
    """Pictures and attacks of an evaluation, part by part; a finished part is read from its file.

    Args:
        defended: Pipeline and defence under evaluation.
        plan: Prompts, detector, attacks and metrics of the evaluation.
        config: Settings of the run, with the sampling that the plan asks for.
        cache: Finished parts that depend on the defence.
        base_cache: Finished parts that depend on the base alone; evaluations of several encoders may share them.
        base_record: Identity of the base, for the results.
    """

    defended: DefendedPipeline
    plan: Plan
    config: EvaluationConfig
    cache: Cache
    base_cache: Cache
    base_record: Mapping[str, Any]
    _unattacked: dict[tuple[str, int], list[JudgedPicture]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Read before a defence is attached.
        self.base = Backbone.from_pipeline(self.defended.pipe)

    @property
    def first(self) -> PromptSet:
        """The prompts that are attacked."""
        return self.plan.plain[0]

    @property
    def sampling(self) -> SamplingConfig:
        """Sampling settings of all pictures."""
        return self.config.sampling

    @property
    def few(self) -> slice:
        """The slice of cases on which searches run again; empty if the checks are switched off."""
        return slice(0, min(self.config.checks, self.config.chunk))

    def chunks(self, prompts: PromptSet) -> list[slice]:
        """Return one slice of the cases for each part of a prompt set."""
        n, size = len(prompts.cases), self.config.chunk
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def pictures(self, prompts: PromptSet, i: int, *, base: bool = False) -> Tensor:
        """Return pictures (N, 3, H, W) in [0, 1] of part ``i`` of a prompt set, with the defence or by the base."""
        part = prompts.part(self.chunks(prompts)[i])
        bare = base or self.defended.defence is None
        cache, scope = (self.base_cache, self.defended.bare()) if bare else (self.cache, self.defended)

        def compute() -> Tensor:
            with scope.attached(), scheduled(self.defended.pipe, part.scheduler):
                texts, seeds = [c.prompt for c in part.cases], [c.seed for c in part.cases]
                pushed, sampling = [c.negative for c in part.cases], part.sampling or self.sampling
                return packed(draw(self.defended.pipe, texts, seeds, sampling, negative=pushed))

        return unpacked(cache.tensor(name_of("base" if bare else "drawn", prompts.name, i), about(part), compute))

    def all_pictures(self, prompts: PromptSet, *, base: bool = False) -> Tensor:
        """Return pictures (N, 3, H, W) in [0, 1] of a whole prompt set; see ``pictures``."""
        return torch.cat([self.pictures(prompts, i, base=base) for i, _ in enumerate(self.chunks(prompts))])

    def unattacked(self, prompts: PromptSet, i: int) -> list[JudgedPicture]:
        """Return the judged unattacked picture of each case of a part."""
        key = (prompts.name, i)
        if key not in self._unattacked:
            part, name = prompts.part(self.chunks(prompts)[i]), name_of("unattacked", prompts.name, i)

            def compute() -> dict[str, Any]:
                pictures = self.pictures(prompts, i)
                plain = [Candidate("text", case.prompt, 0) for case in part.cases]
                with self.judging(name) as judge, self.defended.attached():
                    found = judge.judge(part.cases, plain, [0] * len(plain), pictures)
                return {"pictures": [asdict(one) for one in found]}

            records = self.cache.get(name, about(part), compute)["pictures"]
            self._unattacked[key] = [JudgedPicture.from_record(record) for record in records]
        return self._unattacked[key]

    def all_unattacked(self, prompts: PromptSet) -> list[JudgedPicture]:
        """Return the judged unattacked picture of each case of a prompt set."""
        return [one for i, _ in enumerate(self.chunks(prompts)) for one in self.unattacked(prompts, i)]

    @contextmanager
    def judging(self, name: str) -> Iterator[PictureJudge]:
        """Yield the judge of one part, whose pictures go into an archive of the part's name."""
        pipe = self.defended.pipe  # a defence may exchange its tokenizer
        with PictureArchive(self.cache.folder / f"{name}.zip") as archive:
            yield PictureJudge(self.plan.detector, archive, lambda text: token_ids(pipe.tokenizer, text))

    def reference_latents(self, i: int) -> Tensor:
        """Return clean latents (N, C, h, w) of the pictures that attacks on one part aim at, drawn by the base."""
        part = self.first.part(self.chunks(self.first)[i])

        def compute() -> Tensor:
            texts, seeds = [c.wanted for c in part.cases], [c.seed for c in part.cases]
            return draw(self.defended.pipe, texts, seeds, self.sampling, latents=True)

        return self.base_cache.tensor(name_of("targets", self.first.name, i), about(part), compute)

    def cases(self, i: int | None) -> tuple[list[Case], list[JudgedPicture]]:
        """Return the cases of one part, or all, with reference latents, and their judged unattacked pictures."""
        parts = range(len(self.chunks(self.first))) if i is None else [i]
        cases = [case for part in parts for case in self.first.cases[self.chunks(self.first)[part]]]
        latents = torch.cat([self.reference_latents(part) for part in parts])
        plain = [one for part in parts for one in self.unattacked(self.first, part)]
        return [replace(case, reference_latent=one) for case, one in zip(cases, latents, strict=True)], plain

    def attacked(self, label: str, i: int | None) -> dict[str, Any]:
        """Return the verdicts of an attack on one part, or on all cases together, and its UNet calls."""
        attack = self.plan.attacks[label]
        part = self.first if i is None else self.first.part(self.chunks(self.first)[i])
        inputs = {**about(part), "attack": described(label, attack)}

        def compute() -> dict[str, Any]:
            cases, plain = self.cases(i)
            ready = self.searched(label, attack, i) if isinstance(attack, OnBase) and i is not None else attack
            with self.judging(attack_name(label, i)) as judge, self.defended.attached():
                found = self.found(ready, cases, plain, judge, seed=self.config.seed)
                verdicts, calls = self.judge(found, cases, plain, judge)
            return {"verdicts": [asdict(verdict) for verdict in verdicts], "calls": calls}

        return self.cache.get(attack_name(label, i), inputs, compute)

    def searched(self, label: str, attack: OnBase, i: int) -> Transfer:
        """Return an attack that replays the candidates found on the base for one part; the search runs once."""
        part = self.first.part(self.chunks(self.first)[i])

        def compute() -> dict[str, Any]:
            base = TargetModel.from_pipeline(self.defended.pipe, base=self.base)
            cases, _ = self.cases(i)
            return {"recorded": [asdict(one) for one in attack.search(base, cases, seed=self.config.seed).recorded]}

        inputs = {**about(part), "attack": described(label, attack)}
        found = self.base_cache.get(name_of("found", label, i), inputs, compute)
        return Transfer.from_records(attack.source, found["recorded"])

    def judge(
        self,
        found: Sequence[AttackResult],
        cases: Sequence[Case],
        unattacked: Sequence[JudgedPicture],
        judge: PictureJudge,
    ) -> tuple[list[Verdict], int]:
        """Judge candidates with the defence attached; return verdicts and UNet calls, including those of the search."""
        results = [replace(r, unet_calls=r.unet_calls + r.queries * self.sampling.calls_per_picture) for r in found]
        verdicts, drawing = judge_candidates(
            cases,
            results,
            [one.hit for one in unattacked],
            draw=self._draw_candidates,
            judge=judge,
            cost=self.sampling.calls_for,
            read_as=partial(self.defended.read_as, self.defended.pipe),
        )
        whole = [replace(verdict, unattacked=one) for verdict, one in zip(verdicts, unattacked, strict=True)]
        return whole, sum(result.unet_calls for result in results) + drawing

    def found(
        self,
        attack: Attack,
        cases: Sequence[Case],
        unattacked: Sequence[JudgedPicture],
        judge: PictureJudge,
        *,
        seed: int,
    ) -> list[AttackResult]:
        """Run an attack with the defence attached and return its result for every case.

        As in UnlearnDiffAtk, a prompt that succeeds by itself is not attacked.
        """
        joint = AttackFacts.of(attack).joint
        settled = [one.hit and not joint for one in unattacked]
        attacked = [case for case, done in zip(cases, settled, strict=True) if not done]
        won = [case.index for case, one in zip(cases, unattacked, strict=True) if one.hit]
        ran = iter(attack.run(self.target(attack, judge, won), attacked, seed=seed) if attacked else [])
        return [_unattacked(case) if done else next(ran) for case, done in zip(cases, settled, strict=True)]

    def target(
        self, attack: Attack | None = None, judge: PictureJudge | None = None, settled: Sequence[int] = ()
    ) -> TargetModel:
        """Return the attacked model with the defence attached; it answers what the attack declares.

        Args:
            attack: Attack that uses the model.
            judge: Judge that answers the queries and scores the drafts.
            settled: Indices of cases that succeed without an attack.
        """
        uses = () if attack is None or judge is None else AttackFacts.of(attack).uses
        return TargetModel.from_pipeline(
            self.defended.pipe,
            base=self.base,
            query=partial(self._margins, judge) if judge and "queries" in uses else None,
            draft=partial(self._drafted, judge) if judge and "drafts" in uses else None,
            settled=settled,
            artifact=self.defended.artifact,
        )

    def _margins(self, judge: PictureJudge, texts: Sequence[str], cases: Sequence[Case]) -> Tensor:
        rows, places = self._different(texts, cases)
        drawn = draw(self.defended.pipe, [texts[i] for i in rows], [cases[i].seed for i in rows], self.sampling)
        return judge.query(cases, texts, drawn[places])

    def _drafted(self, judge: PictureJudge, texts: Sequence[str], cases: Sequence[Case], steps: int) -> DraftScores:
        """Score drafts, which never have more steps than whole pictures; no more than a batch of them is kept."""
        sampling = replace(self.sampling, steps=min(steps, self.sampling.steps))
        rows, places = self._different(texts, cases, apart=True)
        found = []
        for start in range(0, len(rows), sampling.batch):
            part = rows[start : start + sampling.batch]
            about = [cases[i] for i in part]
            drawn = draw(self.defended.pipe, [texts[i] for i in part], [case.seed for case in about], sampling)
            found.append(judge.draft(about, drawn))
        first = set(rows)
        calls = tuple(sampling.calls_per_picture if i in first else 0 for i in range(len(texts)))
        return DraftScores(torch.cat(found)[places], calls)

    def _different(
        self, texts: Sequence[str], cases: Sequence[Case], *, apart: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return the places of texts that the pipeline reads as different, and the row of each text among them.

        With ``apart``, a text that two cases share counts for each of them.
        """
        read = [
            (self.defended.read_as(self.defended.pipe, text), case.seed, case.index if apart else None)
            for text, case in zip(texts, cases, strict=True)
        ]
        first: dict[Hashable, int] = {}
        for i, key in enumerate(read):
            first.setdefault(key, i)
        rows = {key: row for row, key in enumerate(first)}
        return list(first.values()), [rows[key] for key in read]

    def _draw_candidates(self, cases: Sequence[Case], candidates: Sequence[Candidate]) -> Tensor:
        return draw_candidates(self.defended.pipe, cases, candidates, self.sampling)

    def probe(self, name: str) -> dict[str, Any]:
        """Return the results of a probe as JSON values."""
        probe = self.plan.probes[name]

        def compute() -> dict[str, Any]:
            if isinstance(probe, SetProbe):
                results = probe.compare(self.all_pictures)
            else:
                results = probe(self.defended.pipe, self.defended.attached)
            device = {"device": self.defended.device, SUITE_KEY: SUITE_VERSION}
            return {"results": [asdict(replace(r, settings={**r.settings, **device})) for r in results]}

        return self.cache.get(slug(name), {"probe": dict(probe.described())}, compute)


def attack_name(label: str, i: int | None) -> str:
    """Return the name of the part that holds an attack on some cases, or on all."""
    return name_of("attack", label, 0 if i is None else i)


def name_of(kind: str, what: str, i: int) -> str:
    """Return the name of a part's file below the cache's folder."""
    return f"chunks/{kind}-{slug(what)}-{i}"


def about(prompts: PromptSet) -> dict[str, Any]:
    """Return the inputs that identify a part made from these prompts."""
    return {"prompts": prompts.sha256}


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, cut off as in the pipeline, without padding."""
    ids: list[int] = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    return ids


def _unattacked(case: Case) -> AttackResult:
    return AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0)


def slug(name: str) -> str:
    """Return a name in characters that a file name can hold."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)
