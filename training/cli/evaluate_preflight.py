"""What the end of an evaluation needs, asked of the command line before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from robust_encoders.concepts import Concept
from robust_encoders.hub.embedded import embedded_folder, embedded_problems
from robust_encoders.utils.text_lists import comma_problems

from ..diffusion.base_configs import configs_of
from ..diffusion.devices import device_problems
from ..evaluation.plan import Benchmark
from ..evaluation.preflight import benchmark_problems, evaluation_problems, results_problems, run_problems
from ..evaluation.results import RESULTS_NAME
from ..worlds import BASES
from ..worlds.choice import world_of
from .evaluate_options import EvaluationRun, made_benchmark
from .requirements import base_problems, require


def require_evaluation(options: EvaluationRun, kind: type[Benchmark], folders: Iterable[Path]) -> None:
    """Check everything that an evaluation needs until its end and that is known before its encoders are loaded.

    Args:
        options: Options of the command ``evaluate``.
        kind: Class of the benchmark.
        folders: Folder of each evaluation.

    Raises:
        NotReadyError: If something is missing or wrong; the message lists everything.
    """
    config = options.config
    problems = [text for folder in folders for text in results_problems(folder)]
    problems += [*run_problems(config, options.out), *finished_problems(options.beside)]
    problems += device_problems(options.device, options.dtype) + base_problems(options.base or None, draws=True)
    problems += [] if problems else _unsuited_benchmark(options)
    problems += comma_problems("--concept", filter(None, [options.concept]), "evaluate one concept at a time")
    if not comma_problems("--concept", filter(None, [options.concept]), ""):
        # The concept of the encoder is not known yet. A benchmark that needs a known one is checked after the fetch.
        with suppress(ValueError):
            concept = Concept(name=options.concept or "concept", kind="object")
            problems += benchmark_problems(made_benchmark(kind, concept, options), config)
    require(problems)


def finished_problems(folders: Sequence[Path]) -> list[str]:
    """Return the folders given with ``--beside`` that hold no finished evaluation of the present suite version."""
    unfinished = [
        f"expected folders of finished evaluations with --beside, found no {RESULTS_NAME} in {folder}"
        for folder in folders
        if not (folder / RESULTS_NAME).is_file()
    ]
    finished = (folder for folder in folders if (folder / RESULTS_NAME).is_file())
    return [*unfinished, *(text for folder in finished for text in evaluation_problems(folder, "beside this one"))]


def _unsuited_benchmark(options: EvaluationRun) -> list[str]:
    """Return the problem of a base of one's own that is judged as an embedded base, whose pictures have another size.

    A copy of the embedded base has the same size.
    """
    if options.benchmark not in BASES or not options.base or world_of(options.base) is not None:
        return []
    if embedded_problems(options.benchmark):
        return []
    judged = configs_of(embedded_folder(options.benchmark) / "base")
    own = configs_of(options.base, draws=True)
    shapes = [None if one is None else one.latent_shape for one in (judged, own)]
    if None in shapes or shapes[0] == shapes[1]:
        return []
    return [
        f"expected --prompts with a base of your own, the file of prompts, found none, so that the judges of "
        f"{options.benchmark} would look at pictures of another size; add it, and for numbers of what is kept --kept"
    ]
