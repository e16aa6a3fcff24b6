"""Measure what each part of a method buys, on `circle`: ablations.py STUDY WORK OUT [SEED ...].

A row and seed takes five to thirty minutes. The study ``paper`` has AdvUnlearn's own ablations. The study
``objectives`` compares the spaces in which the hardened recipe attacks and unlearns, and DES and SAGE, which do not
attack. The folder WORK keeps encoders and banks. The folder OUT keeps one file a row and seed, and a second run keeps
finished files. ``ablations.py STUDY WORK OUT table`` prints the rows again.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.encoder import RobustEncoder
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.training import RECIPES
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.methods.terms import build_objective
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, Space, UnlearnConfig
from robust_encoders.training.prompts.retain import object_prompts
from robust_encoders.training.protocols import InnerAttack, Method
from robust_encoders.training.provenance import write_json
from robust_encoders.training.recipes.reproduce import recorded_recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import finetune
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.types import Result
from robust_encoders.training.workspace import Workspace

ITERATIONS = 200
Change = Callable[[AdvUnlearn], AdvUnlearn]
Row = dict[str, Any]


def advunlearn(recipe: str) -> AdvUnlearn:
    """Return the method of a recipe that trains by AdvUnlearn."""
    method = RECIPES[recipe]().method
    if not isinstance(method, AdvUnlearn):
        raise TypeError(f"expected AdvUnlearn in {recipe}, found {type(method).__name__}")
    return method


def paper() -> AdvUnlearn:
    """Return AdvUnlearn with the paper's terms on captions of the embedded base.

    The attack has one adversarial token in front of the prompt. All terms compare noise predictions.
    """
    shipped = advunlearn("shapes/circle-advunlearn")
    return replace(
        shipped,
        unlearn=UnlearnConfig(batch=4),
        retain=RetainConfig(prompts=shipped.retain.prompts, weight=0.5, batch=8),
        attack=SoftPrompt(steps=8, rate=2e-2),
        adversary=AdversaryConfig(warmup=40),
        train=replace(shipped.train, iterations=ITERATIONS),
    )


def unlearn(**changes: Any) -> Change:
    """Return a change of settings of the terms on the concept."""
    return lambda method: replace(method, unlearn=replace(method.unlearn, **changes))


def retain(**changes: Any) -> Change:
    """Return a change of settings of the retain terms."""
    return lambda method: replace(method, retain=replace(method.retain, **changes))


def adversary(**changes: Any) -> Change:
    """Return a change of settings of the adversary."""
    return lambda method: replace(method, adversary=replace(method.adversary, **changes))


def attack(rule: InnerAttack) -> Change:
    """Return a change to another inner attack."""
    return lambda method: replace(method, attack=rule)


def layers(*numbers: int) -> Change:
    """Return a change that trains these layers alone, without the final norm, as the paper does."""
    return lambda method: replace(method, select=SelectionConfig(layers=numbers, final_norm=False))


def esd(method: AdvUnlearn) -> ESD:
    """Return ESD with the same settings, which is the same run without the attack."""
    return ESD(retain=method.retain, unlearn=method.unlearn, select=method.select, train=method.train, bank=method.bank)


def together(*changes: Change) -> Change:
    """Return a change that makes these changes in order."""

    def made(method: AdvUnlearn) -> AdvUnlearn:
        for change in changes:
            method = change(method)
        return method

    return made


def everyday(method: AdvUnlearn) -> AdvUnlearn:
    """Return the method with retain prompts about photos of everyday objects, of which this base knows nothing."""
    return retain(prompts=object_prompts(RECIPES["shapes/circle-advunlearn"]().concept))(method)


ANCHOR = unlearn(target="anchor")
PLAIN = unlearn(plain_weight=10.0, plain_space="conditioning", plain_batch=48)
KEPT = retain(space="both", weight=1.0, conditioning_weight=20.0, conditioning_batch=128)
RETAINED = (
    *("retain_shape", "retain_colour", "retain_background", "retain_style", "retain_all", "retain_near", "retain_far"),
)
ON_UNET = ("UNet",)
UNTRAINED = "base"
# Name of a row to its change of the paper's terms.
ROWS: Mapping[str, Callable[[AdvUnlearn], Method]] = {
    "the paper's terms": lambda method: method,
    "no attack (ESD)": esd,
    "UNet": lambda method: method,
    "no retain term": retain(weight=0.0, prompts=()),
    "retain weight 2": retain(weight=2.0),
    "retain: everyday objects": everyday,
    "layer 0": layers(0),
    "layers 0, 1": layers(0, 1),
    "one fast step": attack(SoftPrompt.fast(2e-2)),
    "2 attack steps": attack(SoftPrompt(steps=2, rate=2e-2)),
    "30 attack steps": attack(SoftPrompt(steps=30, rate=2e-2)),
    "suffix": adversary(placements=("suffix",)),
    "3 tokens": adversary(tokens=(3,)),
    "anchor, plain term, retained twice": together(ANCHOR, PLAIN, KEPT),
    "fresh trajectories": lambda method: replace(method, bank=replace(method.bank, mode="fresh")),
}


def hardened() -> AdvUnlearn:
    """Return the hardened recipe's method."""
    return advunlearn("shapes/circle-hardened")


def objective(name: Space) -> Change:
    """Return a change that attacks and unlearns in the named space.

    Without the UNet no attack can share tokens among prompts, so that share becomes 0.
    """

    def change(method: AdvUnlearn) -> AdvUnlearn:
        adversary = method.adversary if name != "conditioning" else replace(method.adversary, shared=0.0)
        return replace(method, adversary=adversary, hardening=replace(method.hardening, objective=name))

    return change


def instead(recipe: str) -> Callable[[AdvUnlearn], Method]:
    """Return a change to the method of another recipe for the same concept."""
    return lambda method: RECIPES[recipe]().method


def no_known(_: AdvUnlearn) -> AdvUnlearn:
    """Return the strict recipe's method with two settings at zero.

    One word is enough to make a string caption-like, and no embeddings are inserted into captions.
    """
    strict = advunlearn("shapes/circle-strict")
    return replace(strict, outliers=replace(strict.outliers, caption_share=0.0, inserted_weight=0.0))


def without_unet(_: AdvUnlearn) -> AdvUnlearn:
    """Return the strict recipe's method without the UNet, with fewer iterations and more captions with added tokens.

    Only the unit of the metric on conditionings still needs the UNet, by the bank.
    """
    strict = advunlearn("shapes/circle-strict")
    return replace(
        strict,
        adversary=replace(strict.adversary, warmup=0, shared=0.0),
        hardening=replace(strict.hardening, objective="conditioning", additions_weight=30.0, additions_batch=32),
        outliers=replace(strict.outliers, searched_weight=0.0),
        retain=replace(strict.retain, space="conditioning"),
        train=replace(strict.train, iterations=400),
    )


class Study(NamedTuple):
    """Rows that change one method, and the settings of their measurement.

    Args:
        recipe: Recipe of the concept and of the encoder's base.
        method: Method that the rows change.
        rows: Name of each row to its change of the method.
        attacks: Labels of attacks of the suite ``standard``.
        n: Number of prompts with the concept.
        n_kept: Number of prompts without the concept.
        n_probes: Number of prompts of every set of the structured utility.
        columns: Columns of the table.
        pooled: True if the table pools the seeds and shows intervals; otherwise it lists the seeds.
    """

    recipe: str
    method: Callable[[], AdvUnlearn]
    rows: Mapping[str, Callable[[AdvUnlearn], Method]]
    attacks: tuple[str, ...]
    n: int
    n_kept: int
    n_probes: int
    columns: tuple[str, ...]
    pooled: bool


BY_TEXT = ("none", "synonyms", "random", "black_box", "discrete", "p4d")
ON_ALL = ("seen", "unseen", *BY_TEXT, "worst_case", "continuous", "inversion", "worst_case_embeddings", *RETAINED)
STUDIES = {
    "paper": Study(
        *("shapes/circle-advunlearn", paper, ROWS, ("discrete", "continuous"), 16, 120, 2),
        *(("name", "unseen", "discrete", "continuous", "retain_shape", "retain_all"), False),
    ),
    "objectives": Study(
        "shapes/circle-hardened",
        hardened,
        {
            UNTRAINED: lambda method: method,
            "noise": objective("noise"),
            "conditioning": objective("conditioning"),
            "both": objective("both"),
            **{name: instead(f"shapes/circle-{name.lower()}") for name in ("strict", "DES", "SAGE")},
            "strict, no known": no_known,
            "strict, no UNet": without_unet,
        },
        (*BY_TEXT, "continuous", "inversion"),
        *(12, 100, 40),
        ON_ALL,
        pooled=True,
    ),
}


@dataclass(frozen=True)
class TrainedUNet:
    """A trained UNet that replaces the base's UNet in an evaluation.

    Args:
        unet: Weights of the UNet.
        row: Name of the row that trained it.
    """

    unet: Mapping[str, Tensor]
    row: str
    name: str = "advunlearn on the UNet"

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Give the pipeline a UNet with these weights for the duration of the context."""
        before, pipe.unet = pipe.unet, deepcopy(pipe.unet)
        pipe.unet.load_state_dict(self.unet)
        try:
            yield pipe
        finally:
            pipe.unet = before

    def described(self) -> Mapping[str, Any]:
        """Return the name, the row and a hash of the weights."""
        return {"name": self.name, "row": self.row, "content_sha256": content_sha256(self.unet)}


def trained_unet(method: AdvUnlearn, work: Path, run: Path, seed: int) -> tuple[TrainedUNet, dict[str, Any]]:
    """Train a UNet except its cross-attention, as ESD does for objects, or read a finished one.

    The text encoder stays frozen. Return the UNet, and its UNet calls and seconds of training.
    """
    file, record = run / "unet.safetensors", run / "run.json"
    if not record.exists():
        run.mkdir(parents=True, exist_ok=True)
        teacher = Backbone.from_pipeline(embedded_pipeline(), precision=method.train.precision)
        unet = deepcopy(teacher.unet).requires_grad_(False).eval()
        student = Backbone(
            teacher.tokenizer, teacher.text_encoder, unet, teacher.scheduler, precision=teacher.precision
        )
        space, began = Workspace(cache_dir=work / "banks"), time.monotonic()
        concept = RECIPES["shapes/circle-advunlearn"]().concept
        with teacher.frozen():
            objective = build_objective(method, teacher, student, concept=concept, workspace=space)
            teacher.unet_calls = 0
            chosen = {n: p.requires_grad_() for n, p in unet.named_parameters() if "attn2" not in n}
            generator = Generator().manual_seed(seed)
            finetune(chosen, objective, method.train, generator=generator, workspace=space, identity=run.name)
        save_file({name: tensor.detach().contiguous() for name, tensor in unet.state_dict().items()}, file)
        spent = {"unet_calls": teacher.unet_calls, "seconds": round(time.monotonic() - began, 1)}
        write_json(record, spent)
    return TrainedUNet(load_file(file), run.name), json.loads(record.read_text(encoding="utf-8"))


def place(out: Path, row: str, seed: int) -> Path:
    """Return the path of the file of a row and seed."""
    return out / f"{'-'.join(re.findall('[a-z0-9]+', row.lower()))}-{seed}.json"


def trained(
    study: Study, work: Path, row: str, seed: int, run: Path
) -> tuple[LoadedArtifact | TrainedUNet | None, Mapping[str, Any]]:
    """Return the encoder or UNet of a row and its cost, and train it first if it is missing.

    For the base itself, return None and a cost of zero.

    Raises:
        ValueError: If the folder ``run`` holds an encoder of other settings.
    """
    if row == UNTRAINED:
        return None, {"unet_calls": 0, "seconds": 0.0}
    like, method = RECIPES[study.recipe](), study.rows[row](study.method())
    if row in ON_UNET and isinstance(method, AdvUnlearn):
        return trained_unet(method, work, run, seed)
    recipe = replace(like, name=f"{study.recipe}-{run.name}", method=method, seed=seed)
    if not (run / "encoder").exists():
        run_recipe(recipe, embedded_pipeline(), run / "encoder", cache_dir=work / "banks")
    encoder = RobustEncoder.from_pretrained(run / "encoder")
    if recorded_recipe(encoder.manifest) != recipe:
        raise ValueError(f"expected an encoder of this row in {run}, found one of other settings: remove that folder")
    return encoder, encoder.manifest.recipe["run"]


def measured(study: Study, work: Path, row: str, seed: int) -> Row:
    """Evaluate a row with one seed, and train its encoder first if it is missing."""
    run = work / place(Path(), row, seed).stem
    made, cost = trained(study, work, row, seed, run)
    benchmark = ShapesBenchmark("circle", study.n, study.n_kept, n_renders=100, n_probes=study.n_probes)
    config, pipe = EvaluationConfig(seed=seed, checks=0, source=work / f"source-{seed}"), embedded_pipeline()
    plan = benchmark.plan(pipe, config)
    plan = replace(plan, attacks={label: plan.attacks[label] for label in study.attacks if made})
    found = evaluate(pipe, made, FixedPlan(plan), out=run, config=config).results
    rates = {name: {"value": one.value, "n": one.n, "interval": one.interval} for one in found if (name := column(one))}
    return {"row": row, "seed": seed, "rates": rates, "unet_calls": cost["unet_calls"], "seconds": cost["seconds"]}


def column(result: Result) -> str:
    """Return the name of a result's column in the table, or an empty string if it has none."""
    if result.metric == "asr_any":
        return str(result.settings["attack"]["label"])
    if result.metric == "pre_asr":
        return str(result.prompt_set.partition("/")[2])
    return str(result.metric) if result.metric in ("worst_case", "worst_case_embeddings", *RETAINED) else ""


def table(study: Study, out: Path) -> str:
    """Return the measured rows as a Markdown table, in per cent.

    A pooled study has one column for each row of the study and its seeds together. Other studies have one line for each
    row and list the seeds beside each other.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    seeds = {row: [one for one in found if one["row"] == row] for row in study.rows}
    spent = {"UNet calls": "unet_calls", "seconds": "seconds"}
    cells = [["", *study.columns, *spent]]
    for row, ones in ((row, ones) for row, ones in seeds.items() if ones):
        rates = [cell([one["rates"].get(name) for one in ones], pooled=study.pooled) for name in study.columns]
        cells.append([row, *rates, *(", ".join(f"{one[key]:,.0f}" for one in ones) for key in spent.values())])
    if study.pooled:
        cells = [list(column) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def cell(rates: Sequence[Mapping[str, Any] | None], *, pooled: bool) -> str:
    """Return one cell of the table: the rates of some seeds, in per cent.

    Pooled rates come with their Wilson interval. The cell is empty if the rate of any seed is missing.
    """
    known = [one for one in rates if one is not None]
    if len(known) < len(rates):
        return ""
    if not pooled:
        return ", ".join(f"{100 * one['value']:.0f}" for one in known)
    hits, n = sum(round(one["value"] * one["n"]) for one in known), sum(one["n"] for one in known)
    low, high = wilson_interval(hits, n)
    return f"{100 * hits / n:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def main(name: str, work: Path, out: Path, seeds: Sequence[int]) -> None:
    """Measure every row and seed that is missing in ``out``."""
    study = STUDIES[name]
    out.mkdir(parents=True, exist_ok=True)
    for seed, row in ((seed, row) for seed in seeds for row in study.rows):
        there = place(out, row, seed)
        if not there.exists():
            write_json(there, measured(study, work, row, seed))


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in STUDIES:
        sys.exit(f"expected ablations.py STUDY WORK OUT [SEED ...] with STUDY one of {', '.join(STUDIES)}")
    if sys.argv[4:] != ["table"]:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [int(seed) for seed in sys.argv[4:]] or [0, 1])
    sys.stdout.write(table(STUDIES[sys.argv[1]], Path(sys.argv[3])) + "\n")
