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

HERE = Path(__file__).parent
# Column to the labels in the records: the prompt set of a rate without attack, the attack's label, or the metric.
NO_ATTACK = {"name": "name", "seen synonyms": "seen", "unseen synonym": "unseen"}
ATTACKS = {"random": "random", "discrete": "discrete", "continuous": "continuous", "shared": "shared"}
METRICS = {"T0-T3": "worst_case", "shape kept": "retain_shape", "all kept": "retain_all"}


def copy_records(folder: Path) -> None:
    """Copy results and training records of the finished rows in ``folder`` to this study."""
    for results in sorted(folder.glob("*/*/results.json")):
        to = HERE / results.parent.relative_to(folder)
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results, to / "results.json")
        manifest = results.parent / "encoder" / "robust_encoder.json"
        if manifest.exists():
            (to / "training.json").write_text(json.dumps(training_of(json.loads(manifest.read_text())), indent=1) + "\n")


def training_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training took. ``unet_calls`` counts its start, ``bank_unet_calls`` only what it had to build."""
    run = manifest["recipe"]["run"]
    start = run.get("start", {})
    calls = run.get("unet_calls", 0) + start.get("unet_calls", 0)
    return {
        "form": manifest["form"],
        "component": manifest["component"],
        "bytes": sum(file["size"] for file in manifest["files"].values()),
        "unet_calls": calls,
        "bank_unet_calls": run["bank_unet_calls"] + start.get("bank_unet_calls", 0) if "bank_unet_calls" in run else None,
        "seconds": run.get("seconds", run["seconds_total"]) + start.get("seconds", 0),
    }


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
    low, high = record["interval"]
    return f"{100 * record['value']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if len(sys.argv) > 1:
        copy_records(Path(sys.argv[1]))
    columns = [*NO_ATTACK, "random", "discrete", "T0-T3", "continuous", "shared", "shape kept", "all kept"]
    rates, costs = [], []
    for results in sorted(HERE.glob("*/*/results.json")):
        name, training = results.parent.name, results.parent / "training.json"
        found = dict(numbers(json.loads(results.read_text())["results"]))
        rates.append(line([name, *(per_cent(found[column]) for column in columns)]))
        if training.exists():
            took = json.loads(training.read_text())
            size, calls = f"{took['bytes'] / 1000:,.0f} KB", f"{took['unet_calls']:,}"
            bank = f"{took['bank_unet_calls']:,}" if took["bank_unet_calls"] else "shared"
            costs.append(line([name, took["form"], took["component"], size, f"{took['seconds']:,.0f}", calls, bank]))
    heads = ["row", *columns], ["row", "form", "component", "size", "seconds", "UNet calls", "UNet calls of the bank"]
    for head, rows in zip(heads, (rates, costs), strict=True):
        sys.stdout.write("\n".join([line(list(head)), line(["---"] * len(head)), *rows, "", ""]))


if __name__ == "__main__":
    main()
