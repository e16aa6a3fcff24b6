"""Charts of the numbers that are recorded in ``studies/``. Every chart names its suite version."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from robust_encoders.training.reports.plots.figures import MARKERS
from robust_encoders.training.reports.plots.style import LIGHT, Draw, Theme, legend, percent, single, svg
from studies.methods.table import HERE as METHODS
from studies.methods.table import component_of, numbers, rows, version_of

from .svg import variables

STUDIES = METHODS.parent
_NAMES = {
    **{"ablation": "Ablating Concepts", "advunlearn": "AdvUnlearn", "advunlearn+surgery": "AdvUnlearn, surgery"},
    **{"base": "base", "doco": "DoCo", "esd": "ESD", "race": "RACE", "rece": "RECE", "receler": "Receler"},
    **{"spm": "SPM", "uce": "UCE"},
}
_COMPONENTS = {"base": "base", "text_encoder": "text encoder", "unet": "UNet"}


@dataclass(frozen=True)
class Dot:
    """A number with its interval.

    Args:
        row: Name of its row.
        group: Name of its colour and marker.
        value: Number.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    row: str
    group: str
    value: float
    low: float
    high: float


def both_themes(draw: Draw) -> bytes:
    """Return a figure as an SVG file with light and dark colours, chosen by the reader's screen."""
    text = svg(draw, LIGHT).decode()
    names = {LIGHT.paper: "paper", LIGHT.faint: "faint", LIGHT.ink: "ink"}
    names |= {colour: f"c{i}" for i, colour in enumerate(LIGHT.colours[:6])}
    for colour, name in names.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<defs>", f"{variables()}\n <defs>", 1).encode()


def dots(found: Sequence[Dot], title: str, *, groups: Sequence[str], log: bool = False) -> Draw:
    """Return a function that draws numbers in rows, those of one row below each other.

    Args:
        found: Numbers; rows stand in the order in which they occur, and numbers of a row in that of their groups.
        title: Lines above the chart.
        groups: Names in the order of their colours.
        log: True for numbers on a scale of powers of ten, false for rates.
    """
    places: dict[str, list[Dot]] = defaultdict(list)
    for dot in found:
        places[dot.row].append(dot)
    chart = _Dots(places, title, groups, log)
    return single(chart.paint, height=1.2 + 0.17 * sum(chart.lines(row) for row in places) + 0.14 * len(places))


@dataclass(frozen=True)
class _Dots:
    """One chart: rows of numbers, the lines above it, the names of the colours, and the kind of its scale."""

    places: Mapping[str, Sequence[Dot]]
    title: str
    groups: Sequence[str]
    log: bool

    def lines(self, row: str) -> int:
        """Return the height of a row, in numbers or lines of its name."""
        return max(len(self.places[row]), 1 + row.count("\n"))

    def paint(self, theme: Theme, axes: Axes) -> None:
        """Draw the chart."""
        y, ticks = 0.0, []
        for row, members in self.places.items():
            middle = y + (self.lines(row) - 1) / 2
            ticks.append((middle, row))
            for place, dot in enumerate(sorted(members, key=lambda dot: self.groups.index(dot.group))):
                self._number(theme, axes, dot, middle + place - (len(members) - 1) / 2)
            y += self.lines(row) - 0.1
            axes.axhline(y, color=theme.faint, linewidth=0.6)
            y += 0.9
        axes.set_yticks([place for place, _ in ticks], [row for _, row in ticks])
        axes.set_ylim(y - 0.9, -0.9)
        axes.tick_params(axis="y", length=0)
        self._scale(axes)
        self._names(theme, axes)

    def _number(self, theme: Theme, axes: Axes, dot: Dot, y: float) -> None:
        place, scale = self.groups.index(dot.group), 1 if self.log else 100
        look: dict[str, Any] = {"color": theme.colours[place], "clip_on": False, "zorder": 3}
        axes.plot([scale * dot.low, scale * dot.high], [y, y], linewidth=1.4, **look)
        axes.plot([scale * dot.value], [y], linestyle="none", marker=MARKERS[place], markersize=5, **look)

    def _scale(self, axes: Axes) -> None:
        if self.log:
            axes.set_xscale("log")
            axes.set_xlim(1_000, 1_000_000)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.minorticks_off()
            axes.grid(visible=False, axis="y")
        else:
            percent(axes, "x", "%")
            axes.set_xlim(-2, 102)

    def _names(self, theme: Theme, axes: Axes) -> None:
        used = {dot.group for members in self.places.values() for dot in members}
        for place, name in enumerate(self.groups):
            if name not in used:
                continue
            axes.plot([], [], linestyle="none", marker=MARKERS[place], color=theme.colours[place], label=name)
        legend(axes, columns=len(self.groups))
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.suptitle(self.title, x=0.01, horizontalalignment="left", fontsize=10)


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
    """Return the name of a method from that of a row, ``esd-unet-0``."""
    return _NAMES[row.rpartition("-")[0].removesuffix("-te").removesuffix("-unet")]


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


def second_suite() -> Draw:
    """Return a chart of the shipped encoder of ``circle`` and the base, suite version 2."""
    wanted = {
        **{"word_swap": "attack:\nword swap", "shared": "attack: shared\nembeddings"},
        **{"conditioning_inversion": "attack: embeddings\nas the prompt"},
        **{"everyday_factor": "kept: everyday\nwords, the shape", "retain_all": "kept: templates\nof the project"},
    }
    found: dict[str, list[Dot]] = defaultdict(list)
    for subject, kind in (("base", "base"), ("encoder", "shapes/circle"), ("empty_prompt", "empty prompt")):
        path = STUDIES / "second_suite" / "circle" / subject / "results.json"
        records = json.loads(path.read_text(encoding="utf-8"))["results"]
        assert version_of(records) == 2
        for record in records:
            name = (
                record["settings"].get("attack", {}).get("label") if record["metric"] == "asr_any" else record["metric"]
            )
            if name in wanted:
                found[name].append(Dot(wanted[name], kind, record["value"], *record["interval"]))
    chosen = [dot for name in wanted for dot in found[name]]
    title = "Prompts that attacks win, and prompts that are kept\ncircle, suite version 2, 95 % intervals"
    return dots(chosen, title, groups=["base", "shapes/circle", "empty prompt"])


CHARTS: Mapping[str, Callable[[], Draw]] = {
    "methods-tokens": lambda: of_methods("discrete", "Prompts that a search over tokens wins; lower is better"),
    "methods-embeddings": lambda: of_methods("continuous", "Prompts that free embeddings win; lower is better"),
    "methods-kept": lambda: of_methods("all kept", "Other prompts, all drawn as asked; higher is better"),
    "methods-costs": costs,
    "attack-in-the-loop": attack_in_the_loop,
    "withdrawn": withdrawn,
    "second-suite": second_suite,
}


def chart(name: str) -> bytes:
    """Return the SVG file of a chart."""
    return both_themes(CHARTS[name]())


def files() -> dict[str, bytes]:
    """Return file name to bytes of every chart."""
    return {f"{name}.svg": chart(name) for name in CHARTS}
