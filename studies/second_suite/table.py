"""Print the tables of the suite's findings: ``python studies/second_suite/table.py FOLDER``.

FOLDER/CONCEPT/SUBJECT holds the evaluations of ``row.sh``, or the small copies that are kept here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from robust_encoders.training.evaluation.floors import chance_in
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.evaluation.single_detectors import singles_of
from robust_encoders.training.evaluation.threat_model import label_of
from robust_encoders.training.reports.tables import MISSING, Number, markdown
from robust_encoders.training.types import Result

SUBJECTS = ("encoder", "base", "empty_prompt")
KEPT = ("everyday", "everyday_factor", "everyday_near", "everyday_rare", "everyday_seen", "retain_all")
ALONE = ("chance_empty", "chance_open", "seeds", "seeds_floor", "negative_abuse", "negative_ordinary", "schedulers")

Numbers = Mapping[tuple[str, str, str], Result]


def rounded(result: Result) -> str:
    """Return a rate in per cent with its interval, as whole numbers."""
    found = Number.of(result)
    low, high = result.interval or (result.value, result.value)
    return f"{found.value * 100:.0f} [{low * 100:.0f}, {high * 100:.0f}]"


def attacked(result: Result) -> str:
    """Return the rate by agreement, that of each judge alone, and the floor."""
    alone = "/".join(f"{one.value * 100:.0f}" for one in singles_of(result).values())
    chance = chance_in(result)
    floor = "" if chance is None else f", floor {chance.lower.rate * 100:.0f}"
    return f"{rounded(result)}{f' ({alone})' if alone else ''}{floor}"


def lines(evaluations: Sequence[Evaluation]) -> Iterator[list[str]]:
    """Yield one line for each number: its name, then the columns."""
    by_name = [{(r.metric, label_of(r), r.prompt_set): r for r in one.results} for one in evaluations]
    sets = dict.fromkeys(key[2].rpartition("/")[2] for found in by_name for key in found if key[0] == "pre_asr")
    for name in sets:
        yield [f"no attack, {name}", *(_unattacked(found, name) for found in by_name)]
    for label in dict.fromkeys(key[1] for found in by_name for key in found if key[0] == "asr_any"):
        yield [label, *(_cell(found, "asr_any", label) for found in by_name)]
    for metric in (*ALONE, *KEPT):
        yield [metric, *(_cell(found, metric, "") for found in by_name)]


def _unattacked(found: Numbers, name: str) -> str:
    result = next((r for key, r in found.items() if key[0] == "pre_asr" and key[2].endswith(f"/{name}")), None)
    return MISSING if result is None else attacked(result)


def _cell(found: Numbers, metric: str, label: str) -> str:
    result, base = (_named(found, name, label) for name in (metric, f"{metric}_base"))
    beside = "" if base is None else f", base {base.value * 100:.0f}"
    return MISSING if result is None else f"{attacked(result)}{beside}"


def _named(found: Numbers, metric: str, label: str) -> Result | None:
    return next((r for (name, one, _), r in found.items() if (name, one) == (metric, label)), None)


def main(folder: Path) -> None:
    """Print one table for each concept, with a column for each evaluation."""
    for concept in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = [concept / name for name in SUBJECTS if (concept / name / RESULTS_NAME).exists()]
        columns = [f"{concept.name}, {path.name}" for path in paths]
        rows = markdown(["", *columns], lines([Evaluation.read(path) for path in paths]))
        sys.stdout.write("\n".join(rows) + "\n\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
