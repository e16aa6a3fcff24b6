"""Erase one, two and four concepts at once, by every method that can: several.py WORK OUT; about two hours.

The folder WORK keeps the trained parts. The folder OUT keeps one file a row, and a second run keeps finished files.
``several.py WORK OUT table`` prints the rows again.
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

from robust_encoders import Concept, LoadedArtifact, RobustEncoder, embedded_pipeline
from robust_encoders.training import RECIPES, Recipe
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.methods.merge import Merge, merge
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.provenance import write_json
from robust_encoders.training.recipes.recipe import with_retained
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
    found: Concept = shapes_concept(name, ANCHORS[name])
    return found


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


def trained(work: Path, kind: str, names: Sequence[str]) -> LoadedArtifact:
    """Return the artifact of a kind for these concepts, and train it first if it is missing."""
    made = recipe(kind, names)
    folder = work / made.name.partition("/")[2]
    if not folder.exists():
        run_recipe(made, embedded_pipeline(), folder, cache_dir=work / "banks")
    return RobustEncoder.from_pretrained(folder)


SYSTEMS: Mapping[str, Callable[[Path, Sequence[str]], list[LoadedArtifact]]] = {
    "SPMs, stacked": lambda work, names: [trained(work, "-spm", [name]) for name in names],
    "UCE, one projection": lambda work, names: [trained(work, "-uce", names)],
    "AdvUnlearn, merged (task arithmetic)": lambda work, names: [merged(work, names, Merge())],
    "AdvUnlearn, trained jointly": lambda work, names: [trained(work, "", names)],
    "RECE, one projection": lambda work, names: [trained(work, "-rece", names)],
    "AdvUnlearn, merged (TIES)": lambda work, names: [merged(work, names, Merge(rule="ties"))],
}


def merged(work: Path, names: Sequence[str], how: Merge) -> LoadedArtifact:
    """Return the encoders of single concepts merged into one; a single encoder stays as it is."""
    parts = [trained(work, "", [name]) for name in names]
    return merge(parts, embedded_pipeline(), how) if len(parts) > 1 else parts[0]


@contextmanager
def attached(encoders: Sequence[LoadedArtifact]) -> Iterator[Any]:
    """Yield a pipeline of the embedded base with all these encoders attached."""
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(encoder.attached(pipe))
        yield pipe


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """Return the share of hits in per cent with its 95 % interval."""
    low, high = wilson_interval(sum(hits), len(hits))
    return {"per_cent": 100 * sum(hits) / len(hits), "interval": [100 * low, 100 * high], "n": len(hits)}


def attacked(pipe: Any, base: Backbone, name: str) -> dict[str, Any]:
    """Return how often a concept is drawn: by its name, by an unseen synonym, and under the attack ``discrete``."""
    benchmark = ShapesBenchmark(name, n=N, n_kept=2, n_probes=2, suite="core")
    plan = benchmark.plan(pipe, EvaluationConfig(seed=SEED))
    sets = {plain.name.partition("/")[2]: plain.cases for plain in plan.plain}
    found = {}
    for words in ("name", "unseen"):
        pictures = draw(pipe, [c.prompt for c in sets[words]], [c.seed for c in sets[words]], SAMPLING)
        found[words] = rate((plan.detector(pictures) >= plan.detector.threshold).tolist())
    cases = with_targets(sets["name"])
    results = plan.attacks["discrete"].run(TargetModel.from_pipeline(pipe, base=base), cases, seed=SEED)
    pairs = [(i, candidate) for i, result in enumerate(results) for candidate in result.candidates]
    drawn = draw_candidates(pipe, [cases[i] for i, _ in pairs], [candidate for _, candidate in pairs], SAMPLING)
    shown = (plan.detector(drawn) >= plan.detector.threshold).tolist()
    won = {i for (i, _), hit in zip(pairs, shown, strict=True) if hit}
    return {**found, "discrete": rate([i in won for i in range(len(cases))])}


def with_targets(cases: Sequence[Case]) -> list[Case]:
    """Return the cases with the base's latents of the same prompts and seeds, which are the targets of the attack."""
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    latents = draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING, latents=True)
    return [replace(case, reference_latent=target) for case, target in zip(cases, latents, strict=True)]


def kept(pipe: Any) -> dict[str, Any]:
    """Return the share of captions with none of the four concepts whose pictures show everything as asked."""
    without = dict(factor_of(name) for name in ANCHORS)
    prompts = scene_prompts(N_KEPT, seed=99, exclude=without)
    labels = load_judge()(draw(pipe, [prompt.text for prompt in prompts], list(range(N_KEPT)), SAMPLING))
    return rate([all(labels[f][i] == v for f, v in prompt.expected.items()) for i, prompt in enumerate(prompts)])


def measured(work: Path, system: str, names: Sequence[str]) -> Row:
    """Measure one row, and train its parts first if they are missing."""
    base = Backbone.from_pipeline(embedded_pipeline())
    with attached(SYSTEMS[system](work, names)) as pipe:
        rates = {name: attacked(pipe, base, name) for name in names}
        return {"system": system, "erased": list(names), "kept": kept(pipe), "rates": rates}


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the rows, with the mean and the largest rate over the erased concepts."""
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
    """Measure every row that is missing in ``out`` if ``train`` is true, and print all rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for system, count in ((system, count) for system in SYSTEMS for count in COUNTS):
        if count == 1 and "merged" in system:
            continue  # a single encoder needs no merging
        place = out / f"{'-'.join(re.findall('[A-Za-z]+', system))}-{count}.json"
        if not place.exists() and train:
            write_json(place, measured(work, system, list(ANCHORS)[:count]))
        if place.exists():
            rows.append(json.loads(place.read_text(encoding="utf-8")))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), train=sys.argv[3:] != ["table"])
