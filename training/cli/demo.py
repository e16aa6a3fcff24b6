"""The demo: the same prompts and seeds with and without a robust encoder, plain and under attack, in one picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from robust_encoders.encoder import RobustEncoder
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.loaded import LoadedArtifact

from ..attacks import UnlearnDiffAtk
from ..diffusion.sampling import SamplingConfig, draw, draw_candidates
from ..diffusion.target import TargetModel
from ..evaluation.benchmarks.shapes_demo import ShapesDemo
from ..metrics.rates import detect
from ..progress import ProgressBar, announce, duration, passed
from ..protocols import Attack, Detector
from ..reports.plots.picture_grid import Pair, Section, Tile, draw_grid
from ..reports.tables import markdown
from ..types import Case

CONCEPT = "circle"
PICTURE_NAME, STRIP_NAME = "demo.png", "demo-strip.png"
# Measured on one thread: an attack takes as long as this many rows of pictures.
_ATTACK = 12
_KEPT = "Everything else, to be kept"
_HEADINGS = ("The concept by its name", "An unseen synonym", "Under attack", "Another concept")


class DemoWorld(Protocol):
    """Protocol of the embedded base's world for the demo: prompts about a concept, and a judge."""

    @property
    def about(self) -> str:
        """Description of the base in a few words."""
        ...

    @property
    def concept(self) -> str:
        """Name of the concept."""
        ...

    @property
    def detector(self) -> Detector:
        """Detector of the concept."""
        ...

    def named(self, n: int, *, seed: int) -> dict[str, list[Case]]:
        """Return title to ``n`` cases that state the concept, plain prompts first."""
        ...

    def kept(self, n: int, *, seed: int) -> list[Case]:
        """Return ``n`` cases that do not state the concept."""
        ...

    def instead(self, images: Tensor, cases: Sequence[Case]) -> Sequence[str]:
        """Return what pictures (B, 3, H, W) in [0, 1] show instead of the requested values; empty if as requested."""
        ...


@dataclass(frozen=True)
class DemoRow:
    """The counts of one section: pictures that show the concept, or pictures drawn as asked.

    Args:
        title: Title of the section.
        question: Question that is counted.
        n: Number of pictures.
        before: Number of pictures without the encoder for which the answer is yes.
        after: Number of pictures with the encoder for which the answer is yes.
    """

    title: str
    question: str
    n: int
    before: int
    after: int


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
        """The rows as a table that reads as plain text."""
        head = ["prompts", "question", "before", "after"]
        cells = [[r.title, r.question, f"{r.before} of {r.n}", f"{r.after} of {r.n}"] for r in self.rows]
        return "\n".join([*markdown(head, cells), "", f"{self.picture} ({self.seconds:.0f} s)"])


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
            rows.append(DemoRow(section.title, question, len(section.pairs), before, after))
        return tuple(rows)

    def write(self, out: Path, *, seed: int) -> DemoSummary:
        """Draw all sections into ``out/demo.png``, and one pair of four of them into ``out/demo-strip.png``."""
        start = time.monotonic()
        sections = self.sections(seed)
        out.mkdir(parents=True, exist_ok=True)
        named = f'A text encoder without "{self.world.concept}"'
        title = f"{named}: the same prompts and seeds, before and after it is attached"
        draw_grid(title, self._notes(), sections).save(out / PICTURE_NAME)
        draw_grid("", (), [strip(sections)]).save(out / STRIP_NAME)
        return DemoSummary(out / PICTURE_NAME, self.rows(sections), time.monotonic() - start)

    def _notes(self) -> tuple[str, ...]:
        return (
            f"before: the embedded base, {self.world.about}.  after: the same pipeline with the robust text encoder.",
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
    """Return one row with a pair of the sections by name, of an unseen synonym, under attack, and of kept prompts.

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


def run_demo(out: Path, *, seed: int = 0) -> DemoSummary:
    """Draw the demo on the embedded base with its ``circle`` encoder.

    Args:
        out: Folder of ``demo.png`` and ``demo-strip.png``.
        seed: Seed of prompts, pictures and attacks.

    Raises:
        AssetsMissingError: If the package was installed without its assets.
    """
    encoder = RobustEncoder.from_pretrained(f"shapes/{CONCEPT}")
    world = ShapesDemo.load(CONCEPT)
    return Demo(embedded_pipeline(), encoder, world).write(out, seed=seed)
