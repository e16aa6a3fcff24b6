"""Adversarial prompts as the csv file that eval-unlearn's metric ``asr_mma_diffusion`` reads, in both directions.

The metric calls it ``precomputed_prompts_path``. It reads the file by ``pandas.read_csv`` and uses the columns
``adversarial_prompt`` and, if it is there, ``target_prompt``. The columns ``seed`` and ``attack`` are additions of this
package, which the metric ignores. What pandas would change, for example a prompt ``null``, is not written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...prompts.text_files import PromptFileError, control_character, read_text
from ...types import Case
from .csv_rows import CsvRow, csv_rows, refuse, refuse_missing_columns
from .prompt_files import GuidedPromptSet

PROMPT, TARGET, SEED, ATTACK = COLUMNS = ("adversarial_prompt", "target_prompt", "seed", "attack")
_OTHERS = {"evaluation_seed", "sd_seed"}  # of UnlearnDiffAtk and I2P
_MAX_SEED = 2**63
# pandas takes a cell with one of these texts for a missing value.
PANDAS_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip


@dataclass(frozen=True)
class AdversarialPrompt:
    """A text that an attack found.

    Args:
        text: The text, exactly as the attack proposed it.
        target: Prompt for the picture that the attack tried to obtain; empty if it is not known.
        seed: Seed of the picture that showed the concept; None if it is not known.
        attack: Label of the attack; empty if it is not known.
    """

    text: str
    target: str = ""
    seed: int | None = None
    attack: str = ""


def is_mma(columns: Collection[str]) -> bool:
    """Return True if a csv file with these columns holds adversarial prompts, or was meant to."""
    return bool({PROMPT, TARGET} & {*columns}) and not _OTHERS & {*columns}


def read_mma(path: Path, *, guidance: float | None, seed: int = 0, source: str = "") -> GuidedPromptSet:
    """Read adversarial prompts; each one keeps its spaces and line ends.

    A case is numbered by the position of its row, from 0. Its goal is the target prompt.

    Args:
        path: Path of the file.
        guidance: Guidance scale of all prompts, because the format has none.
        seed: Seed of the first row; each further row has the next one. A value in the column ``seed`` replaces it.
        source: Origin of the file; by default its name.

    Raises:
        PromptFileError: If the file is no text in UTF-8 or UTF-16, a column is missing, or a row is not valid; the
            message names every bad line.
        ValueError: If there is no guidance scale.
    """
    source = source or path.name
    rows = csv_rows(read_text(path), path.name)
    refuse_missing_columns(rows, [PROMPT], source)
    refuse([problem for row in rows for problem in _problems(row)], source)
    if guidance is None:
        raise ValueError(f"expected a guidance scale for the prompts of {source}, found none; pass guidance")
    cases = tuple(
        Case(i, row.cells[PROMPT] or "", _seed(row, seed + i), goal=row.text(TARGET)) for i, row in enumerate(rows)
    )
    return GuidedPromptSet(path.stem, cases, guidance=(guidance,) * len(cases), source=source)


def mma_text(prompts: Sequence[AdversarialPrompt]) -> str:
    """Return adversarial prompts as the text of a csv file, to be written in UTF-8.

    Args:
        prompts: Prompts in the order of the rows, at least one.

    Raises:
        PromptFileError: If there is no prompt, or eval-unlearn would read one as something else; the message names
            every such row.
    """
    if not prompts:
        raise PromptFileError("expected adversarial prompts, found none; give at least one")
    found = [(line, unwritable(prompt)) for line, prompt in enumerate(prompts, 2)]
    refuse([f"row {line}: {problem}; leave it out" for line, problem in found if problem], "adversarial prompts")
    if all(_is_value(prompt.text) for prompt in prompts):
        raise PromptFileError(
            "expected texts as adversarial prompts, found only numbers or truth values, which eval-unlearn would not "
            "read as texts; add a prompt of words"
        )
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((one.text, one.target, "" if one.seed is None else one.seed, one.attack) for one in prompts)
    return out.getvalue()


def unwritable(prompt: AdversarialPrompt) -> str:
    """Return why a prompt cannot be written so that eval-unlearn reads it back; empty if it can."""
    if prompt.text in PANDAS_MISSING or not prompt.text.strip():
        return f"expected a text, found {prompt.text!r}, which eval-unlearn reads as a missing value"
    for text in (prompt.text, prompt.target):
        if (found := control_character(text)) is not None:
            return f"expected text, found the control character U+{ord(found):04X} in {text!r}"
        if text.encode("utf-8", "ignore").decode() != text:
            return f"expected text, found half of a surrogate pair in {text!r}, which no file can hold"
    return ""


def _problems(row: CsvRow) -> Iterator[str]:
    if not row.is_complete:
        yield f"line {row.line}: expected as many values as columns, found others; quote prompts that hold commas"
    elif not row.text(PROMPT):
        yield f"line {row.line}: expected an {PROMPT}, found none"
    elif not 0 <= _seed(row, 0) < _MAX_SEED:
        yield f"line {row.line}: expected a seed from 0 on, or none, found {row.text(SEED)!r}"


def _seed(row: CsvRow, default: int) -> int:
    """Return the seed, or -1 for what is none; pandas writes whole numbers of a column with gaps as 12.0."""
    text = row.text(SEED).removesuffix(".0")
    return default if not text else int(text) if text.isdecimal() else -1


def _is_value(text: str) -> bool:
    """Return True if pandas would read a column of such texts as numbers or truth values."""
    try:
        float(text)
    except ValueError:
        return text.strip().lower() in ("true", "false")
    return True
