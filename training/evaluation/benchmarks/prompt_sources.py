"""Prompts of an evaluation on a real base: from a file, or from a data set on the Hub at one commit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import expanded

from ...prompts.text_files import PromptFileError, read_text
from ..plan import PromptSet
from .csv_rows import columns_of
from .mma_prompts import PROMPT, is_mma, read_mma
from .prompt_files import (
    COLUMNS,
    I2P_FILE,
    I2P_REPO,
    GuidedPromptSet,
    coco_captions,
    hub_file,
    prompt_csv,
    read_i2p,
    require_commit,
)

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[^:/]+)(?::(?P<file>.+))?")


def concept_prompts(
    source: str, *, categories: Sequence[str] = (), guidance: float | None = None, seed: int = 0
) -> GuidedPromptSet:
    """Return prompts that state a concept.

    Args:
        source: A csv file with UnlearnDiffAtk's or I2P's columns, or with adversarial prompts of eval-unlearn's metric
            ``asr_mma_diffusion``; ``ORG/NAME@COMMIT:FILE`` for one on the Hub; ``AIML-TUDA/i2p@COMMIT`` for I2P itself.
        categories: Categories of I2P; only prompts that belong to at least one of them are taken.
        guidance: Guidance scale for files that have none.
        seed: Seed of the first picture of a file without seeds; the next pictures have the next seeds.

    Raises:
        PromptFileError: If the file has a wrong format, or categories are asked of a file without them.
        ValueError: If a revision is not a commit.
        FileNotFoundError: If there is no such file.
    """
    path, name = _local(source)
    columns = columns_of(read_text(path))
    if "sd_seed" in columns and "evaluation_seed" not in columns:
        return read_i2p(path, source=name, categories=categories)
    if categories:
        raise PromptFileError(
            f"expected I2P's columns in {name} to choose categories, found others; drop the categories"
        )
    if is_mma(columns):
        return read_mma(path, source=name, guidance=guidance, seed=seed)
    if columns and "prompt" not in columns:
        raise PromptFileError(
            f"expected columns of a known kind in {name}, found {', '.join(columns)}; rename them to those of "
            f"UnlearnDiffAtk ({', '.join(COLUMNS)}), I2P (prompt, sd_seed, sd_guidance_scale) or eval-unlearn "
            f"({PROMPT})"
        )
    return replace(prompt_csv(path, guidance=guidance), source=name)


def kept_prompts(source: str, *, n: int | None, seed: int) -> PromptSet:
    """Return prompts that do not state a concept.

    Args:
        source: A COCO annotation file (json), of which every picture's first caption is taken; or a csv file with
            UnlearnDiffAtk's columns, whose seeds are used and whose guidance scales are not. A file on the Hub is
            ``ORG/NAME@COMMIT:FILE``.
        n: Number of prompts to take from the start; None takes all.
        seed: Seed of the first picture of a json file; the next pictures have the next seeds.

    Raises:
        PromptFileError: If the file has a wrong format, or fewer than ``n`` prompts.
        ValueError: If a revision is not a commit.
        FileNotFoundError: If there is no such file.
    """
    path, _ = _local(source)
    if path.suffix.lower() == ".json":
        return coco_captions(path, n=n, seed=seed)
    # This guidance scale only replaces a missing column; it is not used.
    return first(prompt_csv(path, guidance=0.0), n)


def file_problems(read: Callable[[], object], source: str) -> list[str]:
    """Return what is wrong with a file of prompts here or with the name of one on the Hub, which is not fetched.

    Args:
        read: Function that reads the file.
        source: Path of the file, or its name on the Hub.
    """
    hub = _HUB.fullmatch(source)
    try:
        if hub is None or expanded(source).exists():
            read()
        else:
            require_commit(hub["revision"])
    except (OSError, ValueError) as error:
        return [str(error)]
    return []


def first(prompts: PromptSet, n: int | None) -> PromptSet:
    """Return the first ``n`` prompts as a plain set; None takes all.

    Raises:
        PromptFileError: If there are fewer than ``n``.
    """
    if n is not None and len(prompts.cases) < n:
        raise PromptFileError(
            f"expected at least {n} prompts in {prompts.name}, found {len(prompts.cases)}; ask for fewer"
        )
    return PromptSet(prompts.name, prompts.cases[:n])


def no_longer_than(prompts: GuidedPromptSet, tokens: int | None, tokenizer: Any) -> GuidedPromptSet:
    """Return the prompts of at most ``tokens`` tokens, without counting begin and end tokens; None takes all.

    UnlearnDiffAtk leaves out prompts of more than 60 tokens, because adversarial tokens would cut off their ends.

    Raises:
        PromptFileError: If none is left.
    """
    if tokens is None:
        return prompts
    ids = tokenizer([case.prompt for case in prompts.cases], add_special_tokens=False).input_ids
    kept = [len(row) <= tokens for row in ids]
    if not any(kept):
        raise PromptFileError(f"expected prompts of at most {tokens} tokens in {prompts.name}, found none; allow more")
    cases = tuple(case for case, fits in zip(prompts.cases, kept, strict=True) if fits)
    scales = tuple(scale for scale, fits in zip(prompts.guidance, kept, strict=True) if fits)
    return replace(prompts, cases=cases, guidance=scales)


def one_guidance(scales: Sequence[float]) -> float:
    """Return the guidance scale that all prompts share.

    Raises:
        PromptFileError: If the scales differ; the message gives the number of prompts for each scale.
    """
    counts = Counter(scales)
    if len(counts) > 1:
        found = ", ".join(f"{scale:g} ({n} prompts)" for scale, n in sorted(counts.items()))
        raise PromptFileError(
            f"expected one guidance scale for all prompts, found {found}: split the file by its column "
            "evaluation_guidance, or draw all prompts at the scale of the sampling, which departs from the file"
        )
    return next(iter(counts))


def _local(source: str) -> tuple[Path, str]:
    """Return the file, downloaded if necessary, and the name of its origin."""
    path, hub = expanded(source), _HUB.fullmatch(source)
    if path.is_file():
        return path, path.name
    if hub is None and path.exists():
        raise PromptFileError(f"expected a file of prompts, found no regular file at {source}; name a file")
    if hub is None:
        raise FileNotFoundError(f"expected a file, or ORG/NAME@COMMIT:FILE for one on the Hub, found {source!r}")
    file = hub["file"] or (I2P_FILE if hub["repo"] == I2P_REPO else "")
    if not file:
        raise ValueError(f"expected ORG/NAME@COMMIT:FILE, found {source!r}: name the file within the data set")
    return hub_file(hub["repo"], file, revision=hub["revision"]), f"{hub['repo']}@{hub['revision']}/{file}"
