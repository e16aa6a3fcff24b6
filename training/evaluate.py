"""The evaluation of an encoder: plain, attacked and kept prompts, judged, with all that is needed to run it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from robust_encoders.fingerprint import sketch, tokenizer_fingerprint

from .artifact import describe, library_versions
from .backbone import Backbone
from .cells import Cells, canonical_sha256
from .finished import PICTURES_CELL
from .gallery import Group, gallery, groups_of, to_pictures
from .metrics.rates import attack_rates, detect, judged, rate
from .pictures import Sampling, draw, draw_candidates
from .plan import Control, EvaluationSettings, Plan, PromptSet, shapes_plan
from .protocols import AttackResult, Candidate, Case, Metric, PromptAttack, Result
from .results import RESULTS_NAME, Evaluation, result_from_record
from .target import TargetModel
from .verdicts import judge_candidates

if TYPE_CHECKING:
    from robust_encoders.encoder import RobustEncoder


def evaluate(
    pipe: Any,
    encoder: RobustEncoder | None,
    concept: str,
    *,
    settings: EvaluationSettings | None = None,
    out: Path,
    attacks: Mapping[str, PromptAttack] | None = None,
) -> Evaluation:
    """Evaluate an encoder, or the base itself, on a concept of the shapes world.

    Every part is written to ``out/cells`` when it is done. Run again after a kill, an evaluation keeps the finished
    parts that were made from the same weights, prompts and settings, and gives the same ``results.json`` but for the
    seconds. Last of all it draws the pictures that a report shows, into a part of their own.

    Args:
        pipe: The base; the encoder is attached to it only while it is needed.
        encoder: What to evaluate; None evaluates the base.
        concept: A canonical value, for example ``circle``.
        settings: Sizes, seed, sampling, suite.
        out: Folder of ``results.json``.
        attacks: Label to attack, instead of the suite that the settings name.

    Raises:
        ValueError: If the shapes world has no such value.
        IncompatibleError: If the encoder does not fit the pipeline.
    """
    settings = settings or EvaluationSettings()
    plan = shapes_plan(concept, settings, attacks=attacks)
    return run_plan(pipe, encoder, plan, sampling=settings.sampling, seed=settings.seed, out=out)


def run_plan(
    pipe: Any, encoder: RobustEncoder | None, plan: Plan, *, sampling: Sampling, seed: int, out: Path
) -> Evaluation:
    """Run any plan; see ``evaluate``."""
    run = _Run(pipe, encoder, plan, sampling, seed)
    detector = {"name": plan.detector.name, "version": plan.detector.version, "threshold": plan.detector.threshold}
    with run.attached():
        common = {"models": _models_sha256(pipe), "detector": detector, "sampling": asdict(sampling), "seed": seed}
    cells = Cells(out / "cells", common)
    label = "base" if encoder is None else str(encoder.manifest.method["name"])
    results = tuple(run.results(cells))
    evaluation = Evaluation(label, plan.concept, results, dict(cells.seconds))
    evaluation.write(out / RESULTS_NAME)
    run.show(cells)
    return evaluation


def _models_sha256(pipe: Any) -> str:
    """Return a hash of sketches of all weights that draw, of the tokenizer and of the schedule."""
    modules = {name: sketch(getattr(pipe, name).state_dict()) for name in ("text_encoder", "unet", "vae")}
    weights = {name: {key: one.to_dict() for key, one in made.items()} for name, made in modules.items()}
    schedule = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    return canonical_sha256([weights, tokenizer_fingerprint(pipe.tokenizer).to_dict(), schedule])


def _described(label: str, attack: PromptAttack) -> dict[str, Any]:
    return {"label": label, "tier": attack.tier, **describe(attack)}


class _Part(NamedTuple):
    """One cell to be: its name, what it depends on, and what makes its value."""

    name: str
    inputs: Mapping[str, Any]
    compute: Callable[[], dict[str, Any]]


@dataclass
class _Run:
    """One evaluation; ``before`` is known once the first prompt set has been drawn unattacked."""

    pipe: Any
    encoder: RobustEncoder | None
    plan: Plan
    sampling: Sampling
    seed: int
    before: list[bool] = field(default_factory=list)
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def attached(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.encoder is None else self.encoder.attached(self.pipe)

    def results(self, cells: Cells) -> list[Result]:
        """Return every number, from finished cells where there are such."""
        found: list[Result] = []
        for part in tqdm(self._parts(), desc=f"evaluate {self.plan.concept}", disable=None):
            value = cells.get(*part)
            self.before = self.before or value.get("flags", [])
            if "verdicts" in value:
                self.verdicts[value["results"][0]["settings"]["attack"]["label"]] = value["verdicts"]
            found += [result_from_record(record) for record in value["results"]]
        return found

    def show(self, cells: Cells) -> None:
        """Draw a few pictures of every kind for the report; they change no number."""
        groups = groups_of(self.plan, self.verdicts)
        # The other cells depend on the base's text encoder only where it is what they look at.
        inputs = {"base": _models_sha256(self.pipe), "groups": [group.described() for group in groups]}
        cells.get(PICTURES_CELL, inputs, partial(self._pictures, groups))

    def _pictures(self, groups: Sequence[Group]) -> dict[str, Any]:
        cases = [case for group in groups for case in group.cases]
        before = to_pictures(self.plan, self._draw(cases), groups)
        if self.encoder is None:
            return gallery(groups, before, None)
        with self.attached():
            return gallery(groups, before, to_pictures(self.plan, self._draw(cases), groups))

    def _parts(self) -> list[_Part]:
        first = self.plan.plain[0]
        plain = [
            _Part(f"plain-{_slug(p.name)}", {"prompts": p.sha256}, partial(self._plain, p)) for p in self.plan.plain
        ]
        attacks = [
            _Part(
                f"attack-{_slug(label)}",
                {"prompts": first.sha256, "attack": _described(label, attack)},
                partial(self._attacked, label, attack),
            )
            for label, attack in self.plan.attacks.items()
        ]
        kept = _Part("kept", {"prompts": self.plan.kept.sha256}, self._kept)
        control = self.plan.control
        controls = (
            [] if control is None else [_Part("control", {"name": control.name}, partial(self._control, control))]
        )
        return [*plain, *attacks, kept, *controls]

    def _plain(self, prompts: PromptSet) -> dict[str, Any]:
        with self.attached():
            flags = detect(self.plan.detector, self._draw(prompts.cases))
        calls = len(flags) * self.sampling.calls_per_picture
        return {"flags": flags, "results": [self._record(rate("pre_asr", flags), prompts, calls=calls)]}

    def _attacked(self, label: str, attack: PromptAttack) -> dict[str, Any]:
        prompts = self.plan.plain[0]
        cases = [replace(case, target=latent) for case, latent in zip(prompts.cases, self.targets, strict=True)]
        # As in UnlearnDiffAtk, a prompt that succeeds by itself is not attacked.
        settled = [before and not attack.joint for before in self.before]
        attacked = [case for case, done in zip(cases, settled, strict=True) if not done]
        base = Backbone.from_pipeline(self.pipe)
        with self.attached():
            ran = iter(attack.run(self._target(base, attack), attacked, seed=self.seed) if attacked else [])
            found = [_unattacked(case) if done else next(ran) for case, done in zip(cases, settled, strict=True)]
            verdicts, drawn = judge_candidates(
                cases, found, self.before, draw=self._draw_candidates, detector=self.plan.detector
            )
        rates = attack_rates(self.before, [v.any for v in verdicts], [v.last for v in verdicts])
        pictures = drawn + sum(r.queries for r in found)
        calls = sum(r.unet_calls for r in found) + pictures * self.sampling.calls_per_picture
        extra = {"attack": _described(label, attack)}
        records = [self._record(r, prompts, calls=calls, **extra) for r in rates]
        return {"verdicts": [asdict(v) for v in verdicts], "results": records}

    def _target(self, base: Backbone, attack: PromptAttack) -> TargetModel:
        query = self._margins if attack.tier == "T2" else None
        return TargetModel.from_pipeline(self.pipe, base=base, query=query)

    def _margins(self, texts: Sequence[str], cases: Sequence[Case]) -> Tensor:
        pictures = draw(self.pipe, texts, [case.seed for case in cases], self.sampling)
        return self.plan.detector(pictures) - self.plan.detector.threshold

    def _kept(self) -> dict[str, Any]:
        prompts = self.plan.kept
        with self.attached():
            pictures = self._draw(prompts.cases)
        calls = len(pictures) * self.sampling.calls_per_picture
        results = _measured(self.plan.utility(), pictures, prompts.cases)
        return {"results": [self._record(result, prompts, calls=calls) for result in results]}

    def _control(self, control: Control) -> dict[str, Any]:
        pictures, cases = control.pictures()
        results = _measured(control.metrics(), pictures, cases)
        return {"results": [self._record(result, PromptSet(control.name, tuple(cases))) for result in results]}

    @cached_property
    def targets(self) -> Tensor:
        """Clean latents (N, C, h, w) of the base's own pictures of what attacks are after, without the encoder."""
        cases = self.plan.plain[0].cases
        seeds = [case.seed for case in cases]
        return draw(self.pipe, [case.wanted for case in cases], seeds, self.sampling, latents=True)

    def _draw(self, cases: Sequence[Case]) -> Tensor:
        return draw(self.pipe, [case.prompt for case in cases], [case.seed for case in cases], self.sampling)

    def _draw_candidates(self, cases: Sequence[Case], candidates: Sequence[Candidate]) -> Tensor:
        return draw_candidates(self.pipe, cases, candidates, self.sampling)

    def _record(self, result: Result, prompts: PromptSet, *, calls: int = 0, **settings: Any) -> dict[str, Any]:
        """Return the result with all that is needed to measure it again, as JSON values."""
        if not result.detector and result.metric.startswith(("pre_", "asr_")):
            result = judged(result, self.plan.detector)
        return asdict(
            replace(
                result,
                seeds=(self.seed,),
                prompt_set=prompts.name,
                prompt_sha256=prompts.sha256,
                settings={**result.settings, "sampling": asdict(self.sampling), **settings},
                versions=library_versions(),
                unet_calls=calls,
            )
        )


def _unattacked(case: Case) -> AttackResult:
    return AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0)


def _measured(metrics: Sequence[Metric], pictures: Tensor, cases: Sequence[Case]) -> list[Result]:
    for metric in metrics:
        metric.update(pictures, cases)
    return [metric.compute() for metric in metrics]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)
