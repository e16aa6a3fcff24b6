"""Charts of the numbers that are recorded in ``studies/``. Every chart names its suite version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robust_encoders.training.reports.plots.style import LIGHT, Draw, svg
from studies.methods.table import HERE as METHODS
from studies.methods.table import component_of, numbers, rows, version_of

from .dots import Dot, dots
from .svg import variables

STUDIES = METHODS.parent
_NAMES = {
    **{"ablation": "Ablating Concepts", "advunlearn": "AdvUnlearn"},
    **{"base": "base", "doco": "DoCo", "esd": "ESD", "hirm": "HiRM", "race": "RACE", "rece": "RECE", "receler": "Receler"},
    **{"spm": "SPM", "uce": "UCE"},
}
_COMPONENTS = {"base": "base", "text_encoder": "text encoder", "unet": "UNet"}


def both_themes(draw: Draw) -> bytes:
    """Return a figure as an SVG file with light and dark colours, chosen by the reader's screen."""
    text = svg(draw, LIGHT).decode()
    names = {LIGHT.paper: "paper", LIGHT.faint: "faint", LIGHT.ink: "ink"}
    names |= {colour: f"c{i}" for i, colour in enumerate(LIGHT.colours[:6])}
    for colour, name in names.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<defs>", f"{variables()}\n <defs>", 1).encode()


def of_methods(column: str, title: str) -> Draw:
    """Return a chart of one column of the study of all methods, suite version 1."""
    found = []
    for component, name, results in rows():
        records = json.loads(results.read_text(encoding="utf-8"))["results"]
        record = dict(numbers(records)).get(column)
        if record is not None and version_of(records) == 1:
            low, high = record["interval"]
            found.append(Dot(_method(name), _COMPONENTS[component], record["value"], low, high))
    title = f"{title}\ncircle, suite version 1, up to two seeds, 95 % intervals"
    return dots(_by_row(found), title, groups=list(_COMPONENTS.values()))


def costs() -> Draw:
    """Return a chart of the UNet calls of each training of that study."""
    found = []
    for training in sorted(METHODS.glob("*/*/training.json")):
        calls = json.loads(training.read_text(encoding="utf-8"))["unet_calls"]
        if calls and training.parent.name.endswith("-0"):
            component = _COMPONENTS[component_of(training)]
            found.append(Dot(_method(training.parent.name), component, calls, calls, calls))
    title = "UNet calls of the training loop; UCE and RECE make none\ncircle, seed 0, the bank not counted"
    return dots(_by_row(found), title, groups=list(_COMPONENTS.values()), log=True)


def _method(row: str) -> str:
    """Return the name of a method from that of a row, ``esd-unet-0`` or ``advunlearn+surgery-0``."""
    method, _, variant = row.rpartition("-")[0].removesuffix("-te").removesuffix("-unet").partition("+")
    return f"{_NAMES[method]}, {variant}" if variant else _NAMES[method]


def _by_row(found: Sequence[Dot]) -> list[Dot]:
    """Return numbers by row: the base first, then by name."""
    return sorted(found, key=lambda dot: (dot.row != "base", dot.row.lower(), dot.value))


def attack_in_the_loop() -> Draw:
    """Return a chart of ESD and AdvUnlearn on three concepts, from the study ``results``."""
    found, titles = [], {"esd": "ESD", "advunlearn": "AdvUnlearn"}
    for concept in ("circle", "striped", "red"):
        for method in titles:
            for seed in (0, 1):
                path = STUDIES / "results" / concept / f"{method}-{seed}" / "results.json"
                records = json.loads(path.read_text(encoding="utf-8"))["results"]
                assert version_of(records) == 1
                record = dict(numbers(records))["discrete"]
                found.append(Dot(concept, titles[method], record["value"], *record["interval"]))
    title = "Prompts that a search over tokens wins; lower is better\nsuite version 1, two seeds, 95 % intervals"
    return dots(found, title, groups=list(titles.values()))


def withdrawn() -> Draw:
    """Return a chart of what simpler tests found on the shipped encoders."""
    path = STUDIES / "withdrawn" / "withdrawn.json"
    found = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        what = row["what"].replace("any of 20 word pairs in the concept's place", "word pairs")
        what = what.replace("8 free embeddings in the prompt's place", "free embeddings")
        kind = "base" if row["encoder"] == "base" else "shipped encoder"
        found.append(Dot(what.replace(": ", ":\n"), kind, row["count"] / row["n"], *row["interval"]))
    title = (
        "Pictures or captions; only in the first row is higher better\na script of its own, no suite; 95 % intervals"
    )
    return dots(found, title, groups=["base", "shipped encoder"])


def second_suite(title: str, wanted: Mapping[str, str]) -> Draw:
    """Return a chart of the shipped encoders, the base and the empty prompt, from the study ``second_suite``.

    Args:
        title: First line above the chart.
        wanted: Label of an attack, or name of a metric, to the name of its rows.
    """
    subjects = {"base": "base", "encoder": "shipped encoder", "empty_prompt": "empty prompt"}
    found, versions = [], set()
    for concept in ("circle", "red", "striped"):
        for name, shown in wanted.items():
            for subject, kind in subjects.items():
                path = STUDIES / "second_suite" / concept / subject / "results.json"
                records = json.loads(path.read_text(encoding="utf-8"))["results"]
                versions.add(version_of(records))
                record = next(record for record in records if name == _column(record))
                found.append(Dot(f"{concept}:\n{shown}", kind, record["value"], *record["interval"]))
    (version,) = versions  # numbers of different versions do not stand in one chart
    title = f"{title}\nsuite version {version}, 95 % intervals"
    return dots(found, title, groups=list(subjects.values()))


def _column(record: Mapping[str, Any]) -> str:
    """Return the label of a record's attack, or the name of its metric."""
    if record["metric"] == "asr_any":
        return str(record["settings"]["attack"]["label"])
    return str(record["metric"])


CHARTS: Mapping[str, Callable[[], Draw]] = {
    "methods-tokens": lambda: of_methods("discrete", "Prompts that a search over tokens wins; lower is better"),
    "methods-embeddings": lambda: of_methods("continuous", "Prompts that free embeddings win; lower is better"),
    "methods-kept": lambda: of_methods("all kept", "Other prompts, all drawn as asked; higher is better"),
    "methods-costs": costs,
    "attack-in-the-loop": attack_in_the_loop,
    "withdrawn": withdrawn,
    "second-suite-attacks": lambda: second_suite(
        "Prompts that attacks win; lower is better",
        {"word_swap_caption": "two words", "conditioning_inversion": "free embeddings"},
    ),
    "second-suite-kept": lambda: second_suite(
        "Other prompts, drawn as asked; higher is better",
        {"everyday_factor": "everyday words", "retain_all": "own templates"},
    ),
}


def chart(name: str) -> bytes:
    """Return the SVG file of a chart."""
    return both_themes(CHARTS[name]())


def files() -> dict[str, bytes]:
    """Return file name to bytes of every chart."""
    return {f"{name}.svg": chart(name) for name in CHARTS}
