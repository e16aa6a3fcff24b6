"""What the end of an evaluation needs, asked at its beginning: folders, disk, packages, device, base, settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from robust_encoders.errors import NotReadyError
from robust_encoders.utils.extras import package_problems
from robust_encoders.utils.targets import DiskNeed, disk_problems, place_problems
from robust_encoders.utils.text_lists import single_text_problems

from ..attacks import ATTACKS
from ..detectors import DETECTORS
from ..diffusion.base_configs import BaseConfigs
from ..diffusion.base_kind import kind_problems
from ..metrics import METRICS
from ..trainer.storage import present
from .config import EvaluationConfig
from .plan import Benchmark, Plan
from .results import CELLS, RESULTS_NAME, Evaluation
from .suite import SUITE_VERSION, version_problems

SOURCE = ".source"  # the parts that evaluations side by side share, in the folder above theirs
# Names that an evaluation writes in its folder, and whether each is a folder.
_WRITTEN = {CELLS: True, RESULTS_NAME: False, "report.html": False}
_FLOAT, _CHANNELS = 4, 3


@runtime_checkable
class ChecksFirst(Protocol):
    """A benchmark that tells what it lacks before anything is loaded: files, packages, models in folders."""

    def problems(self, config: EvaluationConfig) -> list[str]:
        """Return everything that is missing or wrong, each with what to do; nothing is loaded."""
        ...


def require_several(benchmark: Benchmark, config: EvaluationConfig) -> None:
    """Check that no setting holds one string where several belong; other checks would stumble over it.

    Args:
        benchmark: Benchmark of the run.
        config: Settings of the run.

    Raises:
        NotReadyError: If one does; the message lists all.
    """
    if wrong := _single_texts(benchmark, config):
        raise NotReadyError.of(wrong)


def require_ready(pipe: Any, benchmark: Benchmark, config: EvaluationConfig, out: Path) -> None:
    """Check everything that an evaluation needs until its end, before its first picture.

    Args:
        pipe: Base pipeline.
        benchmark: Benchmark of the run.
        config: Settings of the run.
        out: Folder of the results.

    Raises:
        NotReadyError: If something is missing or wrong; the message lists everything.
    """
    problems = [
        *run_problems(config, out),
        *kind_problems(BaseConfigs.of_pipeline(pipe), draws=True),
        *benchmark_problems(benchmark, config),
    ]
    if problems:
        raise NotReadyError.of(problems)


def require_plan(pipe: Any, plan: Plan, config: EvaluationConfig, out: Path) -> None:
    """Check packages of all parts of a plan, and the space for its pictures.

    Args:
        pipe: Base pipeline.
        plan: Plan of the run.
        config: Settings of the run.
        out: Folder of the results.

    Raises:
        NotReadyError: If something is missing; the message lists everything.
    """
    makers = {**plan.utility, **plan.erased}
    parts = [*plan.attacks.items(), *((name, _made_by(maker)) for name, maker in makers.items())]
    problems = package_problems([*parts, (plan.detector.name, plan.detector)])
    problems += [text for name, attack in plan.attacks.items() for text in single_text_problems(attack, name)]
    if problems := [*problems, *disk_problems(picture_needs(pipe, plan, config, out))]:
        raise NotReadyError.of(problems)


def run_problems(config: EvaluationConfig, out: Path) -> list[str]:
    """Return what is wrong with the settings of a run and its folders.

    Args:
        config: Settings of the run.
        out: Folder of the results; it may hold an unfinished evaluation, and files of other names.
    """
    problems = results_problems(out)
    if config.source is not None:
        problems += place_problems(config.source)
    if config.strength is not None and not (config.strength / RESULTS_NAME).is_file():
        problems.append(
            f"expected the folder of a finished evaluation as strength, found no {RESULTS_NAME} in {config.strength}"
        )
    elif config.strength is not None:
        problems += evaluation_problems(config.strength, "as strength")
    return [*problems, *reuse_problems(config)]


def evaluation_problems(folder: Path, purpose: str) -> list[str]:
    """Return the reasons why a finished evaluation cannot stand beside new numbers.

    Args:
        folder: Folder of the evaluation.
        purpose: Words for what it is needed for.
    """
    try:
        found = Evaluation.read(folder)
    except ValueError as error:
        return [str(error)]
    return version_problems([(str(folder), found)], SUITE_VERSION, purpose)


def reuse_problems(config: EvaluationConfig) -> list[str]:
    """Return the folders to reuse that are no evaluations.

    Args:
        config: Settings of a run.
    """
    return [
        f"expected folders of evaluations with --reuse, found no folder {CELLS} in {folder}; name other folders"
        for folder in config.reuse
        if not (folder / CELLS).is_dir()
    ]


def results_problems(out: Path) -> list[str]:
    """Return the reasons why results cannot be written to a folder.

    Args:
        out: Folder of the results.
    """
    problems = place_problems(out)
    for name, folder in _WRITTEN.items():
        place = out / name
        if not problems and place.exists() and place.is_dir() != folder:
            kinds = ("folder", "file") if folder else ("file", "folder")
            problems.append(f"expected a {kinds[0]} or nothing at {place}, found a {kinds[1]}; choose another folder")
    return problems


def benchmark_problems(benchmark: Benchmark, config: EvaluationConfig) -> list[str]:
    """Return what a benchmark, its settings, and the attacks and metrics that are named lack.

    Args:
        benchmark: Benchmark of the run.
        config: Settings of the run, with the names.
    """
    if wrong := _single_texts(benchmark, config):
        return wrong  # the checks of the contents would stumble over wrong types
    problems = package_problems(_named(config))
    detector = getattr(benchmark, "detector", "")
    if isinstance(detector, str) and detector in DETECTORS:
        problems += package_problems([(detector, DETECTORS[detector])])
    return [*problems, *(benchmark.problems(config) if isinstance(benchmark, ChecksFirst) else ())]


def picture_needs(pipe: Any, plan: Plan, config: EvaluationConfig, out: Path) -> list[DiskNeed]:
    """Return the space that the unattacked pictures and the latents take, without what lies there already.

    Pictures of prompt sets lie there twice: as tensors for the metrics and as files that the detector judged. Those of
    probes are tensors alone. Nobody knows yet how many pictures attacks will need.

    Args:
        pipe: Base pipeline, whose UNet and autoencoder set the sizes.
        plan: Plan of the run.
        config: Settings of the run.
        out: Folder of the results.
    """
    shape = BaseConfigs.of_pipeline(pipe).latent_shape
    scale = getattr(pipe, "vae_scale_factor", None)
    if shape is None or not isinstance(scale, int):
        return []
    channels, height, width = shape
    picture = _CHANNELS * height * scale * width * scale
    judged = sum(len(prompts.cases) for prompts in (*plan.plain, plan.kept))
    drawn = judged + sum(len(prompts.cases) for prompts, _ in plan.probe_drawings())
    aims = len(plan.plain[0].cases) * channels * height * width * _FLOAT if plan.plain else 0
    place = out / CELLS
    size = (drawn + judged) * picture + aims - present(place)
    return [DiskNeed(place, max(0, size), f"{drawn} pictures and their latents")]


def _single_texts(benchmark: Benchmark, config: EvaluationConfig) -> list[str]:
    return [*single_text_problems(benchmark, type(benchmark).__name__), *single_text_problems(config, "config")]


def _named(config: EvaluationConfig) -> Iterator[tuple[str, object]]:
    yield from ((name, ATTACKS[name]) for name in config.attacks if name in ATTACKS)
    yield from ((name, METRICS[name]) for name in config.metrics if name in METRICS)


def _made_by(maker: Any) -> Any:
    return maker.func if isinstance(maker, partial) else maker
