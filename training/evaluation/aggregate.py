"""The step from finished parts to results: rates, worst cases, utility, and the checks on the attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from ..metrics.lpips import PictureDistance, distance_difference
from ..metrics.rates import judged, rate
from ..protocols import ClusteredAttack, Metric
from ..provenance import describe, judging_versions
from ..types import AttackFacts, JudgedPicture, Result, Verdict
from .floors import with_floors
from .jobs import Jobs, about, attack_name, name_of, slug
from .plan import PromptSet, described
from .recorded import GROUPS_PART
from .reruns import again, checkable, gradients
from .results import Evaluation, result_from_record
from .sanity.attack_strength import AttackStrength
from .sanity.checks import (
    SanityCheck,
    free_not_below_discrete,
    masked_gradients,
    more_is_not_weaker,
    white_not_below_black,
)
from .single_detectors import rates_of_verdicts, union_by_detector, with_singles
from .suite import SUITE_KEY, SUITE_VERSION
from .threat_model import EMBEDDING_TIERS, TEXT_TIERS
from .worst_case import WorstCase, union

# Name of a worst case to the tiers that it spans. Encoders are ranked by the first.
WORST_CASES = {"worst_case": TEXT_TIERS, "worst_case_embeddings": EMBEDDING_TIERS}
BLACK_BOX = ("T0", "T1", "T2")


@dataclass
class Aggregation:
    """The finished parts of all processes, joined into one evaluation.

    Args:
        jobs: Finished parts.
        strength: Rates that the attacks reach on the base, if they were measured.
        benchmark: Name of the benchmark; empty if it has none.
        verdicts: Label of an attack to its verdicts as JSON values; filled while the results are collected.
    """

    jobs: Jobs
    strength: AttackStrength | None = None
    benchmark: str = ""
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _read: dict[str, list[Verdict]] = field(default_factory=dict)

    def evaluation(self) -> Evaluation:
        """Return the evaluation with every number."""
        defended, plan, cache = self.jobs.defended, self.jobs.plan, self.jobs.cache
        results = tuple(result_from_record(record) for record in self._records())
        checks = tuple(asdict(check) for check in self._checks(results))
        # Parts under chunks/ are only inputs of other parts, and they differ with the number of processes.
        seconds = {name: spent for name, spent in cache.seconds.items() if not name.startswith("chunks/")}
        identity = {**defended.identity, "base": dict(self.jobs.base_record)}
        return Evaluation(defended.label, plan.concept.name, results, seconds, identity, checks, self.benchmark)

    def _records(self) -> list[dict[str, Any]]:
        plan, cache = self.jobs.plan, self.jobs.cache
        found: list[dict[str, Any]] = []
        self._keep_groups()
        for prompts in plan.plain:
            found.append(self._record(self._plain(prompts), prompts, calls=len(prompts.cases) * self._per_picture))
        if plan.kept.name not in {prompts.name for prompts in plan.plain}:
            self._unattacked(plan.kept)
        for label in plan.attacks:
            found += self._attacked(label)
        found += [self._record(result, self.jobs.first) for result in self._worst()]
        found += cache.get("kept", self._inputs(), self._measured)["results"]
        if (control := plan.control) is not None:
            found += cache.get("control", {"name": control.name}, self._control)["results"]
        found += [record for name in plan.probes for record in self.jobs.probe(name)["results"]]
        return with_floors(found, self._read)

    @property
    def _per_picture(self) -> int:
        return self.jobs.sampling.calls_per_picture

    def _inputs(self) -> dict[str, Any]:
        plan = self.jobs.plan
        return {"prompts": plan.kept.sha256, "erased": self.jobs.first.sha256, "measures": dict(plan.measures)}

    def _keep_groups(self) -> None:
        """Keep the sub-groups of all prompts that state the concept, if the benchmark declares any."""
        sets = {p.name: [dict(case.groups) for case in p.cases] for p in self.jobs.plan.plain}
        if any(row for rows in sets.values() for row in rows):
            self.jobs.cache.get(GROUPS_PART, {"sets": sets}, lambda: {"sets": sets})
            self.jobs.cache.seconds.pop(GROUPS_PART)  # it is no work

    def _plain(self, prompts: PromptSet) -> Result:
        pictures = self._unattacked(prompts)
        found = replace(rate("pre_asr", [one.hit for one in pictures]), tier=prompts.tier)
        return with_singles(found, {name: [one.margins[name] >= 0 for one in pictures] for name in pictures[0].margins})

    def _unattacked(self, prompts: PromptSet) -> list[JudgedPicture]:
        """Return the judged unattacked pictures of a prompt set, and keep their records in one part."""
        parts = [name_of("unattacked", prompts.name, i) for i, _ in enumerate(self.jobs.chunks(prompts))]
        found = self.jobs.all_unattacked(prompts)
        value = {"prompts": prompts.name, "pictures": [asdict(one) for one in found]}
        self.jobs.cache.join(f"unattacked-{slug(prompts.name)}", about(prompts), parts, lambda: value)
        return found

    def _attacked(self, label: str) -> list[dict[str, Any]]:
        """Return the records of an attack, and keep its verdicts."""
        jobs, attack = self.jobs, self.jobs.plan.attacks[label]
        parts = [None] if AttackFacts.of(attack).joint else list(range(len(jobs.chunks(jobs.first))))
        made = [jobs.attacked(label, part) for part in parts]
        inputs = {"prompts": jobs.first.sha256, "attack": described(label, attack)}
        names = [attack_name(label, part) for part in parts]
        value = jobs.cache.join(f"attack-{slug(label)}", inputs, names, partial(self._joined, label, made))
        self.verdicts[label] = value["verdicts"]
        self._read[label] = list(map(Verdict.from_record, value["verdicts"]))
        records: list[dict[str, Any]] = value["results"]
        return records

    def _joined(self, label: str, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        attack = self.jobs.plan.attacks[label]
        verdicts = [verdict for one in made for verdict in one["verdicts"]]
        clusters = attack.clusters(len(verdicts)) if isinstance(attack, ClusteredAttack) else None
        rates = rates_of_verdicts([Verdict.from_record(verdict) for verdict in verdicts], clusters)
        calls = sum(one["calls"] for one in made)
        settings = {"attack": described(label, attack)}
        records = [self._record(replace(r, tier=attack.tier), self.jobs.first, calls=calls, **settings) for r in rates]
        return {"verdicts": verdicts, "results": records, **({} if clusters is None else {"clusters": list(clusters)})}

    def _worst(self) -> Iterator[Result]:
        """Yield the worst cases, each over the attacks of its tiers."""
        attacks, verdicts = self.jobs.plan.attacks, self._read
        for name, tiers in WORST_CASES.items():
            labels = tuple(label for label, attack in attacks.items() if attack.tier in tiers)
            if labels:
                joined = WorstCase(labels, f"{tiers[0]}-{tiers[-1]}")
                settings = {"attack": {"label": name, **describe(joined)}}
                found = replace(rate(name, union(verdicts, labels)), settings=settings, tier=joined.tier)
                yield with_singles(found, union_by_detector(verdicts, labels))

    def _measured(self) -> dict[str, Any]:
        """Return the records of the utility metrics, and of the distances of erased and kept pictures to the base's."""
        plan, jobs = self.jobs.plan, self.jobs
        utility = self._fed(plan.utility_metrics(), plan.kept)
        erased = self._fed(plan.erased_metrics(), jobs.first)
        records = [
            self._record(m.compute(), plan.kept, calls=len(plan.kept.cases) * self._per_picture) for m in utility
        ]
        records += [self._record(metric.compute(), jobs.first) for metric in erased]
        far, near = ([m for m in metrics if isinstance(m, PictureDistance)] for metrics in (erased, utility))
        records += [
            self._record(distance_difference(one, other), plan.kept)
            for one in far
            for other in near
            if one.distance.name == other.distance.name
        ]
        return {"results": records}

    def _fed(self, metrics: list[Metric], prompts: PromptSet) -> list[Metric]:
        """Update metrics with all pictures of a prompt set and return them; the base is not compared with itself."""
        used = [metric for metric in metrics if self.jobs.defended.defence is not None or not metric.compares]
        compares = any(metric.compares for metric in used)
        for i, part in enumerate(self.jobs.chunks(prompts) if used else ()):
            pictures = self.jobs.pictures(prompts, i)
            reference = self.jobs.pictures(prompts, i, base=True) if compares else None
            for metric in used:
                metric.update(pictures, prompts.cases[part], reference if metric.compares else None)
        return used

    def _control(self) -> dict[str, Any]:
        control = self.jobs.plan.control
        if control is None:
            raise ValueError("expected a plan with a control, found none")
        pictures, cases = control.pictures()
        metrics = control.metrics()
        for metric in metrics:
            metric.update(pictures, cases)
        shown = PromptSet(control.name, tuple(cases))
        return {"results": [self._record(metric.compute(), shown) for metric in metrics]}

    def _checks(self, results: Sequence[Result]) -> Iterator[SanityCheck]:
        """Yield the checks that decide if the attacks' numbers can be trusted."""
        if self.strength is not None:
            yield from self.strength.checks(self.jobs.plan.attacks)
        if not self.jobs.config.checks:
            return
        yield SanityCheck.from_record(gradients(self.jobs))
        for label in checkable(self.jobs):
            repeated = again(self.jobs, label)
            if repeated["seeds"]:
                yield SanityCheck.from_record(repeated["seeds"])
            half = list(map(Verdict.from_record, repeated["half"]))
            yield more_is_not_weaker(label, half, self._read[label][: len(half)])
        yield from self._white_against_black()

    def _white_against_black(self) -> list[SanityCheck]:
        attacks, verdicts = self.jobs.plan.attacks, self._read
        facts = {label: AttackFacts.of(attack) for label, attack in attacks.items()}
        found = []
        # An attack that keeps the prompt is not compared with one that may replace it.
        for whole in (False, True):
            strong = [k for k, a in attacks.items() if a.tier == "T3" and facts[k].whole_prompt == whole]
            weak = [k for k, a in attacks.items() if a.tier in BLACK_BOX and (whole or not facts[k].whole_prompt)]
            black = {k: verdicts[k] for k in weak}
            found += white_not_below_black({k: verdicts[k] for k in strong}, black)
            # Whoever may replace the prompt may also keep it. An attack that asks for scores follows no gradient.
            white = [k for k, a in attacks.items() if a.tier == "T3" and (whole or not facts[k].whole_prompt)]
            by_gradient = {k: verdicts[k] for k in white if not {"queries", "drafts"} & {*facts[k].uses}}
            found += masked_gradients(by_gradient, black, whole_prompt=whole)
        # A free prefix of each prompt can take every value that a search over typed prefixes can find, as its norm
        # bound is at least 1. It cannot replace the whole prompt.
        free = {k: verdicts[k] for k, a in attacks.items() if a.name == "continuous_prefix" and not facts[k].joint}
        typed = {
            k: verdicts[k] for k, a in attacks.items() if a.name == "unlearn_diff_atk" and not facts[k].whole_prompt
        }
        return [*found, *free_not_below_discrete(free, typed)]

    def _record(self, result: Result, prompts: PromptSet, *, calls: int = 0, **settings: Any) -> dict[str, Any]:
        """Return the result with everything that is needed to measure it again, as JSON values."""
        if not result.detector and result.metric.startswith(("pre_", "asr_", "worst_")):
            result = judged(result, self.jobs.plan.detector)
        run = {"sampling": asdict(self.jobs.sampling), "device": self.jobs.defended.device}
        common = {**run, SUITE_KEY: SUITE_VERSION}
        return asdict(
            replace(
                result,
                seeds=(self.jobs.config.seed,),
                prompt_set=prompts.name,
                prompt_sha256=prompts.sha256,
                settings={**result.settings, **common, **settings},
                versions=judging_versions(),
                unet_calls=calls,
            )
        )
