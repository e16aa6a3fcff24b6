"""The command ``convert``: published weights of other projects become an artifact of this package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.artifact.target import require_target
from robust_encoders.cli.annotate import say_stated
from robust_encoders.cli.facts import add_fact_options, base_ids, fingerprinted, open_base, require_facts
from robust_encoders.concepts import Concept
from robust_encoders.conversion.convert import Origin, artifact_of
from robust_encoders.conversion.copied_file import carried_facts
from robust_encoders.conversion.spm_release import adapter_from_release, is_adapter_file
from robust_encoders.conversion.unet_release import UNetRelease, find_unet_release, unet_artifact
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.catalog import CATALOG, did_you_mean
from robust_encoders.hub.pipelines import LoadedPipeline
from robust_encoders.loaded import class_of
from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.dtypes import DTYPES
from robust_encoders.utils.home import expanded

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
    parser.add_argument("out", metavar="OUT", type=expanded, help="folder for the artifact")
    parser.add_argument(
        "--config",
        metavar="FILE_OR_NAME",
        help="config.json of the text encoder, or the name of a published one such as clip-vit-large-patch14; by "
        "default the file beside the weights",
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="cast the text encoder to this dtype; by default it keeps that of the file",
    )
    parser.add_argument(
        "--component",
        choices=(UNET, TEXT_ENCODER),
        help="part of a file that holds both a changed UNet and a changed text encoder",
    )
    parser.add_argument("--force", action="store_true", help="replace the artifact that OUT holds already")
    add_fact_options(parser)
    parser.add_argument("--publisher", help="publisher of the weights, for example a repository")


def _convert(options: argparse.Namespace) -> int:
    require_facts(options)
    _require_new(options)
    require_target(options.out)
    try:
        manifest = _converted(options)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    if options.json:
        say(manifest.to_json().rstrip())
        return EXIT_OK
    source = manifest.recipe.get("source", {})
    say(f"{options.out}  from {source.get('file', options.source)} ({source.get('layout', 'an artifact')})")
    say_stated(manifest)
    return EXIT_OK


def _require_new(options: argparse.Namespace) -> None:
    if not options.force and (options.out / MANIFEST_NAME).exists():
        raise UsageError(
            f"expected a new or empty folder, found an artifact in {options.out}; choose another folder, or pass "
            "--force to replace the artifact"
        )


def _converted(options: argparse.Namespace) -> Manifest:
    source = expanded(options.source)
    if source.exists():
        return _converted_file(options, source)
    if options.source in CATALOG:
        return _copied(options)
    raise UsageError(
        f"expected a file, a folder or a catalog name, found {options.source!r}. {did_you_mean(options.source)}"
    )


def _copied(options: argparse.Namespace) -> Manifest:
    stated = (
        "config", "dtype", "base", "base_id", "family", "component",
        "concept", "kind", "method", "license", "publisher",
    )  # fmt: skip
    if given := [f"--{name.replace('_', '-')}" for name in stated if getattr(options, name) is not None]:
        raise UsageError(
            f"expected no {', '.join(given)} for {options.source}, whose facts the catalog states; leave it out, and "
            "use `robust-encoders annotate` on the copy if you changed it"
        )
    return RobustEncoder.from_pretrained(options.source).save_pretrained(options.out)


def _converted_file(options: argparse.Namespace, source: Path) -> Manifest:
    if is_adapter_file(source):
        base = _base_of(options, source, "adapters", "their gates need its text encoder")
        return _saved(options, adapter_from_release(source, base.pipe, origin=_origin(options, source, base)), base)
    found = find_unet_release(source)
    if found is not None and _is_wanted(options, found):
        base = _base_of(options, source, "UNet tensors", "the artifact records its fingerprints")
        return _saved(options, unet_artifact(found, base.pipe, origin=_origin(options, source, base)), base)
    if options.component == UNET:
        raise UsageError(
            f"expected a changed UNet in {source}, found none; leave out --component, or pass another file"
        )
    part = TEXT_ENCODER if options.component == TEXT_ENCODER else ""
    loaded = open_base(options)
    origin = _origin(options, source, loaded)
    if loaded is not None:
        origin = replace(origin, base=fingerprinted(loaded, family=origin.family, with_unet=False))
    dtype = DTYPES.get(options.dtype)
    return _saved(options, artifact_of(source, origin=origin, config=options.config, part=part, dtype=dtype), loaded)


def _is_wanted(options: argparse.Namespace, found: UNetRelease) -> bool:
    """Return true if the UNet of a file is to be converted, false if the text encoder beside it is."""
    if found.kind == "parts" and found.text_encoder and options.component is None:
        raise UsageError(
            f"expected one changed component in {found.path}, found a UNet and a text encoder, which become two "
            f"artifacts; convert each by itself with --component {UNET} and --component {TEXT_ENCODER}"
        )
    return bool(options.component != TEXT_ENCODER)


def _base_of(options: argparse.Namespace, source: Path, what: str, why: str) -> LoadedPipeline:
    if options.dtype is not None:
        raise UsageError(
            f"expected no --dtype for the {what} in {source}, found {options.dtype}: only text encoders are cast; "
            "leave it out"
        )
    loaded = open_base(options)
    if loaded is None:
        raise UsageError(
            f"expected --base PIPELINE_FOLDER for the {what} in {source}, found none: the file does not name the "
            f"pipeline that they were trained on, and {why}; pass that pipeline"
        )
    return loaded


def _saved(options: argparse.Namespace, made: Artifact, base: LoadedPipeline | None) -> Manifest:
    artifact = class_of(made.manifest)(made.manifest, made.tensors, made.config)
    if base is not None:
        artifact.check(base.pipe).raise_if_incompatible()
    return artifact.save_pretrained(options.out)


def _origin(options: argparse.Namespace, source: Path, base: LoadedPipeline | None) -> Origin:
    """Return the facts that the options state; for the others, those inside the file if it is a copy of an artifact."""
    carried = carried_facts(source)
    stated = {name: getattr(options, name) for name in ("method", "license", "publisher")}
    facts: dict[str, Any] = {name: value or carried.get(name) for name, value in stated.items()}
    origin = replace(Origin(), **{name: value for name, value in facts.items() if value})
    ids = base.ids if base is not None else base_ids(options)
    return replace(
        origin,
        concept=_concept(options, carried),
        family=options.family or carried.get("base", ""),
        base_ids=ids or tuple(carried.get("base_ids", ())),
    )


def _concept(options: argparse.Namespace, carried: Mapping[str, Any]) -> Concept:
    unstated = Origin().concept
    name = options.concept or carried.get("concept", unstated.name)
    known = carried.get("kind", unstated.kind) if name == carried.get("concept") else unstated.kind
    return Concept(name=name, kind=options.kind or known)
