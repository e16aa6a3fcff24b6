"""The demo: the same prompts and seeds with and without a robust encoder, plain and under attack, in one picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from robust_encoders.artifact.embedded_bases import EMBEDDED, EmbeddedFacts
from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.embedded import EMBEDDED_FAMILY, embedded_pipeline
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.home import expanded

from ..attacks import UnlearnDiffAtk
from ..diffusion.sampling import SamplingConfig, draw, draw_candidates
from ..diffusion.target import TargetModel
from ..evaluation.benchmarks.demos import DEMOS, DemoWorld, missing_for_demo
from ..metrics.rates import detect
from ..progress import ProgressBar, announce, duration, passed
from ..protocols import Attack
from ..reports.plots.picture_grid import Pair, Section, Tile, draw_grid, stacked
from ..reports.tables import markdown
from ..types import Case

PICTURE_NAME, STRIP_NAME = "demo.png", "demo-strip.png"
# Measured on one thread: an attack takes as long as this many rows of pictures.
_ATTACK = 12
_KEPT = "Everything else, to be kept"
_HEADINGS = ("A plain prompt", "A name unseen in training", "Under attack", "Something else")


@dataclass(frozen=True)
class DemoRow:
    """The counts of one section: pictures that show the concept, or pictures drawn as asked.

    Args:
        title: Title of the section.
        question: Question that is counted.
        n: Number of pictures.
        before: Number of pictures without the encoder for which the answer is yes.
        after: Number of pictures with the encoder for which the answer is yes.
        base: Name of the embedded base.
    """

    title: str
    question: str
    n: int
    before: int
    after: int
    base: str = ""


@dataclass(frozen=True)
class DemoSummary:
    """The result of the demo.

    Args:
        picture: Path of the grid of pictures.
        rows: Counts, one row for each section.
        seconds: Wall time in seconds.
    """

    picture: Path
    rows: tuple[DemoRow, ...]
    seconds: float

    @property
    def table(self) -> str:
        """The rows as a table that reads as plain text; with several bases, each row begins with its own."""
        head = ["prompts", "question", "before", "after"]
        cells = [[r.title, r.question, f"{r.before} of {r.n}", f"{r.after} of {r.n}"] for r in self.rows]
        if len({row.base for row in self.rows}) > 1:
            head, cells = ["base", *head], [[r.base, *row] for r, row in zip(self.rows, cells, strict=True)]
        return "\n".join([*markdown(head, cells), "", f"{self.picture} ({self.seconds:.0f} s)"])


@dataclass(frozen=True)
class DemoPart:
    """The demo of one base, drawn.

    Args:
        picture: All sections under a title.
        strip: One pair of four sections.
        rows: Counts, one row for each section.
    """

    picture: Image.Image
    strip: Image.Image
    rows: tuple[DemoRow, ...]


@dataclass(frozen=True)
class Demo:
    """The demo on any base, encoder and world.

    Args:
        pipe: Base pipeline.
        encoder: Encoder that is attached for the pictures after.
        world: Prompts about the concept, and the judge of the pictures.
        n: Number of prompts in each section.
        sampling: Sampling settings of all pictures.
        attack: Attack that runs during the demo, against the base and against the encoder.
    """

    pipe: Any
    encoder: LoadedArtifact
    world: DemoWorld
    n: int = 4
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    attack: Attack = field(default_factory=partial(UnlearnDiffAtk, timesteps=6, iterations=15, typable=True))

    def sections(self, seed: int) -> list[Section]:
        """Draw all sections and return them.

        Args:
            seed: Seed of prompts, pictures and attacks.
        """
        cases = self.world.named(self.n, seed=seed)
        n_sections = len(cases) + 3  # two under attack, one of kept prompts
        units = 1 + 2 * _ATTACK + 2 * n_sections
        start = time.monotonic()
        plain = self._aimed(next(iter(cases.values())))
        announce(f"demo: {n_sections} rows of pictures and 2 attacks, about {duration(units * passed(start))}")
        with ProgressBar(total=units, initial=1, desc="demo") as bar:
            cases["Attacked: tokens found against the base"] = self._attacked(plain, seed)
            bar.update(_ATTACK)
            with self.encoder.attached(self.pipe):
                cases["Attacked: tokens found against the robust encoder"] = self._attacked(plain, seed)
                bar.update(_ATTACK)
                cases[_KEPT] = self.world.kept(self.n, seed=seed)
                after = self._all_tiles(cases, bar)
            before = self._all_tiles(cases, bar)
        return [_section(title, found, before[title], after[title]) for title, found in cases.items()]

    def rows(self, sections: Sequence[Section]) -> tuple[DemoRow, ...]:
        """Return the counts of every section: pictures with the concept, or kept pictures drawn as asked."""
        rows = []
        for section in sections:
            question = "drawn as asked?" if section.kept else f"{self.world.concept} drawn?"
            before = sum(pair.before.good == section.kept for pair in section.pairs)
            after = sum(pair.after.good == section.kept for pair in section.pairs)
            rows.append(DemoRow(section.title, question, len(section.pairs), before, after, self.world.name))
        return tuple(rows)

    def drawn(self, seed: int) -> DemoPart:
        """Draw all sections into one picture, and one pair of four of them into another one.

        Args:
            seed: Seed of prompts, pictures and attacks.
        """
        sections = self.sections(seed)
        named = f'A text encoder without "{self.world.concept}"'
        title = f"{named}: the same prompts and seeds, before and after it is attached"
        picture = draw_grid(title, self._notes(), sections)
        return DemoPart(picture, draw_grid("", (), [strip(sections)]), self.rows(sections))

    def _notes(self) -> tuple[str, ...]:
        return (
            f"before: the embedded base {self.world.name}, {self.world.about}.  "
            "after: the same pipeline with the robust text encoder.",
            f"Below each picture: the verdict of the judge. Green is the wanted result after: no {self.world.concept}, "
            "everything else as asked.",
            f"Attacked: {self.attack.name} put tokens before a plain prompt during this demo, "
            "with full access to the model's gradients.",
        )

    def _aimed(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases with the base's own pictures, which the attack aims at."""
        seeds = [case.seed for case in cases]
        latents = draw(self.pipe, [case.prompt for case in cases], seeds, self.sampling, latents=True)
        return [replace(case, reference_latent=latent) for case, latent in zip(cases, latents, strict=True)]

    def _attacked(self, cases: Sequence[Case], seed: int) -> list[Case]:
        """Return the cases with the most successful prompts against the pipeline's current encoder."""
        found = self.attack.run(TargetModel.from_pipeline(self.pipe), cases, seed=seed)
        tried = [(case, c) for case, result in zip(cases, found, strict=True) for c in result.candidates]
        pictures = draw_candidates(self.pipe, [case for case, _ in tried], [c for _, c in tried], self.sampling)
        scores = self.world.detector(pictures).tolist()
        ranked = sorted(zip(scores, tried, strict=True), key=lambda row: row[0])
        best = {case.index: str(candidate.value) for _, (case, candidate) in ranked}  # the highest score comes last
        return [replace(case, prompt=best[case.index]) for case in cases]

    def _all_tiles(self, cases: Mapping[str, Sequence[Case]], bar: ProgressBar) -> dict[str, list[Tile]]:
        tiles = {}
        for title, found in cases.items():
            tiles[title] = self._tiles(found, kept=title == _KEPT)
            bar.update()
        return tiles

    def _tiles(self, cases: Sequence[Case], *, kept: bool) -> list[Tile]:
        pictures = draw(self.pipe, [c.prompt for c in cases], [c.seed for c in cases], self.sampling)
        return self._kept_tiles(pictures, cases) if kept else self._erased_tiles(pictures)

    def _erased_tiles(self, pictures: Tensor) -> list[Tile]:
        shown = detect(self.world.detector, pictures)
        words = (self.world.concept, f"no {self.world.concept}")
        return [Tile(p, words[0] if hit else words[1], not hit) for p, hit in zip(pictures, shown, strict=True)]

    def _kept_tiles(self, pictures: Tensor, cases: Sequence[Case]) -> list[Tile]:
        wrong = self.world.instead(pictures, cases)
        words = [f"not asked: {values}" if values else "as asked" for values in wrong]
        return [Tile(p, word, not values) for p, word, values in zip(pictures, words, wrong, strict=True)]


def strip(sections: Sequence[Section]) -> Section:
    """Return one row with a pair of the sections by usual names, by unseen ones, under attack, and of kept prompts.

    Args:
        sections: Sections of the demo. The first, the fourth from the end and the last two are shown, column i with the
            pair i of its section.

    Raises:
        ValueError: If there are fewer than four sections.
    """
    if len(sections) < len(_HEADINGS):
        raise ValueError(f"expected at least 4 sections, found {len(sections)}; pass all sections of the demo")
    chosen = (sections[0], sections[-4], *sections[-2:])
    pairs = (section.pairs[column % len(section.pairs)] for column, section in enumerate(chosen))
    return Section("", tuple(replace(pair, heading=words) for pair, words in zip(pairs, _HEADINGS, strict=True)))


def _section(title: str, cases: Sequence[Case], before: Sequence[Tile], after: Sequence[Tile]) -> Section:
    pairs = (Pair(case.prompt, old, new) for case, old, new in zip(cases, before, after, strict=True))
    return Section(title, tuple(pairs), kept=title == _KEPT)


def write_demos(demos: Sequence[Demo], out: str | Path, *, seed: int) -> DemoSummary:
    """Draw demos below each other into ``out/demo.png``, and the strip of the first one into ``out/demo-strip.png``.

    Args:
        demos: Demos of one base each, at least one.
        out: Folder of the two pictures.
        seed: Seed of prompts, pictures and attacks.
    """
    start, out = time.monotonic(), expanded(out)
    parts = [demo.drawn(seed) for demo in demos]
    out.mkdir(parents=True, exist_ok=True)
    stacked([part.picture for part in parts]).save(out / PICTURE_NAME)
    parts[0].strip.save(out / STRIP_NAME)
    rows = tuple(row for part in parts for row in part.rows)
    return DemoSummary(out / PICTURE_NAME, rows, time.monotonic() - start)


def run_demo(out: str | Path, *, seed: int = 0, bases: Sequence[str] = ()) -> DemoSummary:
    """Draw the demo on embedded bases, on each with the encoder that the package has for it.

    Args:
        out: Folder of ``demo.png`` and ``demo-strip.png``.
        seed: Seed of prompts, pictures and attacks.
        bases: Names of embedded bases; empty for all that are installed with an encoder.

    Raises:
        AssetsMissingError: If the package was installed without the assets of a base that is asked for, or of all.
    """
    return write_demos([_demo(EMBEDDED[base]) for base in bases or _complete()], out, seed=seed)


def _complete() -> Sequence[str]:
    """Return the embedded bases that have all that the demo needs, and say why others are left out."""
    missing = {base: missing_for_demo(base) for base in DEMOS}
    for base, reason in missing.items():
        if reason:
            announce(f"demo: without the base {base}, because {reason}")
    # Without any, the default base is asked for, which says how to get it.
    return [base for base, reason in missing.items() if not reason] or [EMBEDDED_FAMILY]


def _demo(facts: EmbeddedFacts) -> Demo:
    encoder = RobustEncoder.from_pretrained(facts.encoder)
    pipe = embedded_pipeline(facts.name)
    return Demo(pipe, encoder, DEMOS[facts.name](facts.concept, pipe))
