"""What each part of AdvUnlearn buys on `circle`: ablations.py WORK OUT [SEED ...]; about five minutes a row and seed.

WORK keeps encoders and banks, OUT one file a row and seed; finished ones are kept. ``ablations.py WORK OUT
table`` prints the rows again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders import embedded_pipeline
from robust_encoders.cli import main as command
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.recipes import RECIPES, Recipe
from robust_encoders.training.retain_sets import object_prompts
from robust_encoders.training.run import run_recipe
from robust_encoders.training.selection import Selection
from robust_encoders.training.settings import Adversary, Harden, Retain, Unlearn
from robust_encoders.training.shapes.captions import scene_prompts

N, N_KEPT, ITERATIONS = 40, 200, 200
Change = Callable[[AdvUnlearn], Any]
Row = dict[str, Any]


def paper() -> AdvUnlearn:
    """Return the paper's terms on the captions of the embedded base: one adversarial token in front, noise alone."""
    shipped = RECIPES["shapes/circle"]().method
    return replace(
        shipped,
        unlearn=Unlearn(batch=8),
        retain=Retain(prompts=shipped.retain.prompts, weight=0.5, batch=8),
        adversary=Adversary(attack=SoftPrompt(steps=8, rate=2e-2), warmup=40),
        train=replace(shipped.train, iterations=ITERATIONS),
    )


def unlearn(**changes: Any) -> Change:
    """Change settings of the concept's terms."""
    return lambda method: replace(method, unlearn=replace(method.unlearn, **changes))


def retain(**changes: Any) -> Change:
    """Change settings of the retain terms."""
    return lambda method: replace(method, retain=replace(method.retain, **changes))


def adversary(**changes: Any) -> Change:
    """Change settings of the adversary."""
    return lambda method: replace(method, adversary=replace(method.adversary, **changes))


def layers(*numbers: int) -> Change:
    """Train these layers alone, as the paper does without the final norm."""
    return lambda method: replace(method, select=Selection(layers=numbers, final_norm=False))


def esd(method: AdvUnlearn) -> ESD:
    """Return the same run without the attack."""
    return ESD(retain=method.retain, unlearn=method.unlearn, select=method.select, train=method.train, bank=method.bank)


def together(*changes: Change) -> Change:
    """Make one change after the other."""

    def made(method: AdvUnlearn) -> Any:
        for change in changes:
            method = change(method)
        return method

    return made


def unfiltered(method: AdvUnlearn) -> AdvUnlearn:
    """Retain captions drawn from the whole world, the concept's among them."""
    prompts = tuple(dict.fromkeys(p.text for p in scene_prompts(512, seed=10, words="name", templates="training")))
    return retain(prompts=prompts)(method)


def everyday(method: AdvUnlearn) -> AdvUnlearn:
    """Retain photos of everyday objects, of which this base knows nothing."""
    return retain(prompts=object_prompts(RECIPES["shapes/circle"]().concept))(method)


ANCHOR = unlearn(target="anchor")
PLAIN = unlearn(plain_weight=10.0, plain_space="conditioning", plain_batch=48)
KEPT = retain(space="both", weight=1.0, conditioning_weight=20.0, conditioning_batch=128)
# Row to what it changes of the paper's terms.
ROWS: Mapping[str, Change] = {
    "the paper's terms": lambda method: method,
    "no attack (ESD)": esd,
    "no retain term": retain(weight=0.0, prompts=()),
    "retain weight 0.1": retain(weight=0.1),
    "retain weight 2": retain(weight=2.0),
    "retain: everyday objects": everyday,
    "retain: not filtered": unfiltered,
    "layer 0": layers(0),
    "layers 0, 1": layers(0, 1),
    "one fast step": adversary(attack=SoftPrompt.fast(2e-2)),
    "2 steps": adversary(attack=SoftPrompt(steps=2, rate=2e-2)),
    "30 steps": adversary(attack=SoftPrompt(steps=30, rate=2e-2)),
    "suffix": adversary(placements=("suffix",)),
    "in the middle": adversary(placements=("mid",)),
    "3 tokens": adversary(tokens=(3,)),
    "1, 2 or 3 tokens": adversary(tokens=(1, 2, 3)),
    "goes on from the last attack": adversary(start="latest"),
    "anchor": ANCHOR,
    "anchor, plain term": together(ANCHOR, PLAIN),
    "anchor, plain term, retained twice": together(ANCHOR, PLAIN, KEPT),
    "the same, 1, 2 or 3 tokens": together(ANCHOR, PLAIN, KEPT, adversary(tokens=(1, 2, 3))),
    "the same, conditioning alone": together(
        ANCHOR, PLAIN, KEPT, retain(space="conditioning"), unlearn(harden=Harden(objective="conditioning"))
    ),
    "the same, both objectives": together(ANCHOR, PLAIN, KEPT, unlearn(harden=Harden(objective="both"))),
}


def place(out: Path, row: str, seed: int) -> Path:
    """Return the file of a row and seed."""
    return out / f"{'-'.join(row.replace('(', '').replace(')', '').replace(',', '').split())}-{seed}.json".lower()


def measured(work: Path, row: str, seed: int) -> Row:
    """Train what is not there yet, and evaluate it by the suite ``core``."""
    shipped = RECIPES["shapes/circle"]()
    run = work / place(Path(), row, seed).stem
    recipe: Recipe = replace(shipped, name=f"shapes/circle-{run.name}", method=ROWS[row](paper()), seed=seed)
    if not (run / "encoder").exists():
        run_recipe(recipe, embedded_pipeline(), run / "encoder", cache_dir=work / "banks")
    sizes = ["--n", str(N), "--n-kept", str(N_KEPT), "--n-probes", "2", "--n-renders", "100", "--checks", "0"]
    options = ["--suite", "core", "--seed", str(seed), "--out", str(run), *sizes]
    if code := command(["evaluate", str(run / "encoder"), *options]):
        raise SystemExit(code)
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))["results"]
    cost = json.loads((run / "encoder" / "robust_encoder.json").read_text(encoding="utf-8"))["recipe"]["run"]
    rates = {name: {key: one[key] for key in ("value", "n", "interval")} for one in found if (name := column(one))}
    return {"row": row, "seed": seed, "rates": rates, "unet_calls": cost["unet_calls"], "seconds": cost["seconds"]}


def column(result: Mapping[str, Any]) -> str:
    """Return the column of a result, empty where it has none."""
    if result["metric"] == "asr_any":
        return str(result["settings"]["attack"]["label"])
    if result["metric"] == "pre_asr":
        return str(result["prompt_set"].partition("/")[2])
    return str(result["metric"]) if result["metric"] in ("worst_case", "retain_shape", "retain_all") else ""


def table(out: Path) -> str:
    """Return the rows that are there, per cent, the seeds beside each other."""
    columns = ("name", "unseen", "random", "discrete", "continuous", "shared", "retain_shape", "retain_all")
    lines = [f"| | {' | '.join(columns)} | UNet calls | seconds |", "|---" * (len(columns) + 3) + "|"]
    for row in ROWS:
        seeds = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*.json"))]
        seeds = [one for one in seeds if one["row"] == row]
        if not seeds:
            continue
        cells = [", ".join(f"{100 * one['rates'][name]['value']:.0f}" for one in seeds) for name in columns]
        cells += [", ".join(f"{one[key]:,.0f}" for one in seeds) for key in ("unet_calls", "seconds")]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(work: Path, out: Path, seeds: Sequence[int]) -> None:
    """Measure every row that is not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    for seed, row in ((seed, row) for seed in seeds for row in ROWS):
        there = place(out, row, seed)
        if not there.exists():
            part = there.with_suffix(".part")
            part.write_text(json.dumps(measured(work, row, seed), indent=1) + "\n", encoding="utf-8")
            part.replace(there)


if __name__ == "__main__":
    if sys.argv[3:] != ["table"]:
        main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3:]] or [0, 1])
    sys.stdout.write(table(Path(sys.argv[2])) + "\n")
