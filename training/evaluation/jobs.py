"""The parts of an evaluation: each a finished file, each made by one process, each from its own inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..attacks.transfer import OnBase, Transfer
from ..diffusion.backbone import Backbone
from ..diffusion.sampling import SamplingConfig, draw, draw_candidates, packed, unpacked
from ..diffusion.target import TargetModel
from ..metrics.rates import detect
from ..protocols import Attack
from ..provenance import describe
from ..types import AttackResult, Candidate, Case, Verdict
from .cache import Cache
from .defence import DefendedPipeline
from .judging import judge_candidates
from .plan import Plan, PromptSet
from .sanity.checks import gradients_alive, halved, seeds_differ


@dataclass(frozen=True)
class Job:
    """What one process makes in one go.

    Args:
        title: For the progress bar.
        make: Makes it, or finds it finished.
        place: Decides which process.
    """

    title: str
    make: Callable[[], object]
    place: int


@dataclass
class Jobs:
    """Everything that is drawn and attacked, part by part; asking again for a part reads its file.

    Args:
        subject: Who is evaluated.
        plan: What is asked.
        sampling: How pictures are drawn.
        seed: Of the attacks.
        cells: Finished parts that depend on the subject.
        source: Finished parts that depend on the base alone, which evaluations of several encoders may share.
        base_record: What tells the base apart, for the results.
        chunk: Cases of one part.
        checks: Cases on which searches are run again; 0 for none.
    """

    subject: DefendedPipeline
    plan: Plan
    sampling: SamplingConfig
    seed: int
    cells: Cache
    source: Cache
    base_record: Mapping[str, Any]
    chunk: int
    checks: int
    _flags: dict[tuple[str, int], list[bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Taken before anything is attached.
        self.base = Backbone.from_pipeline(self.subject.pipe)

    @property
    def first(self) -> PromptSet:
        """The prompts that are attacked."""
        return self.plan.plain[0]

    def chunks(self, prompts: PromptSet) -> list[slice]:
        """Return the parts of a prompt set."""
        n = len(prompts.cases)
        return [slice(start, min(start + self.chunk, n)) for start in range(0, n, self.chunk)]

    def drawing(self) -> Iterator[Job]:
        """Yield what is drawn: it has to be there before anything is attacked."""
        for prompts in (*self.plan.plain, self.plan.kept):
            for i, _ in enumerate(self.chunks(prompts)):
                yield Job(prompts.name, partial(self.pictures, prompts, i), i)
        for prompts, metrics in ((self.first, self.plan.erased()), (self.plan.kept, self.plan.utility())):
            for i, _ in enumerate(self.chunks(prompts) if any(m.compares for m in metrics) else ()):
                yield Job(f"{prompts.name}, base", partial(self.pictures, prompts, i, base=True), i)
        for i, _ in enumerate(self.chunks(self.first)):
            yield Job("targets", partial(self.targets, i), i)

    def attacking(self) -> Iterator[Job]:
        """Yield what attacks, checks and probes."""
        for place, (label, attack) in enumerate(self.plan.attacks.items()):
            if attack.joint:
                yield Job(label, partial(self.attacked, label, None), place)
            elif isinstance(attack, OnBase):  # by itself, so that the first encoder's seconds do not count the search
                for i, _ in enumerate(self.chunks(self.first)):
                    yield Job(f"{label}, search", partial(self.searched, label, attack, i), i)
            for i, _ in enumerate(() if attack.joint else self.chunks(self.first)):
                yield Job(label, partial(self.attacked, label, i), i)
        for place, label in enumerate(self.checkable()):
            yield Job(f"check {label}", partial(self.again, label), place)
        if self.checks:
            yield Job("check gradients", self.gradients, 0)
        for place, name in enumerate(self.plan.probes):
            yield Job(name, partial(self.probe, name), place)

    def pictures(self, prompts: PromptSet, i: int, *, base: bool = False) -> Tensor:
        """Return pictures (N, 3, H, W) in [0, 1] of one part of a prompt set, by the subject or by the base."""
        part = prompts.part(self.chunks(prompts)[i])
        bare = base or self.subject.defence is None
        cells, scope = (self.source, DefendedPipeline(self.subject.pipe)) if bare else (self.cells, self.subject)

        def compute() -> Tensor:
            with scope.attached():
                texts, seeds = [c.prompt for c in part.cases], [c.seed for c in part.cases]
                return packed(draw(self.subject.pipe, texts, seeds, self.sampling))

        return unpacked(cells.tensor(self._name("base" if bare else "drawn", prompts.name, i), _on(part), compute))

    def flags(self, prompts: PromptSet, i: int) -> list[bool]:
        """Return for one part of a prompt set whether the unattacked pictures show the concept."""
        key = (prompts.name, i)
        if key not in self._flags:
            self._flags[key] = detect(self.plan.detector, self.pictures(prompts, i))
        return self._flags[key]

    def all_flags(self, prompts: PromptSet) -> list[bool]:
        """Return for a whole prompt set whether the unattacked pictures show the concept."""
        return [flag for i, _ in enumerate(self.chunks(prompts)) for flag in self.flags(prompts, i)]

    def targets(self, i: int) -> Tensor:
        """Return the clean latents (N, C, h, w) of the base's pictures of what attacks on one part are after."""
        part = self.first.part(self.chunks(self.first)[i])

        def compute() -> Tensor:
            texts, seeds = [c.wanted for c in part.cases], [c.seed for c in part.cases]
            return draw(self.subject.pipe, texts, seeds, self.sampling, latents=True)

        return self.source.tensor(self._name("targets", self.first.name, i), _on(part), compute)

    def cases(self, i: int | None) -> tuple[list[Case], list[bool]]:
        """Return the cases of one part, or all, with their targets, and whether they succeed unattacked."""
        parts = range(len(self.chunks(self.first))) if i is None else [i]
        cases = [case for part in parts for case in self.first.cases[self.chunks(self.first)[part]]]
        latents = torch.cat([self.targets(part) for part in parts])
        before = [flag for part in parts for flag in self.flags(self.first, part)]
        return [replace(case, target=latent) for case, latent in zip(cases, latents, strict=True)], before

    def attacked(self, label: str, i: int | None) -> dict[str, Any]:
        """Return the verdicts of an attack on one part, or on all cases together, and its UNet calls."""
        attack = self.plan.attacks[label]
        part = self.first if i is None else self.first.part(self.chunks(self.first)[i])
        inputs = {**_on(part), "attack": described(label, attack)}

        def compute() -> dict[str, Any]:
            cases, before = self.cases(i)
            ready = self.searched(label, attack, i) if isinstance(attack, OnBase) and i is not None else attack
            with self.subject.attached():
                found = self._found(ready, cases, before, seed=self.seed)
                verdicts, calls = self._judge(found, cases, before)
            return {"verdicts": [asdict(verdict) for verdict in verdicts], "calls": calls}

        return self.cells.get(self.attack_name(label, i), inputs, compute)

    def attack_name(self, label: str, i: int | None) -> str:
        """Return the name of the cell of an attack on one part."""
        return self._name("attack", label, 0 if i is None else i)

    def searched(self, label: str, attack: OnBase, i: int) -> Transfer:
        """Return what an attack finds on the base for one part, ready to be replayed; searched for once."""
        part = self.first.part(self.chunks(self.first)[i])

        def compute() -> dict[str, Any]:
            base = TargetModel.from_pipeline(self.subject.pipe, base=self.base)
            cases, _ = self.cases(i)
            return {"recorded": [asdict(one) for one in attack.search(base, cases, seed=self.seed).recorded]}

        inputs = {**_on(part), "attack": described(label, attack)}
        found = self.source.get(self._name("found", label, i), inputs, compute)
        return Transfer.from_records(attack.source, found["recorded"])

    def _judge(
        self, found: Sequence[AttackResult], cases: Sequence[Case], before: Sequence[bool]
    ) -> tuple[list[Verdict], int]:
        """Judge what was found, with the defence attached; return verdicts and UNet calls, the search's among them."""
        verdicts, drawing = judge_candidates(
            cases,
            found,
            before,
            draw=self._draw_candidates,
            detector=self.plan.detector,
            cost=self.sampling.calls_for,
        )
        queries = sum(result.queries for result in found) * self.sampling.calls_per_picture
        return verdicts, sum(r.unet_calls for r in found) + drawing + queries

    def _found(self, attack: Attack, cases: Sequence[Case], before: Sequence[bool], *, seed: int) -> list[AttackResult]:
        # As in UnlearnDiffAtk, a prompt that succeeds by itself is not attacked.
        settled = [flag and not attack.joint for flag in before]
        attacked = [case for case, done in zip(cases, settled, strict=True) if not done]
        ran = iter(attack.run(self._target(attack), attacked, seed=seed) if attacked else [])
        return [_unattacked(case) if done else next(ran) for case, done in zip(cases, settled, strict=True)]

    def _target(self, attack: Attack) -> TargetModel:
        query = self._margins if attack.tier == "T2" else None
        return TargetModel.from_pipeline(self.subject.pipe, base=self.base, query=query)

    def _margins(self, texts: Sequence[str], cases: Sequence[Case]) -> Tensor:
        pictures = draw(self.subject.pipe, texts, [case.seed for case in cases], self.sampling)
        return self.plan.detector(pictures) - self.plan.detector.threshold

    def _draw_candidates(self, cases: Sequence[Case], candidates: Sequence[Candidate]) -> Tensor:
        return draw_candidates(self.subject.pipe, cases, candidates, self.sampling)

    def checkable(self) -> list[str]:
        """Return the labels of the searches that can be run again with half their budget."""
        if not self.checks:
            return []
        attacks = self.plan.attacks.items()
        return [label for label, a in attacks if a.tier in ("T2", "T3", "T4") and not a.joint and halved(a) is not None]

    def again(self, label: str) -> dict[str, Any]:
        """Return what a search finds on a few cases with half its budget, and whether another seed finds the same."""
        half = halved(self.plan.attacks[label])
        if half is None:
            raise ValueError(f"expected an attack with a budget, found {label!r}")
        few = slice(0, min(self.checks, self.chunk))
        inputs = {**_on(self.first.part(few)), "attack": described(label, half)}

        def compute() -> dict[str, Any]:
            cases, before = self.cases(0)
            cases, before = cases[few], before[few]
            with self.subject.attached():
                found = [self._found(half, cases, before, seed=seed) for seed in (self.seed, self.seed + 1)]
                verdicts, _ = self._judge(found[0], cases, before)
            searched = [i for i, flag in enumerate(before) if not flag]
            first, second = ([one[i] for i in searched] for one in found)
            seeds = asdict(seeds_differ(label, first, second, name=half.name)) if searched else None
            return {"half": [asdict(v) for v in verdicts], "seeds": seeds}

        return self.cells.get(self._name("check", label, 0), inputs, compute)

    def gradients(self) -> dict[str, Any]:
        """Return whether gradients reach the input of the subject's text encoder."""
        few = slice(0, min(self.checks, self.chunk))

        def compute() -> dict[str, Any]:
            cases, _ = self.cases(0)
            with self.subject.attached():
                target = TargetModel.from_pipeline(self.subject.pipe, base=self.base)
                return asdict(gradients_alive(target, cases[few], seed=self.seed))

        return self.cells.get("chunks/check-gradients", _on(self.first.part(few)), compute)

    def probe(self, name: str) -> dict[str, Any]:
        """Return the results of a further measurement."""
        probe = self.plan.probes[name]

        def compute() -> dict[str, Any]:
            results = probe(self.subject.pipe, self.subject.attached)
            device = {"device": self.subject.pipe.device.type}
            return {"results": [asdict(replace(r, settings={**r.settings, **device})) for r in results]}

        return self.cells.get(slug(name), {"probe": describe(probe)}, compute)

    def _name(self, kind: str, what: str, i: int) -> str:
        return f"chunks/{kind}-{slug(what)}-{i}"


def described(label: str, attack: Attack) -> dict[str, Any]:
    """Return an attack's label, tier, name and settings as JSON values."""
    return {"label": label, "tier": attack.tier, **describe(attack)}


def _on(prompts: PromptSet) -> Mapping[str, Any]:
    return {"prompts": prompts.sha256}


def _unattacked(case: Case) -> AttackResult:
    return AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0)


def slug(name: str) -> str:
    """Return a name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)
