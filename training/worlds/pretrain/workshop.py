"""The folder of a base's build in progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from robust_encoders.artifact.owned_file import read_owned

from . import stages as parts
from .config import Sizes
from .corpus import Corpus, Pictures, RejectingCorpus, SourcedCorpus, cached_pictures, new_judge, pretraining_of
from .networks import ImageTower, LabelNet, new_tower
from .stages import Course
from .unfinished import Sampler, joined, unfinished_pictures

STAGES = ("autoencoder", "text", "unet", "judge", "assemble")
PRETRAINED = ("autoencoder", "text")  # these stages learn the world of pretraining, where there is one
_REJECT_SEED = 10_000
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Workshop:
    """The folder of a build in progress, with the results of its finished stages.

    Args:
        corpus: World to build a base for.
        folder: Folder of pictures, checkpoints and finished weights.
        sizes: Steps and batch sizes.
        seed: Seed of every stage.
        within: End of the names of the files that hold pictures and latents.
    """

    corpus: Corpus
    folder: Path
    sizes: Sizes
    seed: int
    within: str = ""

    def pretraining(self) -> Workshop:
        """Return the same folder with the world of pretraining; itself if the world has none."""
        wide = pretraining_of(self.corpus)
        return self if wide is None else replace(self, corpus=wide, within="-pretraining")

    def require_same_sources(self) -> None:
        """Check that the folder was begun with the sources of the world, and note them in a new folder.

        Raises:
            ValueError: If it was begun with others.
        """
        if not isinstance(self.corpus, SourcedCorpus):
            return
        path, text = self.folder / "sources.json", json.dumps(dict(self.corpus.sources()), indent=2, sort_keys=True)
        if path.exists() and path.read_text() != text:
            raise ValueError(
                f"expected the sources that {path} notes, found others; choose another folder with --work, or delete "
                f"{self.folder}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pictures(self) -> Pictures:
        """Return the training pictures, which are rendered once and then stored."""
        return cached_pictures(self.folder / f"pictures{self.within}.safetensors", self._make)

    def latents(self) -> Tensor:
        """Return the scaled latents (N, 4, h, w) of the training pictures, which are encoded once and then stored.

        The file's name has the start of the sha256 of the autoencoder, so another autoencoder has its own latents.
        """
        encoder = read_owned(self.folder / "autoencoder" / "final.safetensors").sha256()[:12]
        path = self.folder / f"latents{self.within}-{encoder}.safetensors"
        if not path.exists():
            aside = path.with_suffix(".tmp")
            save_file({"latents": parts.encode_pictures(self.autoencoder(), self.pictures()).contiguous()}, aside)
            aside.replace(path)
        return read_owned(path).tensors["latents"]

    def _make(self) -> Pictures:
        return self.corpus.pictures(self.sizes.pictures, seed=self.seed)

    def rejects(self) -> Pictures | None:
        """Return pictures that lack a value, with unfinished samples among them; None if the judge cannot reject.

        They are made once and then stored. The seed differs from that of the training pictures.
        """
        corpus = self.corpus
        if not isinstance(corpus, RejectingCorpus):
            return None
        seed = self.seed + _REJECT_SEED
        return cached_pictures(
            self.folder / "rejects.safetensors",
            lambda: joined(
                corpus.reject_pictures(self.sizes.rejects, seed=seed),
                unfinished_pictures(self.sampler(), corpus, self.sizes.unfinished, seed=seed),
            ),
        )

    def sampler(self) -> Sampler:
        """Return the parts of the finished base that draw pictures."""
        encoder, tokenizer = self.text()[0], self.tokenizer()
        return Sampler(self.unet(), self.autoencoder(), lambda texts: encoder(parts.token_ids(tokenizer, texts))[0])

    def course(self, stage: str) -> Course:
        """Return the training data and the checkpoint folder of a stage."""
        return Course(self.corpus, self.pictures(), self.sizes, self.folder / stage, self.seed)

    def tokenizer(self) -> CLIPTokenizer:
        """Return the tokenizer; making it takes a second, so it is not stored."""
        return parts.new_tokenizer(self.corpus, seed=self.seed)

    def autoencoder(self) -> AutoencoderKL:
        """Return the finished autoencoder."""
        model = parts.new_autoencoder(self.corpus.networks)
        model.register_to_config(scaling_factor=self.record("autoencoder")["scaling_factor"])
        return self.restore(model, "autoencoder")

    def text(self) -> tuple[CLIPTextModel, ImageTower]:
        """Return the finished text encoder and image tower."""
        config = self.corpus.networks
        both = {"encoder": parts.new_text_encoder(self.tokenizer(), config), "tower": new_tower(config)}
        self.restore(nn.ModuleDict(both), "text")
        return both["encoder"], both["tower"]

    def unet(self) -> UNet2DConditionModel:
        """Return the finished UNet."""
        return self.restore(parts.new_unet(self.corpus.networks), "unet")

    def judge(self) -> LabelNet:
        """Return the finished judge."""
        return self.restore(new_judge(self.corpus), "judge")

    def has(self, stage: str) -> bool:
        """Return whether a stage is finished: its record is there."""
        return (self.folder / stage / "record.json").exists()

    def record(self, stage: str) -> dict[str, Any]:
        """Return the record of a finished stage.

        Raises:
            FileNotFoundError: If the stage has not run.
        """
        path = self.folder / stage / "record.json"
        if not self.has(stage):
            raise FileNotFoundError(f"expected a finished stage {stage!r} in {self.folder}, found none; run it first")
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored

    def restore(self, module: M, stage: str) -> M:
        """Load a finished stage's weights into ``module``, and return it frozen.

        Raises:
            FileNotFoundError: If the stage has not run.
        """
        self.record(stage)
        module.load_state_dict(read_owned(self.folder / stage / "final.safetensors").tensors)
        return module.eval().requires_grad_(False)

    def keep(self, stage: str, module: nn.Module, record: Mapping[str, Any]) -> None:
        """Store a stage's weights and then its record, which marks the stage as finished."""
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
        save_file(weights, folder / "final.tmp")
        (folder / "final.tmp").replace(folder / "final.safetensors")
        aside = folder / "record.tmp"
        aside.write_text(json.dumps(dict(record), indent=2))
        aside.replace(folder / "record.json")
