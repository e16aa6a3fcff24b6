"""``robust-encoders synonyms``: the words nearest to a concept in a base's text encoder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from robust_encoders.concepts import Concept
from robust_encoders.utils.console import EXIT_OK, UsageError, say

from ..diffusion.two_encoders import backbone_of
from ..prompts.synonyms import Neighbour, SynonymConfig, SynonymSpace, nearest_words
from ..worlds import DEFAULT_BASE
from ..worlds.choice import open_named
from .preflight import word_problems
from .requirements import base_problems, require


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("concept", metavar="CONCEPT", help="word or phrase of the concept")
    parser.add_argument("--base", default=DEFAULT_BASE, help="folder or Hub id of a pipeline, or an embedded base")
    parser.add_argument("--synonyms", nargs="*", default=(), help="words of the concept that are known already")
    parser.add_argument("--anchor", default="", help="words that the concept is mapped to; they are no synonyms")
    parser.add_argument("--k", type=int, default=SynonymConfig.k, help="largest number of words")
    parser.add_argument("--threshold", type=float, default=SynonymConfig.threshold, help="smallest cosine of a word")
    parser.add_argument(
        "--space", choices=get_args(SynonymSpace), default=SynonymConfig.space, help="space of the cosine"
    )


def synonyms(options: argparse.Namespace) -> int:
    """Print the words nearest to a concept.

    Args:
        options: Options of ``add_options``.

    Returns:
        The exit code.

    Raises:
        NotReadyError: If the base does not exist or is of the wrong kind, or a word is a list.
        UsageError: If an option is outside its range.
    """
    require([*word_problems(options), *base_problems(options.base)])
    try:
        config = SynonymConfig(k=options.k, threshold=options.threshold, space=options.space)
    except ValueError as error:
        raise UsageError(str(error)) from error
    concept = Concept(
        name=options.concept, kind="object", anchor=options.anchor, synonyms=tuple(dict.fromkeys(options.synonyms))
    )
    pipe = open_named(options.base).pipe
    say(synonym_table(concept, found_synonyms(concept, pipe, config), config))
    return EXIT_OK


def found_synonyms(
    concept: Concept, pipe: Any, config: SynonymConfig, component: str = "text_encoder"
) -> list[tuple[Neighbour, ...]]:
    """Return the nearest words of each part of a concept; a word of one part is no synonym of another.

    Args:
        concept: The concept.
        pipe: Pipeline of the base.
        config: Number of words, smallest cosine, and space.
        component: Component that will be trained; of two text encoders, it names the one that is asked.
    """
    backbone, taken = backbone_of(pipe, component), set(concept.words())
    taken.update(part.anchor for part in concept.parts if part.anchor)
    found: list[tuple[Neighbour, ...]] = []
    for part in concept.parts or (concept,):
        found.append(nearest_words(backbone, part, config, excluded=taken))
        taken.update(one.word for one in found[-1])
    return found


def synonym_table(concept: Concept, found: Sequence[Sequence[Neighbour]], config: SynonymConfig) -> str:
    """Return the words with their cosines as text, the nearest first, by part of the concept."""
    lines = []
    for part, words in zip(concept.parts or (concept,), found, strict=True):
        lines.append(f"words near {part.name!r} by {config.space}, cosine of at least {config.threshold:g}:")
        lines += [f"  {one.cosine:5.2f}  {one.word}" for one in words] or ["  none; lower the threshold for more"]
    return "\n".join(lines)
