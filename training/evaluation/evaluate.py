"""The evaluation of an encoder on plain, attacked and kept prompts, recorded so that it can be repeated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact.fingerprint import sketch, tokenizer_fingerprint
from robust_encoders.utils.home import expanded

from ..diffusion.backbone import computes_bf16_in_fp32
from ..diffusion.sampling import draw
from ..distributed import Shard
from ..progress import ProgressBar
from ..provenance import canonical_sha256, judging_versions
from ..types import Case
from .aggregate import Aggregation
from .cache import Cache
from .choices import chosen, refuse_unknown
from .config import EvaluationConfig
from .defence import Defence, DefendedPipeline
from .example_pictures import PICTURES_PART, Group, gallery, groups_of, to_pictures, with_kept
from .jobs import Jobs
from .judged_pictures import read_pictures
from .plan import Benchmark, Plan
from .preflight import SOURCE, require_plan, require_ready, require_several
from .recorded import chunks_of
from .results import CELLS, RESULTS_NAME, Evaluation
from .sanity.attack_strength import AttackStrength
from .schedule import Job, attacking, drawing
from .suite import SUITE_KEY, SUITE_VERSION

_FORMAT = 2  # version of the finished parts; a higher one keeps parts of earlier code from being used


def evaluate(
    pipe: Any,
    encoder: Defence | None,
    benchmark: Benchmark,
    *,
    out: str | Path,
    config: EvaluationConfig | None = None,
    shard: Shard | None = None,
) -> Evaluation:
    """Evaluate an encoder, a baseline, or the base itself, on a benchmark.

    Every finished part is written to ``out/cells``, and every picture that the detector was asked about into an archive
    beside its part. After an interruption, a second run keeps the finished parts that
    were made from the same weights, prompts and settings. Its ``results.json`` differs only in the seconds. Under
    ``accelerate launch`` several processes share the parts, and the results equal those of one process. The pictures of
    the report are drawn last, into a part of their own.

    Args:
        pipe: Base pipeline; the encoder is attached to it only while it is needed.
        encoder: Encoder or baseline to evaluate; None evaluates the base.
        benchmark: Benchmark that sets prompts, detector, attacks and metrics.
        out: Folder of ``results.json``.
        config: Settings of the run; by default those of the benchmark.
        shard: Share of this process; by default the share that ``accelerate launch`` assigns.

    Raises:
        NotReadyError: If the run lacks something that it needs until its end; the message lists everything.
        ValueError: If an attack or a metric is not known, or the benchmark refuses an option.
        IncompatibleError: If the encoder does not fit the pipeline.
        EncoderNameError: If ``encoder`` is a name, not a loaded encoder.
    """
    defended, share = DefendedPipeline(pipe, encoder), shard or Shard.current()
    out, config = expanded(out), config or defaults_of(benchmark)
    require_several(benchmark, config)
    config = config.with_paths()
    require_ready(pipe, benchmark, config, out)
    refuse_unknown(benchmark, config)
    plan = chosen(benchmark.plan(pipe, config), config)
    require_plan(pipe, plan, config, out)
    jobs = _jobs(defended, plan, replace(config, sampling=plan.sampling or config.sampling), out)
    strength = None if config.strength is None else AttackStrength.read(config.strength, jobs)
    for name, stage in (("draw", drawing), ("attack", attacking)):
        _make(f"{name} {plan.concept.name}, {defended.label}", stage(jobs), share)
        share.wait()
    if share.main:
        found = Aggregation(jobs, strength, benchmark.name)
        evaluation = found.evaluation()
        _show(jobs, found.verdicts)
        evaluation.write(out / RESULTS_NAME)  # last, so that the pictures exist as soon as this file does
    share.wait()
    return evaluation if share.main else Evaluation.read(out)


def defaults_of(benchmark: Benchmark | type[Benchmark]) -> EvaluationConfig:
    """Return the usual settings of a benchmark's run."""
    found: EvaluationConfig = getattr(benchmark, "defaults", EvaluationConfig())
    return found


def _jobs(defended: DefendedPipeline, plan: Plan, config: EvaluationConfig, out: Path) -> Jobs:
    detector = {"name": plan.detector.name, "version": plan.detector.version, "threshold": plan.detector.threshold}
    pipe = defended.pipe
    # The kind of device counts, not its number, because several devices may share the parts.
    run = {"sampling": asdict(config.sampling), "seed": config.seed, "device": defended.device}
    if computes_bf16_in_fp32(pipe.device):
        run["bf16"] = "fp32"
    common = {**run, "format": _FORMAT, SUITE_KEY: SUITE_VERSION, "versions": judging_versions()}
    base = {**common, "models": models_sha256(pipe)}
    with defended.attached():
        own = {**common, "models": models_sha256(pipe), "detector": detector, "subject": defended.identity}
    reusable = tuple(place for folder in config.reuse for place in (folder / CELLS, folder.parent / SOURCE))
    cache, base_cache = (
        Cache(out / CELLS, {**own, "base": base["models"]}, reusable),
        Cache(config.source or out / CELLS, base, reusable),
    )
    base_record = {"id": hub_id(pipe), "models_sha256": base["models"], "dtype": str(pipe.unet.dtype)}
    return Jobs(defended, plan, config, cache, base_cache, base_record)


def hub_id(pipe: Any) -> str:
    """Return the Hub id of a pipeline; empty if it was loaded from a folder, whose name means nothing elsewhere.

    Args:
        pipe: A diffusers pipeline.
    """
    name = str(getattr(pipe, "name_or_path", "") or "")
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else ""


def _make(title: str, jobs: Iterable[Job], shard: Shard) -> None:
    mine = [job for job in jobs if shard.takes(job.place)]
    with ProgressBar(total=len(mine), desc=title, unit="part") as bar:
        for job in mine:
            bar.set_postfix_str(job.title)
            job.make()
            bar.update()


def models_sha256(pipe: Any) -> str:
    """Return a hash of the tokenizer, the noise schedule, and sketches of text encoder, UNet and VAE.

    Args:
        pipe: A diffusers pipeline.
    """
    modules = {name: sketch(getattr(pipe, name).state_dict()) for name in ("text_encoder", "unet", "vae")}
    weights = {name: {key: one.to_dict() for key, one in made.items()} for name, made in modules.items()}
    schedule = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    return canonical_sha256([weights, tokenizer_fingerprint(pipe.tokenizer).to_dict(), schedule])


def _show(jobs: Jobs, verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw a few pictures of every kind for the report; they change no number."""
    groups = groups_of(jobs.plan, verdicts)
    inputs = {"groups": [group.described() for group in groups]}
    jobs.cache.get(PICTURES_PART, inputs, partial(_pictures, jobs, groups))


def _pictures(jobs: Jobs, groups: Sequence[Group]) -> dict[str, Any]:
    cases = [case for group in groups for case in group.cases]
    read = partial(read_pictures, chunks_of(jobs.cache.folder.parent))
    base = _drawn(jobs, cases)
    if jobs.defended.defence is None:
        return gallery(groups, to_pictures(jobs.plan, with_kept(base, groups, read), groups), None)
    with jobs.defended.attached():
        own = with_kept(_drawn(jobs, cases), groups, read)
        return gallery(groups, to_pictures(jobs.plan, base, groups), to_pictures(jobs.plan, own, groups))


def _drawn(jobs: Jobs, cases: Sequence[Case]) -> Tensor:
    return draw(jobs.defended.pipe, [c.prompt for c in cases], [c.seed for c in cases], jobs.sampling)
