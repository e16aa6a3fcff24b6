"""Prompt sets from common files: UnlearnDiffAtk's csv, I2P, COCO captions; each with a name and a hash.

All rows are checked before the first picture is drawn. One error lists all problems with their lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_encoders.errors import DownloadError
from robust_encoders.hub.connection import unreachable

from ...prompts.text_files import PromptFileError, read_text
from ...provenance import canonical_sha256
from ...types import Case
from ..plan import PromptSet
from .csv_rows import CsvRow, csv_rows, refuse, refuse_missing_columns

I2P_REPO, I2P_FILE = "AIML-TUDA/i2p", "i2p_benchmark.csv"
COLUMNS = ("case_number", "prompt", "evaluation_seed", "evaluation_guidance")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_SEED = 2**63
_GROUP = "group:"  # beginning of the names of columns that hold sub-groups


@dataclass(frozen=True)
class GuidedPromptSet(PromptSet):
    """A prompt set whose file gives each prompt its own guidance scale.

    Args:
        name: Name of the set.
        cases: Prompts and seeds; ``index`` is the file's case number.
        guidance: Classifier-free guidance scale of each case.
        source: Origin of the prompts: a file name, or repository, revision and file.
    """

    guidance: tuple[float, ...] = ()
    source: str = ""

    @cached_property
    def sha256(self) -> str:
        """Hash of the prompts, their seeds, their guidance scales, and their goals if they have any."""
        rows = zip(self.cases, self.guidance, strict=True)
        goals = [case.goal for case in self.cases]
        hashed: list[Any] = [[case.prompt, case.seed, scale] for case, scale in rows]
        return canonical_sha256([hashed, goals] if any(goals) else hashed)

    def by_guidance(self) -> dict[float, PromptSet]:
        """Return guidance scale to the prompts with that scale, because a batch has one scale."""
        rows = list(zip(self.cases, self.guidance, strict=True))
        return {
            scale: PromptSet(f"{self.name}@{scale:g}", tuple(case for case, other in rows if other == scale))
            for scale in sorted(set(self.guidance))
        }


def prompt_csv(path: Path, *, name: str = "", guidance: float | None = None) -> GuidedPromptSet:
    """Read a csv file in the format of UnlearnDiffAtk (Zhang et al., ECCV 2024).

    The columns are ``case_number, prompt, evaluation_seed, evaluation_guidance``, and the last one may be missing. A
    column ``group:LABEL`` holds the sub-group of each prompt, for example ``group:gender``. Other columns are ignored.

    Args:
        path: Path of the file.
        name: Name of the set; by default the file's name without its ending.
        guidance: Guidance scale for rows without one; if it is None, the column must exist.

    Raises:
        PromptFileError: If the file is no text in UTF-8 or UTF-16, columns are missing, or a row is not a valid prompt;
            the message names every bad line.
    """
    text = read_text(path)
    return _read(csv_rows(text, path.name), name or path.stem, source=path.name, guidance=guidance)


def i2p(
    *, revision: str, categories: Sequence[str] = (), cache_dir: Path | None = None, local_files_only: bool = False
) -> GuidedPromptSet:
    """Return I2P from its data set on the Hub (Schramowski et al., CVPR 2023), pinned to one commit.

    The file has no case numbers, so a row's position, from 0, replaces them. ``sd_seed`` and ``sd_guidance_scale`` are
    the seed and the guidance scale of the authors.

    Args:
        revision: Commit of 40 hexadecimal digits. A branch can change, so its numbers could not be measured again.
        categories: Categories, for example ``sexual``; only prompts of at least one of them are taken, empty for all.
        cache_dir: Folder of downloads.
        local_files_only: Switch that forbids the use of the network.

    Raises:
        ValueError: If the revision is not a commit.
        PromptFileError: If the file has a wrong format, or no prompt of these categories.
        DownloadError: If the file is not in the cache, and the Hub cannot be reached.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    path = hub_file(I2P_REPO, I2P_FILE, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    return read_i2p(path, source=f"{I2P_REPO}@{revision}/{I2P_FILE}", categories=categories)


def hub_file(
    repo: str, file: str, *, revision: str, cache_dir: Path | None = None, local_files_only: bool = False
) -> Path:
    """Return a file of a data set on the Hub, pinned to one commit; see ``i2p``."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    require_commit(revision)
    place = try_to_load_from_cache(repo, file, cache_dir=cache_dir, revision=revision, repo_type="dataset")
    if not isinstance(place, str) and not local_files_only and (why := unreachable()):
        raise DownloadError(
            f"{file} of the data set {repo} is not in the cache, and the Hub cannot be reached ({why}); connect once, "
            "or name a file of prompts on this machine"
        )
    path = hf_hub_download(
        repo,
        file,
        repo_type="dataset",
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        library_name="robust-encoders",
    )
    return Path(path)


def require_commit(revision: str) -> None:
    """Check that a revision is a commit, because a branch can change.

    Raises:
        ValueError: If it is not.
    """
    if not _COMMIT.fullmatch(revision):
        raise ValueError(f"expected a commit of 40 hexadecimal digits, found {revision!r}; see the data set's history")


def read_i2p(path: Path, *, source: str = "", categories: Sequence[str] = ()) -> GuidedPromptSet:
    """Read I2P's csv file; see ``i2p``."""
    text = read_text(path)
    renamed = {"sd_seed": "evaluation_seed", "sd_guidance_scale": "evaluation_guidance"}
    rows = [
        CsvRow(row.line, {**{renamed.get(key, key): value for key, value in row.cells.items()}, "case_number": str(i)})
        for i, row in enumerate(csv_rows(text, path.name))
    ]
    name = "i2p" if not categories else f"i2p/{'+'.join(categories)}"
    chosen = [row for row in rows if not categories or _categories(row) & set(categories)]
    if not chosen and rows:
        known = sorted(set().union(*map(_categories, rows)))
        raise PromptFileError(f"expected prompts of {', '.join(categories)} in {path.name}, found none; it has {known}")
    return _read(chosen, name, source=source or path.name, guidance=None)


def coco_captions(path: Path, *, n: int | None = None, seed: int = 0, name: str = "") -> PromptSet:
    """Read captions from a COCO annotation file (``captions_val2014.json`` and its like), one for each picture.

    Each picture gives the caption with its smallest id. The pictures are in the order of their ids, so that the first
    ``n`` are the same for everyone. Line ends within captions are removed.

    Args:
        path: Path of the file.
        n: Number of captions to take from the start; None takes all.
        seed: Seed of the first picture; the next pictures have the next seeds.
        name: Name of the set; by default the file's name without its ending.

    Raises:
        PromptFileError: If the file has a wrong format, an annotation is incomplete, or it has fewer than ``n``
            pictures.
    """
    captions = _first_captions(path)
    if n is not None and len(captions) < n:
        raise PromptFileError(f"expected at least {n} captioned pictures in {path.name}, found {len(captions)}")
    texts = [captions[key] for key in sorted(captions)][:n]
    return PromptSet(name or path.stem, tuple(Case(i, text, seed + i) for i, text in enumerate(texts)))


def _read(rows: Sequence[CsvRow], name: str, *, source: str, guidance: float | None) -> GuidedPromptSet:
    needed = [column for column in COLUMNS if column != "evaluation_guidance" or guidance is None]
    refuse_missing_columns(rows, needed, source)
    problems = [problem for row in rows for problem in _problems(row, guidance)]
    numbers = [row.text("case_number") for row in rows]
    problems += [
        f"line {row.line}: expected case numbers that differ, found {number} again"
        for i, (row, number) in enumerate(zip(rows, numbers, strict=True))
        if number in numbers[:i]
    ]
    refuse(problems, source)
    cases = tuple(
        Case(int(row.text("case_number")), row.text("prompt"), _seed(row), groups=_groups(row)) for row in rows
    )
    scales = tuple(float(row.text("evaluation_guidance") or guidance or 0) for row in rows)
    return GuidedPromptSet(name, cases, guidance=scales, source=source)


def _problems(row: CsvRow, guidance: float | None) -> Iterator[str]:
    if not row.is_complete:
        yield f"line {row.line}: expected as many values as columns, found others; quote prompts that hold commas"
        return
    if not row.text("case_number").isdecimal():
        yield f"line {row.line}: expected a whole case_number, found {row.text('case_number')!r}"
    if not row.text("prompt"):
        yield f"line {row.line}: expected a prompt, found none"
    if not 0 <= _seed(row) < _MAX_SEED:
        yield f"line {row.line}: expected a seed from 0 on, found {row.text('evaluation_seed')!r}"
    scale = row.text("evaluation_guidance")
    if not _is_scale(scale) and (scale or guidance is None):
        yield f"line {row.line}: expected a guidance scale of at least 0, found {scale!r}"


def _seed(row: CsvRow) -> int:
    """Return the seed, or -1 without one; pandas writes whole numbers of a column with gaps as 12.0."""
    text = row.text("evaluation_seed").removesuffix(".0")
    return int(text) if text.isdecimal() else -1


def _groups(row: CsvRow) -> dict[str, str]:
    """Return the sub-groups of a prompt, from the columns whose names begin with ``group:``."""
    named = {key.removeprefix(_GROUP): row.text(key) for key in row.cells if key.startswith(_GROUP)}
    return {label: value for label, value in named.items() if label and value}


def _is_scale(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) is not None


def _categories(row: CsvRow) -> set[str]:
    return {part.strip() for part in row.text("categories").split(",")} - {""}


def _first_captions(path: Path) -> dict[int, str]:
    """Return picture id to the caption with the smallest id."""
    try:
        stored = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise PromptFileError(f"expected JSON in {path.name}, found {error}") from error
    annotations = stored.get("annotations") if isinstance(stored, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise PromptFileError(
            f"expected a list 'annotations' in {path.name}, found none; is it a captions_*.json file?"
        )
    refuse([text for i, one in enumerate(annotations) for text in _annotation_problems(i, one)], path.name)
    chosen: dict[int, str] = {}
    for one in sorted(annotations, key=lambda one: one["id"]):
        chosen.setdefault(one["image_id"], " ".join(one["caption"].split()))
    return chosen


def _annotation_problems(place: int, one: Any) -> Iterator[str]:
    kinds = {"id": int, "image_id": int, "caption": str}
    found = one if isinstance(one, dict) else {}
    wrong = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if wrong:
        yield f"annotation {place}: expected id, image_id and caption, found no {', '.join(wrong)}"
    elif not found["caption"].strip():
        yield f"annotation {place}: expected a caption, found none"
