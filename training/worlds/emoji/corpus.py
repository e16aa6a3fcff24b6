"""The emoji world as training data, for the build of its base."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from transformers import CLIPTokenizer

from ...progress import ProgressBar
from ..pretrain.config import NetworkConfig, Sizes
from ..pretrain.corpus import Pictures
from ..pretrain.networks import LabelNet
from .captions import EVERYDAY, EmojiPrompt, Scene, base_caption, prompts, texts
from .choose import HERE, require_current
from .clip_tokenizer import VOCABULARY_SHA256, clip_tokenizer, clip_vocabulary
from .icon_judge import ICONS_NAME
from .icon_sets import IconSet
from .judge import EmojiJudge
from .matching import SIDE
from .packages import SOURCES
from .rejects import Studio
from .renders import cached_renders
from .scenes import Placement
from .settings import NETWORKS, PLACEMENT, SIZES, WHOLE
from .things import load_things
from .vocabulary import BACKGROUND_NAMES, STYLE_NAMES

_CHUNK = 2000


@dataclass(frozen=True)
class EmojiCorpus:
    """Rendered scenes with thing, drawing style and background as labels, and their captions.

    Args:
        studio: Things and rendered icons.
        words: Tokenizer of the captions.
        networks: Sizes of the networks of the base.
        sizes: Steps and batch sizes that make the base.
        origins: Facts on the sources for the record of the build.
        files: Texts of the files that ship with the base, by name.
        whole: Share of captions that state thing, style and background; the others state what their wording states.
    """

    studio: Studio
    words: CLIPTokenizer
    networks: NetworkConfig = NETWORKS
    sizes: Sizes = SIZES
    origins: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    whole: float = 0.0

    @classmethod
    def read(cls, sources: Path, work: Path, *, placement: Placement | None = None) -> EmojiCorpus:
        """Return the world of the packaged list of things.

        Args:
            sources: Folder of the packages that the world is made from.
            work: Folder that keeps the rendered icons.
            placement: Ranges of places, sizes and angles; None takes those of the world.

        Raises:
            IntegrityError: If a package is missing or another one, or if the list is not what the packages give.
        """
        require_current(sources)
        things = load_things()
        sets = {style: IconSet.read(sources, package) for style, package in SOURCES.icon_sets.items()}
        renders = cached_renders(work / "icons.safetensors", sets, things.wide.codes)
        studio = Studio(things, renders.ordered(things.codes), NETWORKS.side, placement or PLACEMENT)
        tokenizer = clip_tokenizer(clip_vocabulary(sources), positions=NETWORKS.positions)
        return cls(studio, tokenizer, origins=_origins(studio), files=_files(), whole=WHOLE)

    def pretraining(self) -> EmojiCorpus | None:
        """Return the world of all things, more differently placed; None if the base draws all things."""
        return self._wide

    @cached_property
    def _wide(self) -> EmojiCorpus | None:
        things = self.studio.things
        if not things.pretrained:
            return None
        wide = things.wide
        studio = Studio(wide, self.studio.renders.ordered(wide.codes), self.studio.side, Placement())
        return replace(self, studio=studio, origins={}, files={}, whole=0.0)

    @property
    def labels(self) -> Mapping[str, int]:
        """Number of values, by label."""
        return {"thing": len(self.studio.things.things), "style": len(STYLE_NAMES), "background": len(BACKGROUND_NAMES)}

    def pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n rendered pictures; equal seeds give equal pictures."""
        return _in_parts(self.studio.scenes, n, seed, "pictures")

    def reject_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures that lack a value of at least one label; equal seeds give equal pictures."""
        return _in_parts(self.studio.rejects, n, seed, "rejects")

    def unknown_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures of icons that no training shows; equal seeds give equal pictures."""
        return self.studio.unknown(n, Generator().manual_seed(seed))

    def undrawn_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures of things that only pretraining shows; none if there are no such things."""
        return self.studio.undrawn(n, Generator().manual_seed(seed))

    def captions(self, labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
        """Return a random caption for each row of labels (n, 3); a share ``empty`` of the captions is ""."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        return [
            "" if rng.random() < empty else base_caption(self._scene(row), rng, self.whole).text
            for row in labels.tolist()
        ]

    def _scene(self, row: Sequence[int]) -> Scene:
        thing, style, background = row
        return Scene(self.studio.things.things[thing], STYLE_NAMES[style], BACKGROUND_NAMES[background])

    def prompts(self, n: int, *, seed: int) -> Sequence[EmojiPrompt]:
        """Return n captions that call things by name, in held-out wordings; equal seeds give equal captions."""
        return prompts(self.studio.things, n, seed=seed)

    def prompt_sets(self, n: int, *, seed: int) -> Mapping[str, Sequence[EmojiPrompt]]:
        """Return n captions each with held-out names, and with names in everyday wordings that no training uses."""
        things = self.studio.things
        return {
            "held-out names": prompts(things, n, seed=seed + 1, words="unseen"),
            "everyday wordings": prompts(things, n, seed=seed + 2, frames=EVERYDAY["reported"]),
        }

    def reader(self, network: LabelNet, version: str) -> EmojiJudge:
        """Return a judge that uses a trained network; ``version`` names its weights."""
        return EmojiJudge(network, version, self.studio.things, self.studio.side)

    def tokenizer(self) -> CLIPTokenizer:
        """Return CLIP's tokenizer."""
        return self.words

    def texts(self) -> Iterable[str]:
        """Return texts that hold all words and punctuation marks of the captions."""
        return texts(self.studio.things)

    def sources(self) -> Mapping[str, Any]:
        """Return names and hashes of the packages, hashes of things and icons, and how the things are placed."""
        return self.origins

    def write_files(self, out: Path) -> None:
        """Write the list of things, the attributions, and the small icons that the judge without weights compares."""
        for name, text in self.files.items():
            (out / name).write_text(text, encoding="utf-8")
        self.studio.renders.shrunk(len(self.studio.things.things), SIDE).save(out / ICONS_NAME)


def _in_parts(make: Callable[[int, Generator], Pictures], n: int, seed: int, label: str) -> Pictures:
    """Return n pictures, made a part at a time."""
    generator = Generator().manual_seed(seed)
    starts = range(0, n, _CHUNK)
    with ProgressBar(starts, desc=label, disable=len(starts) < 4) as bar:
        parts = [make(min(_CHUNK, n - start), generator) for start in bar]
    return Pictures(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _origins(studio: Studio) -> dict[str, Any]:
    wide = studio.things.wide
    pictures = studio.renders.ordered(wide.codes).pictures.numpy().tobytes()
    return {
        "packages": {p.spec: {"integrity": p.integrity, "licence": p.licence} for p in SOURCES.packages},
        "vocabulary_sha256": VOCABULARY_SHA256,
        "things_sha256": hashlib.sha256(studio.things.to_json().encode()).hexdigest(),
        "icons_sha256": hashlib.sha256(pictures).hexdigest(),
        "placement": asdict(studio.placement),
        "whole_captions": WHOLE,
        "pretraining": {
            "things_sha256": hashlib.sha256(wide.to_json().encode()).hexdigest(),
            "placement": asdict(Placement()),
        },
    }


def _files() -> dict[str, str]:
    return {name: (HERE / name).read_text(encoding="utf-8") for name in ("things.json", "NOTICE")}
