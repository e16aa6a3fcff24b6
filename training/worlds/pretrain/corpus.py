"""Training data of an embedded base: labelled pictures and their captions.

A label is a property of a picture, such as its colour. Each label has a fixed number of values; K is the number of
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor
from transformers import CLIPTokenizer

from robust_encoders.artifact.owned_file import read_owned

from .config import NetworkConfig, Sizes
from .networks import LabelNet

# The label of a picture that no training counts, because a person would hesitate over it.
UNSTATED = -1


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 3, H, W), uint8, and their labels (N, K) as indices of values, some of them ``UNSTATED``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``n`` pictures (n, 3, H, W) in [0, 1], with their labels (n, K) and their indices (n,)."""
        indices = torch.randint(len(self), (n,), generator=generator)
        return self.images[indices].float() / 255, self.labels[indices], indices


class Prompt(Protocol):
    """A caption, and the label values that a faithful picture of it shows."""

    @property
    def text(self) -> str:
        """The caption."""
        ...

    @property
    def expected(self) -> Mapping[str, str]:
        """Values of the labels that the caption states, by label."""
        ...


class Reader(Protocol):
    """A judge that names the value of each label in a picture."""

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return probabilities (B, values), by label, for pictures (B, 3, H, W) in [0, 1]."""
        ...

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """Return B values, by label, for pictures (B, 3, H, W) in [0, 1]."""
        ...


class Corpus(Protocol):
    """A world of pictures and captions, as the build of its base needs it."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Number of values, by label, in the order of ``Pictures.labels``."""
        ...

    @property
    def networks(self) -> NetworkConfig:
        """Sizes of the networks of the base."""
        ...

    @property
    def sizes(self) -> Sizes:
        """Steps and batch sizes that make the base; ``build`` takes them unless others are given."""
        ...

    def pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures; equal seeds give equal pictures."""
        ...

    def captions(self, labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
        """Return a random caption for each row of labels (n, K); a share ``empty`` of the captions is ""."""
        ...

    def prompts(self, n: int, *, seed: int) -> Sequence[Prompt]:
        """Return n captions that no training uses, for measuring the base; equal seeds give equal captions."""
        ...

    def reader(self, network: LabelNet, version: str) -> Reader:
        """Return a judge that uses a trained network; ``version`` names its weights."""
        ...


@runtime_checkable
class PretrainedCorpus(Protocol):
    """A world whose autoencoder and text encoder learn a larger one, as CLIP knows more than Stable Diffusion draws."""

    def pretraining(self) -> Corpus | None:
        """Return the larger world, with the same tokenizer and networks; None if there is none."""
        ...


@runtime_checkable
class RejectingCorpus(Protocol):
    """A world whose judge can answer that a picture shows no value of a label; the answer follows the values."""

    def reject_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures that lack a value of at least one label; equal seeds give equal pictures."""
        ...


@runtime_checkable
class UnknownsCorpus(Protocol):
    """A world with pictures that lack a value and that no training of its judge uses."""

    def unknown_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures that lack a value in a way that no training shows; equal seeds give equal pictures."""
        ...


@runtime_checkable
class PromptSetsCorpus(Protocol):
    """A world whose base is measured on several sets of captions, such as names and keywords, apart."""

    def prompt_sets(self, n: int, *, seed: int) -> Mapping[str, Sequence[Prompt]]:
        """Return n captions of each set, by the set's name; equal seeds give equal captions."""
        ...


@runtime_checkable
class TokenizedCorpus(Protocol):
    """A world with a tokenizer of its own, many of whose tokens occur in no caption."""

    def tokenizer(self) -> CLIPTokenizer:
        """Return the tokenizer."""
        ...

    def texts(self) -> Iterable[str]:
        """Return texts that hold all words and punctuation marks of the captions."""
        ...


@runtime_checkable
class SourcedCorpus(Protocol):
    """A world that is made from files of others, whose names, hashes and licences ship with the base."""

    def sources(self) -> Mapping[str, Any]:
        """Return what the record of the build tells of these files, as JSON."""
        ...

    def write_files(self, out: Path) -> None:
        """Write the files that ship beside the base, such as attributions, to a folder."""
        ...


def pretraining_of(corpus: Corpus) -> Corpus | None:
    """Return the larger world that autoencoder and text encoder of a world learn; None if there is none."""
    return corpus.pretraining() if isinstance(corpus, PretrainedCorpus) else None


def judge_labels(corpus: Corpus) -> Mapping[str, int]:
    """Return the number of the judge's answers, by label: one more than there are values, if it can reject."""
    extra = 1 if isinstance(corpus, RejectingCorpus) else 0
    return {label: size + extra for label, size in corpus.labels.items()}


def random_labels(corpus: Corpus, n: int, generator: Generator) -> Tensor:
    """Return random labels (n, K); all values of a label are equally likely."""
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in corpus.labels.values()], dim=1)


def cached_pictures(path: Path, make: Callable[[], Pictures]) -> Pictures:
    """Load the pictures at ``path``; if there are none, make them and store them there first."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        save_file({"images": made.images, "labels": made.labels}, aside)
        aside.replace(path)
    stored = read_owned(path).tensors
    return Pictures(stored["images"], stored["labels"])


def new_judge(corpus: Corpus) -> LabelNet:
    """Return an untrained network for the judge of a world."""
    config = corpus.networks
    return LabelNet(judge_labels(corpus), config.judge_channels, config.side)
