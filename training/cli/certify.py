"""``robust-encoders certify``: all short prompts ranked by distance to the concept, and a sample of them judged."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from robust_encoders.artifact.target import target_problems
from robust_encoders.encoder import RobustEncoder
from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.extras import package_problems
from robust_encoders.utils.home import expanded, write_atomically
from robust_encoders.utils.targets import place_problems

from ..detectors import DETECTORS
from ..diffusion.devices import device_problems
from ..diffusion.load import UNetDtype
from ..diffusion.sampling import SamplingConfig
from ..evaluation.benchmarks import BENCHMARKS, StableDiffusionBenchmark
from ..evaluation.benchmarks.described_detectors import kinds_of
from ..evaluation.benchmarks.detectors import benchmark_detector
from ..evaluation.certificate.certify import certify as made
from ..evaluation.certificate.certify import form_problems
from ..evaluation.certificate.config import CertificateConfig
from ..evaluation.certificate.record import Certificate, with_certificate
from ..evaluation.certificate.trend import LEVEL
from ..evaluation.evaluate import defaults_of
from ..evaluation.plan import NamesDetectors
from ..provenance import write_json
from ..reports.plots.certificate import certificate_figure
from ..reports.plots.style import svg
from ..worlds import DEFAULT_BASE
from ..worlds.choice import embedded_base_of, open_named, other_world_problems, world_of
from .evaluate import concept_of
from .parsing import parser_of
from .requirements import base_problems, require

CERTIFICATE_NAME, PLOT_NAME = "certificate.json", "certificate.svg"
_ABOUT = (
    "Encode all prompts of up to two tokens, rank them by distance to the concept as the UNet sees it, and draw the "
    "nearest and samples of the others. Say how many showed the concept. A stopped run goes on."
)
_NUMBERS = {
    "nearest": "number of nearest prompts that are drawn",
    "random": "number of prompts drawn from all at random",
    "each": "number of prompts drawn from each tenth of the ranking",
    "seeds": "number of pictures of each prompt",
    "floor": "number of pictures of the empty prompt, for the floor of chance",
    "seed": "seed of the samples and of all pictures",
    "batch": "number of prompts that are encoded at once",
}


def certify(arguments: Sequence[str]) -> int:
    """Certify an encoder, write the record and the plot, and print the statement.

    Args:
        arguments: Name of the encoder, then options.

    Returns:
        The exit code: 0 whether or not there is a certificate.

    Raises:
        UsageError: If an option is outside its range, or the concept or the detector is not known.
        NotReadyError: If the encoder has no certificate by its form, or was made from another embedded base, or
            something that the run needs is missing.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    options = _parser().parse_args(arguments)
    if options.record and not expanded(options.name).is_dir():
        raise UsageError(f"expected the folder of an encoder with --record, found {options.name}; name its folder")
    # What is recorded goes into the folder, so the folder is read, even if an encoder of the package has its name.
    name = expanded(options.name) if options.record else options.name
    options.base = options.base or embedded_base_of([name]) or DEFAULT_BASE
    out = options.out or Path("certificates") / (re.sub(r"[^A-Za-z0-9_.]+", "-", options.name).strip("-.") or "encoder")
    try:
        config = _config(options)
        written = target_problems(expanded(options.name)) if options.record else []
        require([*place_problems(out), *written, *_problems(options)])
        encoder = RobustEncoder.from_pretrained(name)
        require([*form_problems(encoder), *other_world_problems(options.base, [encoder])])
        concept = concept_of(options.concept, [encoder])
        pipe, base_name = _base(options)
        detector = benchmark_detector(_benchmark(options), _detector(options), concept, device=pipe.device)
        certificate = made(pipe, encoder, concept, detector, out=out, config=config, base_name=base_name)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    _write(certificate, out)
    if options.record:
        with_certificate(encoder, certificate).save_pretrained(expanded(options.name))
    say(json.dumps(certificate.result.record()) if options.json else certificate_text(certificate, out))
    return EXIT_OK


def _parser() -> ArgumentParser:
    defaults, parser = CertificateConfig(), parser_of("certify", _ABOUT)
    parser.add_argument("name", metavar="NAME", help="catalog name or folder of an encoder")
    parser.add_argument(
        "--base",
        default="",
        help=f"folder or Hub id of a pipeline, or an embedded base (default: the one that the encoder was made from, "
        f"or {DEFAULT_BASE})",
    )
    parser.add_argument(
        "--out", type=expanded, help="folder of the record and the finished parts (default: certificates/NAME)"
    )
    parser.add_argument(
        "--record", action="store_true", help="write the certificate into the encoder's manifest and card"
    )
    parser.add_argument("--concept", default="", help="concept that should be gone (default: the one that was erased)")
    parser.add_argument(
        "--detector", default="", help="detector, as in evaluate --detector (default: that of the base)"
    )
    for name, words in _NUMBERS.items():
        value = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{words} (default: {value})")
    parser.add_argument(
        "--pairs-among",
        type=int,
        help="number of nearest tokens whose pairs are encoded; 0 for all pairs (default: 0 for up to 1000 tokens, and "
        "1000 for more)",
    )
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: those of evaluate)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: that of evaluate)")
    parser.add_argument("--dtype", choices=get_args(UNetDtype), default="float32", help="precision of the loaded base")
    parser.add_argument("--device", default="", help="device of the models (default: a GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _benchmark(options: Namespace) -> str:
    """Return the benchmark whose sampling and detectors belong to the base."""
    world = world_of(options.base)
    return StableDiffusionBenchmark.name if world is None else world.name


def _detector(options: Namespace) -> str:
    usual: str = getattr(BENCHMARKS.get(_benchmark(options)), "usual_detector", "")
    return options.detector or usual


def _config(options: Namespace) -> CertificateConfig:
    known = BENCHMARKS.get(_benchmark(options)) or BENCHMARKS[DEFAULT_BASE]
    usual = defaults_of(known).sampling
    steps = usual.steps if options.steps is None else options.steps
    guidance = usual.guidance if options.guidance is None else options.guidance
    numbers: dict[str, int] = {name: getattr(options, name) for name in _NUMBERS}
    sampling = SamplingConfig(steps, guidance, usual.batch)
    return CertificateConfig(**numbers, pairs_among=options.pairs_among, sampling=sampling)


def _problems(options: Namespace) -> list[str]:
    """Return what is wrong with base, device and detector, before anything is loaded."""
    problems = [*base_problems(options.base, draws=True), *device_problems(options.device, options.dtype)]
    name, kind = _detector(options), BENCHMARKS.get(_benchmark(options))
    if not name:
        return [
            *problems,
            f"expected --detector for the base {options.base}, found none; add one, for example --detector nudenet",
        ]
    if kind is not None and issubclass(kind, NamesDetectors):
        kind.refuse_detector(name)
    if kind is StableDiffusionBenchmark and name not in DETECTORS:
        return [*problems, *package_problems((f"the detector {words}", part) for words, part in kinds_of(name).items())]
    return [*problems, *(package_problems([(name, DETECTORS[name])]) if name in DETECTORS else [])]


def _base(options: Namespace) -> tuple[Any, str]:
    """Return the pipeline of the base, and its name in the record."""
    opened = open_named(options.base, dtype=options.dtype, device=options.device, whole=True)
    world = world_of(options.base)
    return opened.pipe, next(iter(opened.ids), "") if world is None else world.name


def _write(certificate: Certificate, out: Path) -> None:
    write_atomically(out / PLOT_NAME, svg(certificate_figure(certificate)))
    write_json(out / CERTIFICATE_NAME, certificate.result.record())  # last: with it the certificate is finished


def certificate_text(certificate: Certificate, out: Path) -> str:
    """Return a certificate in words: the statement, the floors, the shares by tenth, the bound.

    Args:
        certificate: Certificate.
        out: Folder of its files.
    """
    rows = [("nearest", certificate.nearest), ("random", certificate.random)]
    rows += [(f"tenth {i}", one) for i, one in enumerate(certificate.tenths, 1)]
    rows += [(f"base {i}", one) for i, one in enumerate(certificate.base_tenths, 1)]
    lines = [f"{certificate.statement[:1].upper()}{certificate.statement[1:]}.", ""]
    for name, one in rows:
        (near, far), (low, high) = one.distances, one.interval
        lines.append(
            f"  {name:<9} distance {near:7.3f} to {far:7.3f}   {one.shown:4d} of {one.n:4d} showed the concept "
            f"({100 * low:.1f} to {100 * high:.1f} %)"
        )
    chance, bound = certificate.chance, certificate.bound
    lines += [
        "",
        f"By chance, the empty prompt shows it in at least one of as many pictures: {100 * chance.encoder.rate:.1f} % "
        f"with the encoder, {100 * chance.base.rate:.1f} % with the base alone.",
        f"Test that success falls with distance: one-sided p = {certificate.p:.2g}{_base_p(certificate)}; "
        f"below {LEVEL} is asked for.",
        "No lower bound on the distance of other texts is known."
        if bound is None
        else f"No text has a distance below {bound:.4g}.",
        str(out / CERTIFICATE_NAME),
    ]
    return "\n".join(lines)


def _base_p(certificate: Certificate) -> str:
    if certificate.base_p is None:
        return ""
    return f" with the encoder, {certificate.base_p:.2g} in the ranking by the base's own text encoder"
