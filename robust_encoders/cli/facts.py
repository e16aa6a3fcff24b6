"""Options that state the facts of an artifact: its concept, method, licence and base."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import get_args

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.stated import is_blank
from robust_encoders.concepts import ConceptKind
from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.hub.pipelines import LoadedPipeline, load_pipeline
from robust_encoders.utils.console import UsageError

_ID = re.compile(r"[\w.-]+/[\w.-]+")


def add_fact_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of a command.

    Args:
        parser: Parser of the command.
    """
    parser.add_argument("--concept", metavar="WORDS", help="concept that the encoder has unlearned")
    parser.add_argument("--kind", choices=get_args(ConceptKind), help="kind of the concept; content by default")
    parser.add_argument("--method", metavar="NAME", help="name of the method that made the encoder")
    parser.add_argument("--license", metavar="NAME", help="licence of the weights, as an SPDX or Hub identifier")
    parser.add_argument(
        "--base",
        metavar="PIPELINE",
        help="folder of the pipeline that the encoder was made from, or its ORG/NAME or ORG/NAME@REVISION on the Hub, "
        f"or {' or '.join(EMBEDDED_BASES)}; its fingerprints are recorded. Required for "
        "adapters (SPM) and for a changed UNet (ESD, UCE, Receler, Ablating Concepts)",
    )
    parser.add_argument(
        "--base-id",
        metavar="ORG/NAME",
        help="Hub id of that pipeline; known without it for a folder of the Hub's cache",
    )
    parser.add_argument(
        "--family", metavar="NAME", help="family of that pipeline; by default sd1 or sd2, by the size of its encoder"
    )


def require_facts(options: argparse.Namespace) -> None:
    """Refuse facts that state nothing.

    Args:
        options: Parsed options of the command.

    Raises:
        UsageError: If an option states nothing, for example ``--license unknown``; the message names all such options.
    """
    stated = {f"--{name}": getattr(options, name) for name in ("concept", "method", "license", "family")}
    wrong = [f"{option} {text!r}" for option, text in stated.items() if text is not None and is_blank(text)]
    if options.base_id is not None and not _ID.fullmatch(options.base_id):
        wrong.append(f"--base-id {options.base_id!r}, which is no ORG/NAME")
    if wrong:
        raise UsageError(
            f"expected facts of the encoder, found {', '.join(wrong)}; state each fact, or leave its option out"
        )


def base_ids(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the Hub ids of the base that the options name."""
    return () if options.base_id is None else (options.base_id,)


def open_base(options: argparse.Namespace) -> LoadedPipeline | None:
    """Load the pipeline that ``--base`` names, a folder or a Hub id; None without that option.

    Raises:
        BaseLoadError: If there is no such pipeline, or diffusers cannot load it.
    """
    if options.base is None:
        return None
    loaded = load_pipeline(options.base)
    stated = base_ids(options)
    return loaded if not stated or stated == loaded.ids else replace(loaded, ids=stated, revision="")


def fingerprinted(
    loaded: LoadedPipeline, *, family: str = "", with_unet: bool, component: str = "text_encoder"
) -> Base:
    """Return the base that a pipeline is, with its fingerprints.

    Args:
        loaded: Pipeline and its origin.
        family: Family of the base; empty to derive it from the architecture.
        with_unet: True for artifacts that depend on the UNet, too.
        component: Text encoder that the artifact changes.
    """
    return Base.from_pipeline(
        loaded.pipe,
        family=family or loaded.family,
        ids=loaded.ids,
        revision=loaded.revision,
        with_unet=with_unet,
        component=component,
    )
