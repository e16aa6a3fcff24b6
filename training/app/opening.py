"""From names to the pipelines, encoders and judges of the page; whatever is missing is told before the page opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch

from robust_encoders.artifact.embedded_bases import EMBEDDED, EmbeddedFacts
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.errors import BaseLoadError, NotReadyError
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.hub.embedded import embedded_name, embedded_problems
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline, require_place
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.devices import device_problem

from ..detectors import DETECTORS
from ..diffusion.load import UNetDtype
from ..diffusion.sampling import SamplingConfig
from ..evaluation.benchmarks import BENCHMARKS, StableDiffusionBenchmark
from ..evaluation.benchmarks.described_detectors import refuse_undescribed
from ..evaluation.config import EvaluationConfig
from ..evaluation.evaluate import defaults_of
from ..worlds.choice import other_world_problems
from .screen import Screen
from .studio import Studio
from .trials import Trial, refuse_unknown_detector, trial_of


@dataclass(frozen=True)
class AppConfig:
    """What the page offers.

    Args:
        encoders: Names or folders of encoders and overlays; empty for all that the package has for an embedded base.
        base: Folder or Hub id of the pipeline, or name of an embedded base; empty for the default one.
        detector: Name of the detector, as in ``evaluate --detector``; empty for the usual one of each concept.
        steps: Denoising steps of every picture; None for those of an evaluation.
        guidance: Guidance scale of every picture; None for that of an evaluation.
        workers: Number of visitors that are served at the same time.
        device: Device of the pipeline; empty for a GPU if there is one, and for the CPU with an embedded base.
        dtype: Precision of all weights.
    """

    encoders: tuple[str, ...] = ()
    base: str = ""
    detector: str = ""
    steps: int | None = None
    guidance: float | None = None
    workers: int = 2
    device: str = ""
    dtype: UNetDtype = "float32"

    @property
    def embedded(self) -> EmbeddedFacts | None:
        """Facts about the embedded base that the page draws with; None for any other base."""
        return EMBEDDED.get(embedded_name(self.base or None))

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, in sentences."""
        found = []
        if not self.encoders and not _embedded_names(self):
            example = "FOLDER" if self.embedded else "nudity"
            found.append(
                "expected encoders for this base, found none; name them, for example "
                f"`robust-encoders app {example} --base {self.base}`"
            )
        if self.workers < 1:
            found.append(f"expected at least 1 worker, found {self.workers}; leave --workers out for 2")
        if self.steps is not None and self.steps < 1:
            found.append(f"expected at least 1 step, found {self.steps}; leave --steps out for the usual number")
        return [*found, *_base_problems(self), *_detector_problems(self)]


def _base_problems(config: AppConfig) -> list[str]:
    """Return why the device or the pipeline does not exist; it is asked first, because encoders take long to fetch."""
    found = [problem] if (problem := device_problem(config.device)) else []
    try:
        if config.embedded is None:
            require_place(config.base)
        else:
            found += embedded_problems(config.embedded.name)
    except BaseLoadError as error:
        found.append(str(error))
    return found


def _detector_problems(config: AppConfig) -> list[str]:
    try:
        if config.detector and config.embedded is not None:
            refuse_unknown_detector(config.embedded, config.detector)
        elif config.detector and config.detector not in DETECTORS:
            refuse_undescribed(config.detector)
    except ValueError as error:
        return [str(error)]
    return []


def open_studio(config: AppConfig) -> Studio:
    """Return the studio of a page, with everything loaded.

    Args:
        config: Settings of the page.

    Raises:
        NotReadyError: If settings are wrong, the pipeline, the device or the detector does not exist, the pipeline does
            not draw from prompts alone, an encoder was made from another embedded base, or a detector stands beside
            encoders of several concepts.
        BaseLoadError: If diffusers cannot load the pipeline.
        UnknownNameError: If an encoder does not exist; other errors of ``RobustEncoder.from_pretrained`` likewise.
        OSError: If the model of a detector is not there.
        ModuleNotFoundError: Naming the extra to install.
    """
    if problems := config.problems():
        raise NotReadyError.of(problems)
    encoders = {name: RobustEncoder.from_pretrained(name) for name in config.encoders or _embedded_names(config)}
    if problems := other_world_problems(config.base, encoders.values()):
        raise NotReadyError.of(problems)
    concepts = _concepts(encoders)
    if config.detector and len(concepts) > 1:
        raise NotReadyError.of(
            [
                f"expected encoders of one concept beside --detector, found {', '.join(concepts)}; leave "
                "--detector out, or name the encoders of one concept"
            ]
        )
    pipe, sampling = _pipeline(config), _sampling(config)
    checker, extractor = _taken_checker(pipe)
    facts = config.embedded
    family = facts.name if facts else ""
    trials = {
        name: trial_of(concept, pipe, family=family, sampling=sampling, detector=config.detector)
        for name, concept in concepts.items()
    }
    return Studio(
        pipe,
        encoders,
        trials=trials,
        screen=Screen(checker, extractor, _content(trials), draws=facts.draws if facts else ""),
        sampling=sampling,
        workers=config.workers,
        title=f"the small base of {facts.draws} in the package" if facts else config.base,
    )


def _embedded_names(config: AppConfig) -> tuple[str, ...]:
    """Return the names of all encoders that the package has for the page's base."""
    facts = config.embedded
    return tuple(name for name, entry in CATALOG.items() if facts and entry.embedded_base == facts.name)


def _concepts(encoders: Mapping[str, LoadedArtifact]) -> dict[str, Concept]:
    erased = [artifact.manifest.concept for artifact in encoders.values()]
    return {part.name: part for concept in erased for part in (concept.parts or (concept,))}


def _content(trials: Mapping[str, Trial]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, trial.detector)
        for name, trial in trials.items()
        if trial.concept.kind == "content" and trial.detector is not None
    )


def _sampling(config: AppConfig) -> SamplingConfig:
    facts = config.embedded
    kind = BENCHMARKS.get(facts.name) if facts else StableDiffusionBenchmark
    usual = (EvaluationConfig() if kind is None else defaults_of(kind)).sampling
    return SamplingConfig(
        usual.steps if config.steps is None else config.steps,
        usual.guidance if config.guidance is None else config.guidance,
        usual.batch,
    )


def _pipeline(config: AppConfig) -> Any:
    device = config.device or ("cuda" if torch.cuda.is_available() and not config.embedded else "")
    plain = config.embedded is not None and config.dtype == "float32"  # as it is loaded anyway
    options = PipelineOptions(dtype=None if plain else config.dtype, device=device)
    pipe = load_pipeline(config.base or None, options).pipe
    if not _draws_from_prompts(type(pipe)):
        raise NotReadyError.of(
            [
                f"expected a pipeline that draws from a prompt alone, found {type(pipe).__name__} in {config.base}; "
                "pass a text-to-image pipeline as --base"
            ]
        )
    return pipe


def _draws_from_prompts(kind: type) -> bool:
    """Return True if pipelines of a class take a prompt, and neither a picture nor anything else that they need."""
    asked = signature(kind.__call__).parameters
    needed = {
        name
        for name, one in asked.items()
        if one.default is Parameter.empty and one.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    return "prompt" in asked and "image" not in asked and needed <= {"self", "prompt"}


def _taken_checker(pipe: Any) -> tuple[Any, Any]:
    """Take the safety checker out of a pipeline and return it; the page asks it about every picture itself.

    Inside the pipeline it would blacken pictures before a judge sees them.
    """
    checker, extractor = getattr(pipe, "safety_checker", None), getattr(pipe, "feature_extractor", None)
    if checker is None or extractor is None:
        return None, None
    pipe.register_modules(safety_checker=None)
    pipe.register_to_config(requires_safety_checker=False)
    return checker.eval(), extractor
