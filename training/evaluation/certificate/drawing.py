"""The pictures of chosen prompts, drawn and judged part by part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ...diffusion.sampling import draw
from ...progress import ProgressBar
from ...protocols import Detector
from ...types import Candidate, Case
from ..cache import Cache
from ..judged_pictures import PictureArchive
from ..judging import PictureJudge
from .config import TENTHS, CertificateConfig

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """Ranks of the prompts that are drawn, 0 for the nearest prompt. A prompt may stand in several samples.

    Args:
        nearest: Ranks of the nearest prompts.
        random: Ranks of a random sample of all prompts.
        tenths: Ranks of a random sample of each tenth of the ranking, the nearest tenth first.
    """

    nearest: tuple[int, ...]
    random: tuple[int, ...]
    tenths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, n: int, config: CertificateConfig) -> Samples:
        """Return the samples of a ranking of ``n`` prompts.

        Raises:
            ValueError: If there are fewer prompts than a sample needs.
        """
        smallest = n // TENTHS
        if problems := [
            f"{name} of at most {most} for {n} prompts, found {found}; lower --{name}"
            for name, found, most in (
                ("nearest", config.nearest, n),
                ("random", config.random, n),
                ("each", config.each, smallest),
            )
            if found > most
        ]:
            raise ValueError(f"expected {', and '.join(problems)}")
        generator = torch.Generator().manual_seed(config.seed)
        chosen = torch.randperm(n, generator=generator)[: config.random].tolist()
        ends = tenth_ends(n)
        tenths = []
        for start, stop in zip((0, *ends), ends, strict=False):
            picked = torch.randperm(stop - start, generator=generator)[: config.each] + start
            tenths.append(tuple(sorted(picked.tolist())))
        return cls(tuple(range(config.nearest)), tuple(sorted(chosen)), tuple(tenths))

    @property
    def all(self) -> list[int]:
        """Every rank once, the nearest first."""
        return sorted({*self.nearest, *self.random, *(rank for tenth in self.tenths for rank in tenth)})


def tenth_ends(n: int) -> tuple[int, ...]:
    """Return the first rank behind each tenth of a ranking of ``n`` prompts."""
    return tuple((i + 1) * n // TENTHS for i in range(TENTHS))


def picture_seed(seed: int, ids: Ids, picture: int) -> int:
    """Return the seed of a prompt's picture, which depends on the prompt and not on the samples that it stands in.

    Args:
        seed: Seed of the run.
        ids: Token ids of the prompt.
        picture: Number of the picture, counted from 0.
    """
    digest = hashlib.sha256(repr((seed, ids, picture)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def cases_of(prompts: Sequence[tuple[Ids, str]], seed: int, pictures: int) -> list[Case]:
    """Return one case for each picture of each prompt; those of a prompt follow each other.

    Args:
        prompts: Token ids and text of each prompt.
        seed: Seed of the run.
        pictures: Number of pictures of each prompt.
    """
    asked = [(text, picture_seed(seed, ids, j)) for ids, text in prompts for j in range(pictures)]
    return [Case(i, text, own) for i, (text, own) in enumerate(asked)]


@dataclass(frozen=True)
class Drawing:
    """The drawing of prompts by a pipeline in its present state.

    Args:
        pipe: Pipeline, with or without the encoder.
        detector: Detector of the concept.
        cache: Finished parts. Each has an archive with its pictures.
        config: Sampling, and size of the parts.
    """

    pipe: Any
    detector: Detector
    cache: Cache
    config: CertificateConfig

    def shown(self, cases: Sequence[Case], title: str) -> list[bool]:
        """Return one flag for each case, True if the detector finds the concept in its picture.

        Args:
            cases: Prompts with the seeds of their pictures.
            title: Name of the parts and of the progress bar.
        """
        found: list[bool] = []
        with ProgressBar(total=len(cases), desc=f"draw {title}", unit="picture") as bar:
            for start in range(0, len(cases), self.config.chunk):
                part = cases[start : start + self.config.chunk]
                found += self._part(f"drawn-{title}-{start}", part)
                bar.update(len(part))
        return found

    def _part(self, name: str, cases: Sequence[Case]) -> list[bool]:
        asked = {"prompts": [[case.prompt, case.seed] for case in cases], "sampling": asdict(self.config.sampling)}
        return [bool(one["hit"]) for one in self.cache.get(name, asked, partial(self._judged, name, cases))["pictures"]]

    def _judged(self, name: str, cases: Sequence[Case]) -> dict[str, Any]:
        texts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        drawn = draw(self.pipe, texts, seeds, self.config.sampling)
        plain = [Candidate("text", text, 0) for text in texts]
        with PictureArchive(self.cache.folder / f"{name}.zip") as archive:
            judge = PictureJudge(self.detector, archive)
            return {"pictures": [asdict(one) for one in judge.judge(cases, plain, [0] * len(cases), drawn)]}
