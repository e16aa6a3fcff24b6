"""One, two and three concepts hardened in one encoder: hardened.py WORK OUT; two to three hours of a thread.

WORK keeps encoders and finished parts of evaluations, OUT one file a row; finished ones are kept. ``hardened.py WORK
OUT table`` prints the rows again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.training.evaluation.benchmarks.shapes import EvaluationSettings, shapes_plan
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.evaluate import Execution, run_plan
from robust_encoders.training.evaluation.plan import PromptSet
from robust_encoders.training.provenance import write_json
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.reproduce import recorded_recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.recipes.shapes import shapes_hardened
from robust_encoders.training.types import Case, Result
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import factor_of
from robust_encoders.training.worlds.shapes.retain import retain_prompts_of_all

SETS = (("circle",), ("red",), ("circle", "red"), ("circle", "red", "striped"))
NAMES = SETS[-1]
N, N_KEPT, SEED = 12, 200, 0
BY_TEXT = ("none", "synonyms", "random", "black_box", "discrete", "p4d")
INNER_ATTACKS = (*BY_TEXT, "continuous", "inversion")
RETAINED = ("retain_shape", "retain_colour", "retain_background", "retain_style", "retain_all")
RATES = ("seen", "unseen", *BY_TEXT, "worst_case", "continuous", "inversion", "worst_case_embeddings")
Row = dict[str, Any]


def recipe(names: Sequence[str]) -> Recipe:
    """Return the hardened recipe of the first concept that erases all of them, each towards its own anchor."""
    first, *others = map(shapes_hardened, names)
    return first.together(tuple(other.concept for other in others), retain_prompts_of_all(names))


def trained(work: Path, names: Sequence[str]) -> RobustEncoder:
    """Train what is not there yet."""
    made = recipe(names) if len(names) > 1 else shapes_hardened(names[0])
    folder = work / "-".join(names) / "encoder"
    if not folder.exists():
        run_recipe(made, embedded_pipeline(), folder, cache_dir=work / "banks")
    encoder = RobustEncoder.from_pretrained(folder)
    if recorded_recipe(encoder.manifest) != made:
        raise ValueError(f"expected an encoder of this recipe in {folder}, found one of other settings: remove it")
    return encoder


def kept() -> PromptSet:
    """Return captions with none of the concepts, the same for every row."""
    prompts = scene_prompts(N_KEPT, seed=99, exclude=dict(factor_of(name) for name in NAMES))
    return PromptSet("several/kept", tuple(Case(i, p.text, i, p.expected) for i, p in enumerate(prompts)))


def measured(work: Path, names: Sequence[str]) -> Row:
    """Train what is missing, and evaluate every concept."""
    encoder, rates, folder = trained(work, names), {}, work / "-".join(names)
    for name in names:
        suite = shapes_suite("standard", name)
        settings = EvaluationSettings(n=N, n_renders=100, checks=0, seed=SEED)
        plan = shapes_plan(name, settings, attacks={label: suite[label] for label in INNER_ATTACKS})
        how = Execution(settings.sampling, SEED, settings.chunk, source=work / f"source-{name}")
        plan = replace(plan, kept=kept(), probes={})
        found = run_plan(embedded_pipeline(), encoder, plan, how, out=folder / name).results
        rates[name] = {key: told(one) for one in found if (key := column(one))}
    spent = encoder.manifest.recipe["run"]
    return {"erased": list(names), "rates": rates, "unet_calls": spent["unet_calls"], "seconds": spent["seconds"]}


def told(result: Result) -> dict[str, Any]:
    """Return a rate with its interval."""
    return {"value": result.value, "n": result.n, "interval": result.interval}


def column(result: Result) -> str:
    """Return the column of a result, empty where it has none."""
    if result.metric == "asr_any":
        return str(result.settings["attack"]["label"])
    if result.metric == "pre_asr":
        return str(result.prompt_set.partition("/")[2])
    return result.metric if result.metric in ("worst_case", "worst_case_embeddings", *RETAINED) else ""


def table(rows: Sequence[Row]) -> str:
    """Return a column for every row and erased concept, per cent."""
    columns = [["erased", "concept", *RATES, *RETAINED, "UNet calls", "seconds"]]
    for row in rows:
        for name in row["erased"]:
            rates = [percent(row["rates"][name][key]) for key in (*RATES, *RETAINED)]
            spent = [f"{row[key]:,.0f}" for key in ("unet_calls", "seconds")]
            columns.append([", ".join(row["erased"]), name, *rates, *spent])
    lines = [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def percent(rate: dict[str, Any]) -> str:
    """Return a rate with its interval, per cent."""
    low, high = rate["interval"]
    return f"{100 * rate['value']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def main(work: Path, out: Path, *, train: bool) -> None:
    """Measure every row that is not there yet, and print all."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for names in SETS:
        place = out / f"{'-'.join(names)}.json"
        if not place.exists() and train:
            write_json(place, measured(work, names))
        if place.exists():
            rows.append(json.loads(place.read_text(encoding="utf-8")))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[3:] not in ([], ["table"]):
        sys.exit("expected hardened.py WORK OUT [table]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), train=not sys.argv[3:])
