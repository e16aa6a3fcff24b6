"""What each part of AdvUnlearn buys on `circle`: ablations.py WORK OUT [SEED ...]; about five minutes a row and seed.

WORK keeps encoders and banks, OUT one file a row and seed; finished ones are kept. ``ablations.py WORK OUT
table`` prints the rows again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.encoder import RobustEncoder
from robust_encoders.fingerprint import content_sha256
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.backbone import Backbone
from robust_encoders.training.evaluate import evaluate
from robust_encoders.training.finetune import Workspace, finetune
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.methods.advunlearn import _prepare
from robust_encoders.training.protocols import Result
from robust_encoders.training.recipes import RECIPES, Recipe
from robust_encoders.training.retain_sets import object_prompts
from robust_encoders.training.run import run_recipe
from robust_encoders.training.selection import Selection
from robust_encoders.training.settings import Adversary, Retain, Unlearn
from robust_encoders.training.shapes_plan import EvaluationSettings

N, N_KEPT, ITERATIONS = 24, 120, 200
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


def everyday(method: AdvUnlearn) -> AdvUnlearn:
    """Retain photos of everyday objects, of which this base knows nothing."""
    return retain(prompts=object_prompts(RECIPES["shapes/circle"]().concept))(method)


ANCHOR = unlearn(target="anchor")
PLAIN = unlearn(plain_weight=10.0, plain_space="conditioning", plain_batch=48)
KEPT = retain(space="both", weight=1.0, conditioning_weight=20.0, conditioning_batch=128)
ON_UNET = ("UNet", "UNet, no retain term")
# Row to what it changes of the paper's terms.
ROWS: Mapping[str, Change] = {
    "the paper's terms": lambda method: method,
    "no attack (ESD)": esd,
    "no retain term": retain(weight=0.0, prompts=()),
    "retain weight 0.1": retain(weight=0.1),
    "retain weight 2": retain(weight=2.0),
    "retain: everyday objects": everyday,
    "layer 0": layers(0),
    "layers 0, 1": layers(0, 1),
    "one fast step": adversary(attack=SoftPrompt.fast(2e-2)),
    "2 steps": adversary(attack=SoftPrompt(steps=2, rate=2e-2)),
    "suffix": adversary(placements=("suffix",)),
    "in the middle": adversary(placements=("mid",)),
    "3 tokens": adversary(tokens=(3,)),
    "1, 2 or 3 tokens": adversary(tokens=(1, 2, 3)),
    "UNet": lambda method: method,
    "UNet, no retain term": retain(weight=0.0, prompts=()),
    "anchor, plain term": together(ANCHOR, PLAIN),
    "anchor, plain term, retained twice": together(ANCHOR, PLAIN, KEPT),
}


@dataclass(frozen=True)
class TrainedUNet:
    """A UNet in place of the base's, for an evaluation.

    Args:
        unet: Its weights.
        row: What trained it.
    """

    unet: Mapping[str, Tensor]
    row: str
    name: str = "advunlearn on the UNet"

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Give the pipeline a UNet of these weights for the time of the context."""
        before, pipe.unet = pipe.unet, deepcopy(pipe.unet)
        pipe.unet.load_state_dict(self.unet)
        try:
            yield pipe
        finally:
            pipe.unet = before

    def described(self) -> Mapping[str, Any]:
        """Return name, row and a hash of the weights."""
        return {"name": self.name, "row": self.row, "content_sha256": content_sha256(self.unet)}


def trained_unet(method: AdvUnlearn, work: Path, run: Path, seed: int) -> tuple[TrainedUNet, dict[str, Any]]:
    """Train all of a UNet but its cross-attention, as ESD does for objects, with the frozen text encoder."""
    file, record = run / "unet.safetensors", run / "run.json"
    if not record.exists():
        run.mkdir(parents=True, exist_ok=True)
        teacher = Backbone.from_pipeline(embedded_pipeline(), precision=method.train.precision)
        unet = deepcopy(teacher.unet).requires_grad_(False).eval()
        student = Backbone(
            teacher.tokenizer, teacher.text_encoder, unet, teacher.scheduler, precision=teacher.precision
        )
        space, began = Workspace(cache_dir=work / "banks"), time.monotonic()
        with teacher.frozen():
            objective = _prepare(
                method, method.adversary, teacher, student, concept=RECIPES["shapes/circle"]().concept, workspace=space
            )
            teacher.unet_calls = 0
            chosen = {n: p.requires_grad_() for n, p in unet.named_parameters() if "attn2" not in n}
            identity = {"row": run.name, "seed": seed}
            finetune(chosen, objective, method.train, generator=Generator().manual_seed(seed), workspace=space,
                     identity=identity)  # fmt: skip
        save_file({name: tensor.detach().contiguous() for name, tensor in unet.state_dict().items()}, file)
        spent = {"unet_calls": teacher.unet_calls, "seconds": round(time.monotonic() - began, 1)}
        record.write_text(json.dumps(spent), encoding="utf-8")
    return TrainedUNet(load_file(file), run.name), json.loads(record.read_text(encoding="utf-8"))


def place(out: Path, row: str, seed: int) -> Path:
    """Return the file of a row and seed."""
    return out / f"{'-'.join(row.replace('(', '').replace(')', '').replace(',', '').split())}-{seed}.json".lower()


def trained(work: Path, row: str, seed: int, run: Path) -> tuple[RobustEncoder | TrainedUNet, Mapping[str, Any]]:
    """Train what is not there yet; return it and what it cost."""
    shipped, method = RECIPES["shapes/circle"](), ROWS[row](paper())
    if row in ON_UNET:
        return trained_unet(method, work, run, seed)
    recipe: Recipe = replace(shipped, name=f"shapes/circle-{run.name}", method=method, seed=seed)
    if not (run / "encoder").exists():
        run_recipe(recipe, embedded_pipeline(), run / "encoder", cache_dir=work / "banks")
    encoder = RobustEncoder.from_pretrained(run / "encoder")
    return encoder, encoder.manifest.recipe["run"]


def measured(work: Path, row: str, seed: int) -> Row:
    """Train what is not there yet, and evaluate it by the suite ``core``."""
    run = work / place(Path(), row, seed).stem
    made, cost = trained(work, row, seed, run)
    settings = EvaluationSettings(n=N, n_kept=N_KEPT, n_probes=2, n_renders=100, checks=0, suite="core", seed=seed)
    found = evaluate(embedded_pipeline(), made, "circle", settings=settings, out=run).results
    rates = {name: {"value": one.value, "n": one.n, "interval": one.interval} for one in found if (name := column(one))}
    return {"row": row, "seed": seed, "rates": rates, "unet_calls": cost["unet_calls"], "seconds": cost["seconds"]}


def column(result: Result) -> str:
    """Return the column of a result, empty where it has none."""
    if result.metric == "asr_any":
        return str(result.settings["attack"]["label"])
    if result.metric == "pre_asr":
        return str(result.prompt_set.partition("/")[2])
    return str(result.metric) if result.metric in ("worst_case", "retain_shape", "retain_all") else ""


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
