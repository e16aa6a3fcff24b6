"""Print the tables of this study: table.py [FOLDER].

With the folder that ``row.sh`` measured into, the records are copied from there first: each row's results, and what
its training took.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.training.comparison.costs import TrainingCosts

HERE = Path(__file__).parent
# Column to the labels in the records: the prompt set of a rate without attack, the attack's label, or the metric.
NO_ATTACK = {"name": "name", "seen synonyms": "seen", "unseen synonym": "unseen"}
ATTACKS = {"random": "random", "discrete": "discrete", "continuous": "continuous", "shared": "shared"}
# Rows that other studies measured with the same suite: component and results of each.
_STUDIES = HERE.parent
ELSEWHERE = {
    **{
        f"{method}-{seed}": ("text_encoder", _STUDIES / "results" / "circle" / f"{method}-{seed}" / "results.json")
        for method in ("esd", "advunlearn")
        for seed in (0, 1)
    },
    "spm-0": ("unet", _STUDIES / "overlays" / "circle-spm" / "results.json"),
}
METRICS = {"T0-T3": "worst_case", "shape kept": "retain_shape", "all kept": "retain_all"}


def copy_records(folder: Path) -> None:
    """Copy results and training records of the finished rows in ``folder`` to this study."""
    for results in sorted(folder.glob("*/*/results.json")):
        to = HERE / results.parent.relative_to(folder)
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results, to / "results.json")
        manifest = results.parent / "encoder" / "robust_encoder.json"
        if manifest.exists():
            took = TrainingCosts.of(Manifest.read(manifest.parent)).record()
            (to / "training.json").write_text(json.dumps(took, indent=1) + "\n")


def numbers(records: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the column of each number that a table shows."""
    for record in records:
        attack = record["settings"].get("attack", {}).get("label")
        for column, label in NO_ATTACK.items():
            if record["metric"] == "pre_asr" and record["prompt_set"].endswith(f"/{label}"):
                yield column, record
        for column, label in ATTACKS.items():
            if record["metric"] == "asr_any" and attack == label:
                yield column, record
        for column, metric in METRICS.items():
            if record["metric"] == metric:
                yield column, record


def per_cent(record: Mapping[str, Any]) -> str:
    """Return a rate and its interval in per cent."""
    low, high = record["interval"]
    return f"{100 * record['value']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def line(cells: list[str]) -> str:
    """Return one row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def rows() -> list[tuple[str, str, Path]]:
    """Return component, name and results of each row, by component."""
    own = [
        (component_of(results.parent / "training.json"), results.parent.name, results)
        for results in HERE.glob("*/*/results.json")
    ]
    return sorted([*own, *((component, name, results) for name, (component, results) in ELSEWHERE.items())])


def component_of(training: Path) -> str:
    """Return the component that a row trained; the base has none."""
    return str(json.loads(training.read_text())["component"]) if training.exists() else "base"


def version_of(records: list[dict[str, Any]]) -> int:
    """Return the suite version of an evaluation; the first one is not named in the records."""
    return max(int(record["settings"].get("suite_version", 1)) for record in records)


def main() -> None:
    """Copy the records, if there is a folder, and print the rates by suite version, then the costs."""
    if len(sys.argv) > 1:
        copy_records(Path(sys.argv[1]))
    columns = [*NO_ATTACK, *ATTACKS, *METRICS]
    rates: dict[int, list[str]] = {}
    costs = []
    for component, name, results in rows():
        records = json.loads(results.read_text())["results"]
        found = dict(numbers(records))
        shown = line([component, name, *(per_cent(found[one]) if one in found else "-" for one in columns)])
        rates.setdefault(version_of(records), []).append(shown)
        training = results.parent / "training.json"
        if training.exists():
            took = json.loads(training.read_text())
            size = f"{took['bytes'] / 1000:,.0f} KB"
            figures = (f"{took[key]:,.0f}" for key in ("seconds", "unet_calls"))
            costs.append(line([component, name, took["form"], size, *figures]))
    head = ["component", "row", *columns]
    tables = [(f"Suite version {version}", head, lines) for version, lines in sorted(rates.items())]
    tables.append(("Costs", ["component", "row", "form", "size", "seconds", "UNet calls"], costs))
    for title, cells, lines in tables:
        sys.stdout.write("\n".join([title, "", line(cells), line(["---"] * len(cells)), *lines, "", ""]))


if __name__ == "__main__":
    main()
