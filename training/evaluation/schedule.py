"""The order in which the parts of an evaluation are made, and the process that makes each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..attacks.transfer import OnBase
from ..types import AttackFacts
from .jobs import Jobs
from .reruns import again, checkable, gradients


@dataclass(frozen=True)
class Job:
    """One part for one process to make.

    Args:
        title: Title for the progress bar.
        make: Function that makes the part, or finds it finished.
        place: Number of the job; it decides which process takes the job.
    """

    title: str
    make: Callable[[], object]
    place: int


def drawing(jobs: Jobs) -> Iterator[Job]:
    """Yield the jobs that draw pictures; they must be finished before the first attack."""
    plan, first = jobs.plan, jobs.first
    for prompts in (*plan.plain, plan.kept):
        for i, _ in enumerate(jobs.chunks(prompts)):
            yield Job(prompts.name, partial(jobs.unattacked, prompts, i), i)
    for prompts, metrics in ((first, plan.erased_metrics()), (plan.kept, plan.utility_metrics())):
        for i, _ in enumerate(jobs.chunks(prompts) if any(m.compares for m in metrics) else ()):
            yield Job(f"{prompts.name}, base", partial(jobs.pictures, prompts, i, base=True), i)
    for prompts, base in plan.probe_drawings():
        for i, _ in enumerate(jobs.chunks(prompts)):
            yield Job(prompts.name, partial(jobs.pictures, prompts, i, base=base), i)
    for i, _ in enumerate(jobs.chunks(first)):
        yield Job("reference latents", partial(jobs.reference_latents, i), i)


def attacking(jobs: Jobs) -> Iterator[Job]:
    """Yield the jobs that attack, check and probe."""
    chunks = jobs.chunks(jobs.first)
    for place, (label, attack) in enumerate(jobs.plan.attacks.items()):
        if AttackFacts.of(attack).joint:
            yield Job(label, partial(jobs.attacked, label, None), place)
            continue
        if isinstance(attack, OnBase):  # a job of its own: an encoder's seconds must not count the search
            for i, _ in enumerate(chunks):
                yield Job(f"{label}, search", partial(jobs.searched, label, attack, i), i)
        for i, _ in enumerate(chunks):
            yield Job(label, partial(jobs.attacked, label, i), i)
    for place, label in enumerate(checkable(jobs)):
        yield Job(f"check {label}", partial(again, jobs, label), place)
    if jobs.config.checks:
        yield Job("check gradients", partial(gradients, jobs), 0)
    for place, name in enumerate(jobs.plan.probes):
        yield Job(name, partial(jobs.probe, name), place)
