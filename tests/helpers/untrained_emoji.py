"""An emoji base with all real things and the real networks, untrained, with icons of random pixels.

Its tokenizer knows bytes alone, because CLIP's vocabulary does not ship. So its prompts have more positions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_emoji import SIZES, VOCABULARY, VOCABULARY_SIZE
from torch import Generator

from robust_encoders.hub import embedded
from robust_encoders.training.worlds.emoji.clip_tokenizer import clip_tokenizer
from robust_encoders.training.worlds.emoji.corpus import EmojiCorpus
from robust_encoders.training.worlds.emoji.rejects import Studio
from robust_encoders.training.worlds.emoji.renders import Renders
from robust_encoders.training.worlds.emoji.scenes import Placement
from robust_encoders.training.worlds.emoji.settings import NETWORKS
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.emoji.vocabulary import STYLE_NAMES
from robust_encoders.training.worlds.pretrain import assemble as assembling
from robust_encoders.training.worlds.pretrain.build import build
from robust_encoders.training.worlds.pretrain.loop import Schedule
from robust_encoders.training.worlds.pretrain.workshop import STAGES, Workshop

POSITIONS = 192
_ONCE = Schedule(steps=1, rate=1e-3, every=1)
_SIZES = replace(SIZES, pictures=4, rejects=4, autoencoder=_ONCE, text=_ONCE, unet=_ONCE, judge=_ONCE)


def random_icons() -> Renders:
    """Return icons of all things, others and unknown ones, each a few blocks of random colours."""
    codes = load_things().codes
    shape = (len(codes), len(STYLE_NAMES), 4, 4, 4)
    small = torch.randint(256, shape, generator=Generator().manual_seed(0), dtype=torch.uint8)
    small[:, :, 3] = 255
    return Renders(small.repeat_interleave(8, 3).repeat_interleave(8, 4).contiguous(), codes, STYLE_NAMES)


def untrained_corpus() -> EmojiCorpus:
    """Return the world with its real things and networks, and one step for each stage."""
    networks = replace(NETWORKS, positions=POSITIONS)
    studio = Studio(load_things(), random_icons(), networks.side, Placement())
    tokenizer = clip_tokenizer(VOCABULARY, positions=POSITIONS, size=VOCABULARY_SIZE)
    return EmojiCorpus(studio, tokenizer, networks, _SIZES, {"packages": {"none": 1}}, {"NOTICE": "for the tests\n"})


def build_untrained(out: Path) -> Path:
    """Write the base, its judges and its image tower to a folder, and return it."""
    corpus = untrained_corpus()
    build(corpus, out, stages=STAGES[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembling, "measured", lambda *_, **__: {})  # it takes most of the time
        assembling.assemble(Workshop(corpus, out / "work", _SIZES, 0), out)
    return out


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the package find the emoji base in a folder."""
    packaged = embedded.embedded_folder
    placed: Any = lambda base: folder if base == "emoji" else packaged(base)  # noqa: E731
    patch.setattr(embedded, "embedded_folder", placed)


def remove(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the package find no emoji base: that of an empty folder."""
    install(folder / "nowhere", patch)
