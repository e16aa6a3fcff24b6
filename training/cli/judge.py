"""``robust-encoders judge``: finished evaluations judged by another detector, without drawing any picture."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded

from ..evaluation.benchmarks import BENCHMARKS
from ..evaluation.benchmarks.detectors import benchmark_detector
from ..evaluation.results import RESULTS_NAME, Evaluation
from ..evaluation.second_judgement import judge_again
from ..protocols import Detector
from ..reports.judged_table import judged_text
from .evaluate import concept_of
from .parsing import parser_of
from .requirements import require, require_places
from .results import own_folders

_ABOUT = (
    "Judge the kept pictures of finished evaluations by another detector, without drawing any, and print its rates "
    "beside the recorded ones."
)


def judge(arguments: Sequence[str]) -> int:
    """Judge finished evaluations again, write the results of each, and print the new rates beside the old ones.

    Args:
        arguments: Folders and options.

    Returns:
        The exit code.

    Raises:
        UsageError: If a folder holds no evaluation, or the detector is not known.
        NotReadyError: If the results cannot be written, or would replace others.
        IntegrityError: If pictures are missing or changed.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    options = _parser().parse_args(arguments)
    folders = own_folders(options.found)
    outs = _outs(folders, options)
    require_places(*outs)
    require(
        f"expected no results in {out} yet, found {RESULTS_NAME}; choose another folder with --out"
        for out in outs
        if (out / RESULTS_NAME).exists()
    )
    try:
        evaluations = [Evaluation.read(folder) for folder in folders]
        detectors = [_detector(one, options) for one in evaluations]
    except FileNotFoundError as error:
        raise UsageError(f"expected a finished evaluation, found no {error.filename or error}") from error
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    for folder, out, detector in zip(folders, outs, detectors, strict=True):
        found = judge_again(folder, detector)
        found.write(out)
        say(f"{judged_text(found, folder)}\n{out / RESULTS_NAME}\n")
    return EXIT_OK


def _parser() -> ArgumentParser:
    parser = parser_of("judge", _ABOUT)
    parser.add_argument("found", type=expanded, nargs="+", metavar="FOLDER", help="folder of a finished evaluation")
    parser.add_argument("--detector", required=True, metavar="NAME", help="detector, as in evaluate --detector")
    parser.add_argument("--benchmark", default="", help="benchmark that knows the detector (default: the recorded one)")
    parser.add_argument("--device", default="cpu", help="device of a detector that is a classifier")
    parser.add_argument(
        "--out",
        type=expanded,
        help="folder of the new results, one inside it for each of several evaluations "
        "(default: judged-NAME in each evaluation)",
    )
    return parser


def _outs(folders: Sequence[Path], options: Namespace) -> list[Path]:
    if options.out is None:
        slug = re.sub(r"[^A-Za-z0-9_.]+", "-", options.detector).strip("-.")
        return [folder / f"judged-{slug}" for folder in folders]
    if len(folders) == 1:
        return [options.out]
    names = [folder.resolve().name for folder in folders]
    if len({*names}) < len(names):
        raise UsageError(f"expected folders with names of their own for --out, found {', '.join(names)}")
    return [options.out / name for name in names]


def _detector(evaluation: Evaluation, options: Namespace) -> Detector:
    benchmark = options.benchmark or evaluation.benchmark
    if options.benchmark and options.benchmark not in BENCHMARKS:
        raise ValueError(f"expected a benchmark, found {options.benchmark!r}; known: {', '.join(BENCHMARKS)}")
    return benchmark_detector(benchmark, options.detector, concept_of(evaluation.concept), device=options.device)
