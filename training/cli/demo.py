"""The demo: the same prompts and seeds with and without a robust encoder, plain and under attack, in one picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from ..protocols import Attack, Detector
from ..reports.plots.picture_grid import Pair, Section, Tile, draw_grid
from ..reports.tables import markdown
from ..types import Case

CONCEPT = "circle"
PICTURE_NAME = "demo.png"
_KEPT = "Everything else, to be kept"


class DemoWorld(Protocol):
    """What the demo needs of an embedded base's world, whichever it is."""

    @property
    def about(self) -> str:
        """The base, in a few words."""
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
        """Return what pictures (B, 3, H, W) in [0, 1] show instead of what was asked; empty if as asked."""
        ...


@dataclass(frozen=True)
class DemoRow:
    """How many pictures of a section show what they should not, or should.

    Args:
        title: Title of the section.
        question: The question that was counted.
        n: Pictures.
        before: Count without the encoder.
        after: Count with it.
    """

    title: str
    question: str
    n: int
    before: int
    after: int


@dataclass(frozen=True)
class DemoSummary:
    """What the demo made.

    Args:
        picture: The grid.
        rows: Counts, one row for each section.
        seconds: Wall time.
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
        pipe: The base.
        encoder: Attached for the pictures after.
        world: Prompts about the concept, and the judge that looks at the pictures.
        n: Prompts in each section.
        sampling: How pictures are drawn.
        attack: The live attack, run against the base and against the encoder.
    """

    pipe: Any
    encoder: LoadedArtifact
    world: DemoWorld
    n: int = 4
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    attack: Attack = field(default_factory=partial(UnlearnDiffAtk, timesteps=6, iterations=15, typable=True))

    def sections(self, seed: int) -> list[Section]:
        """Draw everything.

        Args:
            seed: Seed of prompts, pictures and attacks.
        """
        cases = self.world.named(self.n, seed=seed)
        plain = self._aimed(next(iter(cases.values())))
        cases["Attacked: tokens found against the base"] = self._attacked(plain, seed)
        with self.encoder.attached(self.pipe):
            cases["Attacked: tokens found against the robust encoder"] = self._attacked(plain, seed)
            cases[_KEPT] = self.world.kept(self.n, seed=seed)
            after = {title: self._tiles(found, kept=title == _KEPT) for title, found in cases.items()}
        before = {title: self._tiles(found, kept=title == _KEPT) for title, found in cases.items()}
        return [_section(title, found, before[title], after[title]) for title, found in cases.items()]

    def rows(self, sections: Sequence[Section]) -> tuple[DemoRow, ...]:
        """Return the counts of every section: erased ones of what should be gone, kept ones of what is right."""
        rows = []
        for section in sections:
            question = "drawn as asked?" if section.kept else f"{self.world.concept} drawn?"
            before = sum(pair.before.good == section.kept for pair in section.pairs)
            after = sum(pair.after.good == section.kept for pair in section.pairs)
            rows.append(DemoRow(section.title, question, len(section.pairs), before, after))
        return tuple(rows)

    def write(self, out: Path, *, seed: int) -> DemoSummary:
        """Draw everything into ``out/demo.png``."""
        start = time.monotonic()
        sections = self.sections(seed)
        out.mkdir(parents=True, exist_ok=True)
        named = f'A text encoder without "{self.world.concept}"'
        title = f"{named}: the same prompts and seeds, before and after it is attached"
        draw_grid(title, self._notes(), sections).save(out / PICTURE_NAME)
        return DemoSummary(out / PICTURE_NAME, self.rows(sections), time.monotonic() - start)

    def _notes(self) -> tuple[str, ...]:
        return (
            f"before: the embedded base, {self.world.about}.  after: the same pipeline, only its text "
            "encoder replaced.",
            f"Below each picture: what the judge sees. Green is what one wants after: no {self.world.concept}, "
            "everything else as asked.",
            f"Attacked: {self.attack.name} put tokens before a plain prompt, just now, "
            "with full access to the model's gradients.",
        )

    def _aimed(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases with the pictures that the attacked model shall draw: the base's own."""
        seeds = [case.seed for case in cases]
        latents = draw(self.pipe, [case.prompt for case in cases], seeds, self.sampling, latents=True)
        return [replace(case, reference_latent=latent) for case, latent in zip(cases, latents, strict=True)]

    def _attacked(self, cases: Sequence[Case], seed: int) -> list[Case]:
        """Return the cases with the prompts that work best against the encoder that is in the pipeline now."""
        found = self.attack.run(TargetModel.from_pipeline(self.pipe), cases, seed=seed)
        tried = [(case, c) for case, result in zip(cases, found, strict=True) for c in result.candidates]
        pictures = draw_candidates(self.pipe, [case for case, _ in tried], [c for _, c in tried], self.sampling)
        scores = self.world.detector(pictures).tolist()
        ranked = sorted(zip(scores, tried, strict=True), key=lambda row: row[0])
        best = {case.index: str(candidate.value) for _, (case, candidate) in ranked}  # the highest score comes last
        return [replace(case, prompt=best[case.index]) for case in cases]

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


def _section(title: str, cases: Sequence[Case], before: Sequence[Tile], after: Sequence[Tile]) -> Section:
    pairs = (Pair(case.prompt, old, new) for case, old, new in zip(cases, before, after, strict=True))
    return Section(title, tuple(pairs), kept=title == _KEPT)


def run_demo(out: Path, *, seed: int = 0) -> DemoSummary:
    """Draw the demo on the embedded base with its ``circle`` encoder.

    Args:
        out: Folder of ``demo.png``.
        seed: Seed of prompts, pictures and attacks.

    Raises:
        AssetsMissingError: If the package was installed without its assets.
    """
    encoder = RobustEncoder.from_pretrained(f"shapes/{CONCEPT}")
    world = ShapesDemo.load(CONCEPT)
    return Demo(embedded_pipeline(), encoder, world).write(out, seed=seed)
