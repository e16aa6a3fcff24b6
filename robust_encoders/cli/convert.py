"""The command ``convert``: published weights of other projects become an artifact of this package."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.cli.pipelines import open_pipeline
from robust_encoders.concepts import Concept, ConceptKind
from robust_encoders.conversion.convert import Origin, convert
from robust_encoders.conversion.spm_release import adapter_from_release, is_adapter_file
from robust_encoders.conversion.unet_release import UNetRelease, find_unet_release, unet_artifact
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.catalog import CATALOG, did_you_mean
from robust_encoders.overlay import Overlay
from robust_encoders.utils.console import EXIT_OK, UsageError, say

UNET, TEXT_ENCODER = "unet", "text_encoder"


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add ``convert`` to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    converting = commands.add_parser(
        "convert", parents=[as_json], help="convert weights of another format to an artifact"
    )
    converting.set_defaults(command=_convert)
    _add_arguments(converting)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="file of weights, its folder, or a name in the catalog")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the artifact")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config.json of the text encoder; by default the one beside the weights",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="PIPELINE_FOLDER",
        help="folder of the pipeline that adapters (SPM) or a changed UNet (ESD, UCE, Receler, Ablating Concepts) were "
        "made from; required for them",
    )
    parser.add_argument(
        "--component",
        choices=(UNET, TEXT_ENCODER),
        help="part of a file that holds both a changed UNet and a changed text encoder",
    )
    parser.add_argument("--concept", metavar="WORDS", help="concept that the encoder has unlearned")
    parser.add_argument("--kind", choices=get_args(ConceptKind), default="content", help="kind of the concept")
    parser.add_argument("--method", help="name of the method that made the encoder")
    parser.add_argument("--license", help="licence of the weights")
    parser.add_argument("--publisher", help="publisher of the weights, for example a repository")


def _convert(options: argparse.Namespace) -> int:
    try:
        manifest = _converted(options)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    if options.json:
        say(manifest.to_json().rstrip())
        return EXIT_OK
    source = manifest.recipe.get("source", {})
    say(f"{options.out}  from {source.get('file', options.source)} ({source.get('layout', 'an artifact')})")
    say(f"licence {manifest.license or 'not stated'}, concept {manifest.concept.name!r}")
    return EXIT_OK


def _converted(options: argparse.Namespace) -> Manifest:
    source = Path(options.source).expanduser()
    if source.exists():
        return _converted_file(options, source)
    if options.source in CATALOG:
        return RobustEncoder.from_pretrained(options.source).save_pretrained(options.out)
    raise UsageError(
        f"expected a file, a folder or a catalog name, found {options.source!r}. {did_you_mean(options.source)}"
    )


def _converted_file(options: argparse.Namespace, source: Path) -> Manifest:
    if is_adapter_file(source):
        pipe = _base_of(options, source, "adapters", "their gates need its text encoder")
        return _saved(options, adapter_from_release(source, pipe, origin=_origin(options)), pipe)
    found = find_unet_release(source)
    if found is not None and _is_wanted(options, found):
        pipe = _base_of(options, source, "UNet tensors", "the artifact records its fingerprints")
        return _saved(options, unet_artifact(found, pipe, origin=_origin(options)), pipe)
    if options.component == UNET:
        raise UsageError(
            f"expected a changed UNet in {source}, found none; leave out --component, or pass another file"
        )
    part = TEXT_ENCODER if options.component == TEXT_ENCODER else ""
    return convert(source, options.out, origin=_origin(options), config=options.config, part=part)


def _is_wanted(options: argparse.Namespace, found: UNetRelease) -> bool:
    """Return true if the UNet of a file is to be converted, false if the text encoder beside it is."""
    if found.kind == "parts" and found.text_encoder and options.component is None:
        raise UsageError(
            f"expected one changed component in {found.path}, found a UNet and a text encoder, which become two "
            f"artifacts; convert each by itself with --component {UNET} and --component {TEXT_ENCODER}"
        )
    return bool(options.component != TEXT_ENCODER)


def _base_of(options: argparse.Namespace, source: Path, what: str, why: str) -> Any:
    if options.base is None:
        raise UsageError(
            f"expected --base PIPELINE_FOLDER for the {what} in {source}, found none: the file does not name the "
            f"pipeline that they were trained on, and {why}; pass that pipeline"
        )
    return open_pipeline(options.base)


def _saved(options: argparse.Namespace, made: Artifact, pipe: Any) -> Manifest:
    overlay = Overlay(made.manifest, made.tensors, made.config)
    overlay.check(pipe).raise_if_incompatible()
    return overlay.save_pretrained(options.out)


def _origin(options: argparse.Namespace) -> Origin:
    stated = {name: getattr(options, name) for name in ("method", "license", "publisher")}
    origin = replace(Origin(), **{name: value for name, value in stated.items() if value})
    return replace(origin, concept=Concept(name=options.concept, kind=options.kind)) if options.concept else origin
