"""The command ``annotate``: facts that an artifact does not state yet, and the base that it was made from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders.artifact.forms import PICTURE_NAME, file_names, is_replaced
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.stated import missing_facts
from robust_encoders.artifact.target import require_target
from robust_encoders.cli.facts import add_fact_options, base_ids, fingerprinted, open_base, require_facts
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add ``annotate`` to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    parser = commands.add_parser(
        "annotate", parents=[as_json], help="state the concept, method, licence or base of an artifact in a folder"
    )
    parser.set_defaults(command=_annotate)
    parser.add_argument("folder", metavar="FOLDER", type=expanded, help="folder of the artifact")
    add_fact_options(parser)


def _annotate(options: argparse.Namespace) -> int:
    require_facts(options)
    stated = ("concept", "kind", "method", "license", "base", "base_id", "family")
    if not any(getattr(options, name) for name in stated):
        raise UsageError("expected a fact to state, found none; pass --concept, --method, --license or --base")
    folder: Path = options.folder
    if folder.is_dir():
        require_target(folder)
    encoder = RobustEncoder.from_pretrained(folder)
    _require_no_variants(folder, encoder.manifest.form)
    encoder.annotate(
        concept=_concept(options, encoder.manifest.concept),
        method=options.method or "",
        license=options.license or "",
    )
    _record_base(options, encoder)
    manifest = encoder.save_pretrained(folder)
    if options.json:
        say(manifest.to_json().rstrip())
    else:
        say_stated(manifest)
    return EXIT_OK


def _concept(options: argparse.Namespace, present: Concept) -> Concept | None:
    if options.concept is None and options.kind is None:
        return None
    if options.concept in (None, present.name):
        return replace(present, kind=options.kind or present.kind)
    return Concept(name=options.concept, kind=options.kind or present.kind)


def _record_base(options: argparse.Namespace, encoder: LoadedArtifact) -> None:
    manifest, loaded = encoder.manifest, open_base(options)
    if loaded is None:
        stated = replace(
            manifest.base, ids=base_ids(options) or manifest.base.ids, family=options.family or manifest.base.family
        )
        encoder.annotate(base=stated if stated != manifest.base else None)
        return
    # Nothing is attached, so other text encoders of the base do not matter.
    encoder.check(loaded.pipe, allow_partial=True).raise_if_incompatible()
    whole = manifest.form == "weights"
    component = manifest.component if whole else "text_encoder"
    encoder.annotate(base=fingerprinted(loaded, family=options.family or "", with_unet=not whole, component=component))


def _require_no_variants(folder: Path, form: str) -> None:
    written = {*file_names(form), PICTURE_NAME}
    if others := sorted(path.name for path in folder.iterdir() if is_replaced(path.name) and path.name not in written):
        raise UsageError(
            f"expected one file of weights in {folder}, found {', '.join(others)}, too, which saving would remove; "
            "move it to another folder first"
        )


def say_stated(manifest: Manifest) -> None:
    """Print what an artifact states, and what is missing before it can be pushed.

    Args:
        manifest: Manifest of the artifact.
    """
    base, recorded = manifest.base, manifest.base.text_encoder is not None
    licence, concept = manifest.license or "not stated", manifest.concept.name
    say(f"licence {licence}, concept {concept!r}, method {manifest.method['name']}")
    say(f"base {', '.join((base.family, *base.ids))}, fingerprints {'recorded' if recorded else 'not recorded'}")
    for one in missing_facts(manifest):
        say(f"push needs the {one.fact}: {one.remedy}")
