"""Harden one encoder against one, two and three concepts: hardened.py WORK OUT; two to three hours of a thread.

The folder WORK keeps encoders and finished parts of evaluations. The folder OUT keeps one file a row, and a second run
keeps finished files. ``hardened.py WORK OUT table`` prints the rows again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders import LoadedArtifact, RobustEncoder, embedded_pipeline
from robust_encoders.training import Recipe
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan, PromptSet
from robust_encoders.training.provenance import write_json
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
ATTACKS = (*BY_TEXT, "continuous", "inversion")
RETAINED = ("retain_shape", "retain_colour", "retain_background", "retain_style", "retain_all")
RATES = ("seen", "unseen", *BY_TEXT, "worst_case", "continuous", "inversion", "worst_case_embeddings")
Row = dict[str, Any]


def recipe(names: Sequence[str]) -> Recipe:
    """Return the hardened recipe of the first concept, extended to all concepts, each with its own anchor."""
    first, *others = map(shapes_hardened, names)
    return first.together(tuple(other.concept for other in others), retain_prompts_of_all(names))


def trained(work: Path, names: Sequence[str]) -> LoadedArtifact:
    """Return the hardened encoder for these concepts, and train it first if it is missing.

    Raises:
        ValueError: If the folder holds an encoder of other settings.
    """
    made = recipe(names) if len(names) > 1 else shapes_hardened(names[0])
    folder = work / "-".join(names) / "encoder"
    if not folder.exists():
        run_recipe(made, embedded_pipeline(), folder, cache_dir=work / "banks")
    encoder = RobustEncoder.from_pretrained(folder)
    if recorded_recipe(encoder.manifest) != made:
        raise ValueError(f"expected an encoder of this recipe in {folder}, found one of other settings: remove it")
    return encoder


def kept() -> PromptSet:
    """Return captions with none of the concepts; every row has the same ones."""
    prompts = scene_prompts(N_KEPT, seed=99, exclude=dict(factor_of(name) for name in NAMES))
    return PromptSet("several/kept", tuple(Case(i, p.text, i, p.expected) for i, p in enumerate(prompts)))


def measured(work: Path, names: Sequence[str]) -> Row:
    """Evaluate the encoder for these concepts on each of them, and train it first if it is missing."""
    encoder, rates, folder = trained(work, names), {}, work / "-".join(names)
    for name in names:
        pipe = embedded_pipeline()
        config = EvaluationConfig(seed=SEED, checks=0, attacks=ATTACKS, source=work / f"source-{name}")
        plan = replace(ShapesBenchmark(name, n=N, n_renders=100).plan(pipe, config), kept=kept(), probes={})
        found = evaluate(pipe, encoder, FixedPlan(plan), out=folder / name, config=config).results
        rates[name] = {key: told(one) for one in found if (key := column(one))}
    spent = encoder.manifest.recipe["run"]
    return {"erased": list(names), "rates": rates, "unet_calls": spent["unet_calls"], "seconds": spent["seconds"]}


def told(result: Result) -> dict[str, Any]:
    """Return the value, number of prompts and interval of a result, as they are recorded."""
    return {"value": result.value, "n": result.n, "interval": result.interval}


def column(result: Result) -> str:
    """Return the name under which a result is recorded, or an empty string if it is left out."""
    if result.metric == "asr_any":
        return str(result.settings["attack"]["label"])
    if result.metric == "pre_asr":
        return str(result.prompt_set.partition("/")[2])
    return result.metric if result.metric in ("worst_case", "worst_case_embeddings", *RETAINED) else ""


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table in per cent, with a column for each row and erased concept."""
    columns = [["erased", "concept", *RATES, *RETAINED, "UNet calls", "seconds"]]
    for row in rows:
        for name in row["erased"]:
            rates = [percent(row["rates"][name][key]) for key in (*RATES, *RETAINED)]
            spent = [f"{row[key]:,.0f}" for key in ("unet_calls", "seconds")]
            columns.append([", ".join(row["erased"]), name, *rates, *spent])
    lines = [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def percent(rate: dict[str, Any]) -> str:
    """Return a rate with its interval as text, in per cent."""
    low, high = rate["interval"]
    return f"{100 * rate['value']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def main(work: Path, out: Path, *, train: bool) -> None:
    """Measure every row that is missing in ``out`` if ``train`` is true, and print all rows."""
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
