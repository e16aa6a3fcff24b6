"""What each part buys, on `circle`: ablations.py STUDY WORK OUT [SEED ...], five to thirty minutes a row and seed.

STUDY is ``paper``, AdvUnlearn's own ablations, or ``objectives``, where the hardened recipe attacks and unlearns,
beside DES and SAGE, which do not attack. WORK keeps encoders and banks, OUT one file a row and seed; finished ones are
kept. ``ablations.py STUDY WORK OUT table`` prints the rows again.
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
from typing import Any, NamedTuple, get_args

from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.encoder import RobustEncoder
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.benchmarks.shapes import EvaluationSettings
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.methods.text_encoder import build_objective
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, Space, UnlearnConfig
from robust_encoders.training.prompts.retain import object_prompts
from robust_encoders.training.provenance import write_json
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.reproduce import recorded_recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import finetune
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.types import Result
from robust_encoders.training.workspace import Workspace

ITERATIONS = 200
Change = Callable[[AdvUnlearn], Any]
Row = dict[str, Any]


def recipe_method(name: str) -> AdvUnlearn:
    """Return the method of a recipe that runs AdvUnlearn."""
    method = RECIPES[name]().method
    if not isinstance(method, AdvUnlearn):
        raise TypeError(f"expected AdvUnlearn in the recipe, found {type(method).__name__}")
    return method


def paper() -> AdvUnlearn:
    """Return the paper's terms on the captions of the embedded base: one adversarial token in front, noise alone."""
    shipped = recipe_method("shapes/circle-advunlearn")
    return replace(
        shipped,
        unlearn=UnlearnConfig(batch=4),
        retain=RetainConfig(prompts=shipped.retain.prompts, weight=0.5, batch=8),
        attack=SoftPrompt(steps=8, rate=2e-2),
        adversary=AdversaryConfig(warmup=40),
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


def attack(rule: SoftPrompt) -> Change:
    """Take another rule of the inner attack."""
    return lambda method: replace(method, attack=rule)


def layers(*numbers: int) -> Change:
    """Train these layers alone, as the paper does without the final norm."""
    return lambda method: replace(method, select=SelectionConfig(layers=numbers, final_norm=False))


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
    prompts = object_prompts(RECIPES["shapes/circle-advunlearn"]().concept)
    return replace(method, retain=replace(method.retain, prompts=prompts))


ANCHOR = unlearn(target="anchor")
PLAIN = unlearn(plain_weight=10.0, plain_space="conditioning", plain_batch=48)
KEPT = retain(space="both", weight=1.0, conditioning_weight=20.0, conditioning_batch=128)
RETAINED = (
    *("retain_shape", "retain_colour", "retain_background", "retain_style", "retain_all", "retain_near", "retain_far"),
)
ON_UNET = ("UNet",)
UNTRAINED = "base"
# Row to what it changes of the paper's terms.
ROWS: Mapping[str, Change] = {
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
    return recipe_method("shapes/circle-hardened")


def objective(name: Space) -> Change:
    """Attack and unlearn where the name says; without the UNet there is nothing to share tokens in."""

    def change(method: AdvUnlearn) -> AdvUnlearn:
        adversary = method.adversary if name != "conditioning" else replace(method.adversary, shared=0.0)
        hardening = replace(method.hardening, objective=name)
        return replace(method, adversary=adversary, hardening=hardening)

    return change


def instead(recipe: str) -> Change:
    """Take another recipe's method, on the same concept."""
    return lambda method: RECIPES[recipe]().method


def one_word_is_enough(method: AdvUnlearn) -> AdvUnlearn:
    """The strict recipe, where a string with an alternative is caption-like, and nothing is inserted into captions."""
    strict = recipe_method("shapes/circle-strict")
    return replace(strict, outliers=replace(strict.outliers, caption_share=0.0, inserted_weight=0.0))


def without_unet(method: AdvUnlearn) -> AdvUnlearn:
    """Strict without the UNet but for the metric's unit, in fewer iterations; more captions get additions."""
    strict = recipe_method("shapes/circle-strict")
    return replace(
        strict,
        adversary=replace(strict.adversary, warmup=0, shared=0.0),
        hardening=replace(strict.hardening, objective="conditioning", additions_weight=30.0, additions_batch=32),
        outliers=replace(strict.outliers, searched_weight=0.0),
        retain=replace(strict.retain, space="conditioning"),
        train=replace(strict.train, iterations=400),
    )


class Study(NamedTuple):
    """Rows that change one method, and how they are measured.

    Args:
        recipe: Whose concept is erased.
        method: What the rows change.
        rows: Name to change.
        attacks: Labels of the suite ``standard``.
        n: Prompts with the concept.
        n_kept: Prompts without it.
        n_probes: Prompts of every set of the structured utility.
        columns: Of the table.
        pooled: Whether the table takes the seeds together, with intervals.
    """

    recipe: str
    method: Callable[[], AdvUnlearn]
    rows: Mapping[str, Change]
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
            **{name: objective(name) for name in get_args(Space)},
            **{name: instead(f"shapes/circle-{name.lower()}") for name in ("strict", "DES", "SAGE")},
            "strict, no known": one_word_is_enough,
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
        concept = RECIPES["shapes/circle-advunlearn"]().concept
        with teacher.frozen():
            objective = build_objective(method, teacher, student, concept=concept, workspace=space)
            teacher.unet_calls = 0
            chosen = {n: p.requires_grad_() for n, p in unet.named_parameters() if "attn2" not in n}
            generator = Generator().manual_seed(seed)
            identity = f"{run.name}-{seed}"
            finetune(chosen, objective, method.train, generator=generator, workspace=space, identity=identity)
        save_file({name: tensor.detach().contiguous() for name, tensor in unet.state_dict().items()}, file)
        spent = {"unet_calls": teacher.unet_calls, "seconds": round(time.monotonic() - began, 1)}
        write_json(record, spent)
    return TrainedUNet(load_file(file), run.name), json.loads(record.read_text(encoding="utf-8"))


def place(out: Path, row: str, seed: int) -> Path:
    """Return the file of a row and seed."""
    return out / f"{'-'.join(re.findall('[a-z0-9]+', row.lower()))}-{seed}.json"


def trained(
    study: Study, work: Path, row: str, seed: int, run: Path
) -> tuple[RobustEncoder | TrainedUNet | None, Mapping[str, Any]]:
    """Train what is not there yet; return it and what it cost, and nothing for the base itself."""
    if row == UNTRAINED:
        return None, {"unet_calls": 0, "seconds": 0.0}
    like, method = RECIPES[study.recipe](), study.rows[row](study.method())
    if row in ON_UNET:
        return trained_unet(method, work, run, seed)
    recipe: Recipe = replace(like, name=f"{study.recipe}-{run.name}", method=method, seed=seed)
    if not (run / "encoder").exists():
        run_recipe(recipe, embedded_pipeline(), run / "encoder", cache_dir=work / "banks")
    encoder = RobustEncoder.from_pretrained(run / "encoder")
    if recorded_recipe(encoder.manifest) != recipe:
        raise ValueError(f"expected an encoder of this row in {run}, found one of other settings: remove that folder")
    return encoder, encoder.manifest.recipe["run"]


def measured(study: Study, work: Path, row: str, seed: int) -> Row:
    """Train what is not there yet, and evaluate it."""
    run = work / place(Path(), row, seed).stem
    made, cost = trained(study, work, row, seed, run)
    settings = EvaluationSettings(
        n=study.n, n_kept=study.n_kept, n_probes=study.n_probes, n_renders=100, checks=0, seed=seed
    )
    suite = shapes_suite("standard", "circle")
    attacks, source = {label: suite[label] for label in study.attacks if made}, work / f"source-{seed}"
    found = evaluate(
        embedded_pipeline(), made, "circle", settings=settings, out=run, source=source, attacks=attacks
    ).results
    rates = {name: {"value": one.value, "n": one.n, "interval": one.interval} for one in found if (name := column(one))}
    return {"row": row, "seed": seed, "rates": rates, "unet_calls": cost["unet_calls"], "seconds": cost["seconds"]}


def column(result: Result) -> str:
    """Return the column of a result, empty where it has none."""
    if result.metric == "asr_any":
        return str(result.settings["attack"]["label"])
    if result.metric == "pre_asr":
        return str(result.prompt_set.partition("/")[2])
    return str(result.metric) if result.metric in ("worst_case", "worst_case_embeddings", *RETAINED) else ""


def table(study: Study, out: Path) -> str:
    """Return the rows that are there, per cent: seeds beside each other, or together and a column for every row."""
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
    """Return the rates of some seeds, per cent; taken together with their Wilson interval. Nothing unless all are."""
    known = [one for one in rates if one is not None]
    if len(known) < len(rates):
        return ""
    if not pooled:
        return ", ".join(f"{100 * one['value']:.0f}" for one in known)
    hits, n = sum(round(one["value"] * one["n"]) for one in known), sum(one["n"] for one in known)
    low, high = wilson_interval(hits, n)
    return f"{100 * hits / n:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def main(name: str, work: Path, out: Path, seeds: Sequence[int]) -> None:
    """Measure every row that is not there yet."""
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
