"""One, two and four concepts erased at once, by every means of this package: several.py WORK OUT; about two hours.

WORK keeps the trained parts, OUT one file a row; what an earlier run finished is kept. ``several.py WORK OUT table``
prints the rows again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders import Concept, RobustEncoder, embedded_pipeline
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes import EvaluationSettings, shapes_plan
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.methods.merge import Merge, merge
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.provenance import write_json
from robust_encoders.training.recipes.recipe import Recipe, with_retained
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import factor_of, shapes_concept
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.retain import retain_prompts, retain_prompts_of_all

ANCHORS = {"circle": "square", "red": "green", "striped": "plain", "black": "white"}
COUNTS = (1, 2, 4)
N, N_KEPT, SEED = 20, 120, 0
SAMPLING = SamplingConfig()
Row = dict[str, Any]


def concept_of(name: str) -> Concept:
    """Return a concept of the shapes world with its anchor."""
    return shapes_concept(name, ANCHORS[name])


def recipe(kind: str, names: Sequence[str]) -> Recipe:
    """Return the recipe of the kind (``""`` for AdvUnlearn) for one concept or for several together."""
    first, *others = names
    variant = kind or "-advunlearn"
    like = RECIPES[f"shapes/{first}{variant}" if f"shapes/{first}{variant}" in RECIPES else f"shapes/red{variant}"]()
    kept = retain_prompts(first)
    alone = replace(
        like, name=f"shapes/{first}{variant}", concept=concept_of(first), method=with_retained(like.method, kept)
    )
    return alone.together(tuple(map(concept_of, others)), retain_prompts_of_all(names)) if others else alone


def trained(work: Path, kind: str, names: Sequence[str]) -> RobustEncoder:
    """Train what is not there yet."""
    made = recipe(kind, names)
    folder = work / made.name.partition("/")[2]
    if not folder.exists():
        run_recipe(made, embedded_pipeline(), folder, cache_dir=work / "banks")
    return RobustEncoder.from_pretrained(folder)


SYSTEMS: Mapping[str, Callable[[Path, Sequence[str]], list[RobustEncoder]]] = {
    "SPMs, stacked": lambda work, names: [trained(work, "-spm", [name]) for name in names],
    "UCE, one projection": lambda work, names: [trained(work, "-uce", names)],
    "AdvUnlearn, merged (task arithmetic)": lambda work, names: [merged(work, names, Merge())],
    "AdvUnlearn, trained jointly": lambda work, names: [trained(work, "", names)],
    "RECE, one projection": lambda work, names: [trained(work, "-rece", names)],
    "AdvUnlearn, merged (TIES)": lambda work, names: [merged(work, names, Merge(rule="ties"))],
}


def merged(work: Path, names: Sequence[str], how: Merge) -> RobustEncoder:
    """Merge the encoders of single concepts."""
    parts = [trained(work, "", [name]) for name in names]
    return merge(parts, embedded_pipeline(), how) if len(parts) > 1 else parts[0]


@contextmanager
def attached(encoders: Sequence[RobustEncoder]) -> Iterator[Any]:
    """Attach all of them to a pipeline of the embedded base."""
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(encoder.attached(pipe))
        yield pipe


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """Return per cent with a 95 % interval."""
    low, high = wilson_interval(sum(hits), len(hits))
    return {"per_cent": 100 * sum(hits) / len(hits), "interval": [100 * low, 100 * high], "n": len(hits)}


def attacked(pipe: Any, base: Backbone, name: str) -> dict[str, Any]:
    """Return rates of success by name, by a synonym not seen, and of the discrete attack of the suite ``core``."""
    plan = shapes_plan(name, EvaluationSettings(n=N, n_kept=2, n_probes=2, seed=SEED), attacks={})
    sets = {plain.name.partition("/")[2]: plain.cases for plain in plan.plain}
    found = {}
    for words in ("name", "unseen"):
        pictures = draw(pipe, [c.prompt for c in sets[words]], [c.seed for c in sets[words]], SAMPLING)
        found[words] = rate((plan.detector(pictures) >= plan.detector.threshold).tolist())
    cases = with_targets(sets["name"])
    results = shapes_suite("core", name)["discrete"].run(TargetModel.from_pipeline(pipe, base=base), cases, seed=SEED)
    pairs = [(i, candidate) for i, result in enumerate(results) for candidate in result.candidates]
    drawn = draw_candidates(pipe, [cases[i] for i, _ in pairs], [candidate for _, candidate in pairs], SAMPLING)
    shown = (plan.detector(drawn) >= plan.detector.threshold).tolist()
    won = {i for (i, _), hit in zip(pairs, shown, strict=True) if hit}
    return {**found, "discrete": rate([i in won for i in range(len(cases))])}


def with_targets(cases: Sequence[Case]) -> list[Case]:
    """Return the cases with the base's own latents, which the attack is after."""
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    latents = draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING, latents=True)
    return [replace(case, target=target) for case, target in zip(cases, latents, strict=True)]


def kept(pipe: Any) -> dict[str, Any]:
    """Return how many captions without any of the four concepts are drawn in all as asked."""
    without = dict(factor_of(name) for name in ANCHORS)
    prompts = scene_prompts(N_KEPT, seed=99, exclude=without)
    labels = load_judge()(draw(pipe, [prompt.text for prompt in prompts], list(range(N_KEPT)), SAMPLING))
    return rate([all(labels[f][i] == v for f, v in prompt.expected.items()) for i, prompt in enumerate(prompts)])


def measured(work: Path, system: str, names: Sequence[str]) -> Row:
    """Train what is missing, and measure one row."""
    base = Backbone.from_pipeline(embedded_pipeline())
    with attached(SYSTEMS[system](work, names)) as pipe:
        rates = {name: attacked(pipe, base, name) for name in names}
        return {"system": system, "erased": list(names), "kept": kept(pipe), "rates": rates}


def table(rows: Sequence[Row]) -> str:
    """Return the rows with the mean and the largest of the rates over the erased concepts."""
    lines = ["| erased by | concepts | by name | unseen synonym | discrete, mean | discrete, worst | kept in all |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        of = {key: [one[key]["per_cent"] for one in row["rates"].values()] for key in ("name", "unseen", "discrete")}
        mean = {key: sum(values) / len(values) for key, values in of.items()}
        lines.append(
            f"| {row['system']} | {len(row['erased'])} | {mean['name']:.0f} | {mean['unseen']:.0f} | "
            f"{mean['discrete']:.0f} | {max(of['discrete']):.0f} | {row['kept']['per_cent']:.0f} |"
        )
    return "\n".join(lines)


def main(work: Path, out: Path, *, train: bool) -> None:
    """Measure every row that is not there yet, and print all."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for system, count in ((system, count) for system in SYSTEMS for count in COUNTS):
        if count == 1 and "merged" in system:
            continue  # one alone is itself
        place = out / f"{'-'.join(re.findall('[A-Za-z]+', system))}-{count}.json"
        if not place.exists() and train:
            write_json(place, measured(work, system, list(ANCHORS)[:count]))
        if place.exists():
            rows.append(json.loads(place.read_text(encoding="utf-8")))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), train=sys.argv[3:] != ["table"])
