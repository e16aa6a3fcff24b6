"""The evaluation of an encoder: plain, attacked and kept prompts, judged, with all that is needed to run it again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robust_encoders.artifact.fingerprint import sketch, tokenizer_fingerprint

from ..diffusion.backbone import computes_bf16_in_fp32
from ..diffusion.sampling import SamplingConfig, draw
from ..distributed import Shard
from ..protocols import Attack
from ..provenance import canonical_sha256, judging_versions
from ..types import Case
from .aggregate import Aggregation
from .benchmarks.shapes import EvaluationSettings, shapes_plan
from .cache import Cache
from .defence import Defence, DefendedPipeline
from .example_pictures import PICTURES_PART, Group, gallery, groups_of, to_pictures
from .jobs import Job, Jobs
from .plan import Plan
from .results import RESULTS_NAME, Evaluation
from .sanity.attack_strength import AttackStrength

_FORMAT = 1  # of the finished parts: raised when parts made by earlier code must not be taken for those of this one


def evaluate(
    pipe: Any,
    encoder: Defence | None,
    concept: str,
    *,
    settings: EvaluationSettings | None = None,
    out: Path,
    attacks: Mapping[str, Attack] | None = None,
    source: Path | None = None,
    strength: Path | None = None,
    shard: Shard | None = None,
) -> Evaluation:
    """Evaluate an encoder, a baseline, or the base itself, on a concept of the shapes world.

    Every part is written to ``out/cells`` when it is done. Run again after a kill, an evaluation keeps the finished
    parts that were made from the same weights, prompts and settings, and gives the same ``results.json`` but for the
    seconds. Under ``accelerate launch`` several processes share the parts; the results are those of one. Last of all it
    draws the pictures that a report shows, into a part of their own.

    Args:
        pipe: The base; the encoder is attached to it only while it is needed.
        encoder: What to evaluate; None evaluates the base.
        concept: A canonical value, for example ``circle``.
        settings: Sizes, seed, sampling, suite.
        out: Folder of ``results.json``.
        attacks: Label to attack, instead of the suite that the settings name.
        source: Folder of the parts that depend on the base alone, for evaluations of several encoders; by default with
            the others.
        strength: Finished evaluation of the base on captions that leave the concept open: how strong the attacks are.
        shard: This process's share; by default what ``accelerate launch`` says.

    Raises:
        ValueError: If the shapes world has no such value.
        IncompatibleError: If the encoder does not fit the pipeline.
    """
    settings = settings or EvaluationSettings()
    plan = shapes_plan(concept, settings, attacks=attacks)
    how = Execution(settings.sampling, settings.seed, settings.chunk, settings.checks, source, strength, shard)
    return run_plan(pipe, encoder, plan, how, out=out)


@dataclass(frozen=True)
class Execution:
    """How a plan is carried out; see ``evaluate``.

    Args:
        sampling: How pictures are drawn.
        seed: Of the attacks.
        chunk: Cases of one finished part.
        checks: Cases on which searches are run again with half their budget and with another seed; 0 for none.
        source: Folder of the parts that depend on the base alone.
        strength: Finished evaluation of the base that shows how strong the attacks are.
        shard: This process's share.
    """

    sampling: SamplingConfig
    seed: int = 0
    chunk: int = 50
    checks: int = 0
    source: Path | None = None
    strength: Path | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if self.chunk < 2 or self.checks < 0 or self.checks == 1 or self.seed < 0:
            raise ValueError(
                f"expected chunk of at least 2, checks of 0 or at least 2, and seed of at least 0, found {self}"
            )


def run_plan(pipe: Any, encoder: Defence | None, plan: Plan, how: Execution, *, out: Path) -> Evaluation:
    """Run any plan; see ``evaluate``."""
    subject, shard = DefendedPipeline(pipe, encoder), how.shard or Shard.current()
    units = _units(subject, plan, how, out)
    strength = None if how.strength is None else AttackStrength.read(how.strength, units)
    for name, stage in (("draw", units.drawing), ("attack", units.attacking)):
        _make(f"{name} {plan.concept}, {subject.label}", stage(), shard)
        shard.wait()
    if shard.main:
        found = Aggregation(units, strength)
        evaluation = found.evaluation()
        _show(units, found.verdicts)
        evaluation.write(out / RESULTS_NAME)  # last: whoever sees it finds the pictures, too
    shard.wait()
    return evaluation if shard.main else Evaluation.read(out)


def _units(subject: DefendedPipeline, plan: Plan, how: Execution, out: Path) -> Jobs:
    detector = {"name": plan.detector.name, "version": plan.detector.version, "threshold": plan.detector.threshold}
    # By kind of device, not by its number: several of them may share the parts.
    run = {"sampling": asdict(how.sampling), "seed": how.seed, "device": subject.pipe.device.type}
    if computes_bf16_in_fp32(subject.pipe.device):
        run["bf16"] = "fp32"
    common = {**run, "format": _FORMAT, "versions": judging_versions()}
    base = {**common, "models": _models_sha256(subject.pipe)}
    with subject.attached():
        own = {**common, "models": _models_sha256(subject.pipe), "detector": detector, "subject": subject.identity}
    cells, source = Cache(out / "cells", {**own, "base": base["models"]}), Cache(how.source or out / "cells", base)
    base_record = {"id": _hub_id(subject.pipe), "models_sha256": base["models"], "dtype": str(subject.pipe.unet.dtype)}
    return Jobs(subject, plan, how.sampling, how.seed, cells, source, base_record, chunk=how.chunk, checks=how.checks)


def _hub_id(pipe: Any) -> str:
    """Return the Hub id that a pipeline was loaded by; nothing for a folder, which is only a place on one machine."""
    name = str(getattr(pipe, "name_or_path", "") or "")
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else ""


def _make(title: str, units: Iterable[Job], shard: Shard) -> None:
    mine = [unit for unit in units if shard.takes(unit.place)]
    for unit in (bar := tqdm(mine, desc=title, disable=None)):
        bar.set_postfix_str(unit.title)
        unit.make()


def _models_sha256(pipe: Any) -> str:
    """Return a hash of sketches of all weights that draw, of the tokenizer and of the schedule."""
    modules = {name: sketch(getattr(pipe, name).state_dict()) for name in ("text_encoder", "unet", "vae")}
    weights = {name: {key: one.to_dict() for key, one in made.items()} for name, made in modules.items()}
    schedule = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    return canonical_sha256([weights, tokenizer_fingerprint(pipe.tokenizer).to_dict(), schedule])


def _show(units: Jobs, verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw a few pictures of every kind for the report; they change no number."""
    groups = groups_of(units.plan, verdicts)
    inputs = {"groups": [group.described() for group in groups]}
    units.cells.get(PICTURES_PART, inputs, partial(_pictures, units, groups))


def _pictures(units: Jobs, groups: Sequence[Group]) -> dict[str, Any]:
    cases = [case for group in groups for case in group.cases]
    before = to_pictures(units.plan, _drawn(units, cases), groups)
    if units.subject.defence is None:
        return gallery(groups, before, None)
    with units.subject.attached():
        return gallery(groups, before, to_pictures(units.plan, _drawn(units, cases), groups))


def _drawn(units: Jobs, cases: Sequence[Case]) -> Any:
    return draw(units.subject.pipe, [c.prompt for c in cases], [c.seed for c in cases], units.sampling)
