"""The distances of many prompts to a concept in the UNet's metric, in batches and in parts that a stopped run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...diffusion.backbone import Backbone
from ...progress import ProgressBar
from ..cache import Cache
from .config import CertificateConfig
from .prompts import ShortPrompts, texts_of


@dataclass(frozen=True)
class ConceptDistance:
    """The distance of a conditioning to the nearest of the concept's words, as the UNet sees it.

    It is ``seen_distance`` of ``attacks.common``, the sum of ``(a - b)^T G (a - b)`` over positions, relative to
    ``b^T G b``. Here b is the base's conditioning of a bare word of the concept, and the smallest over the words
    counts. With ``G = R^T R`` it is the squared distance of ``R a`` and ``R b``, which takes one product for all words.

    Args:
        root: Matrix R (D, D).
        wanted: Conditionings (W, L, D) of the words by the base, multiplied by R.
        lengths: Squared lengths (W,) of ``wanted``.
    """

    root: Tensor
    wanted: Tensor
    lengths: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, base: Backbone, words: Sequence[str]) -> ConceptDistance:
        """Return the distance to words of a concept on a base.

        Args:
            base: Base without an encoder.
            words: Words of the concept.
        """
        root = root_of(base.text_gram().cpu())
        wanted = base.condition(words).double().cpu() @ root.T
        place = base.text_encoder.device
        lengths = wanted.square().sum((1, 2))
        return cls(root.float().to(place), wanted.float().to(place), lengths.float().to(place))

    def __call__(self, conditioning: Tensor) -> Tensor:
        """Return the distances (B,) of conditionings (B, L, D)."""
        seen = conditioning.float() @ self.root.T
        each = [(seen - one).square().sum((1, 2)) / n for one, n in zip(self.wanted, self.lengths, strict=True)]
        return torch.stack(each).amin(0)


def root_of(gram: Tensor) -> Tensor:
    """Return a matrix R (D, D) in float64 with ``R^T R = G``, from the eigenvectors of G (D, D)."""
    values, vectors = torch.linalg.eigh(gram.double())
    root: Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root


@dataclass(frozen=True)
class Encoding:
    """The encoding of prompts by the attached encoder.

    Args:
        backbone: Pipeline's parts with the encoder attached.
        distance: Distance to the concept.
        cache: Finished parts.
        config: Sizes of batches and parts.
    """

    backbone: Backbone
    distance: ConceptDistance
    cache: Cache
    config: CertificateConfig

    def distances(self, prompts: ShortPrompts, places: range, title: str) -> Tensor:
        """Return the distances (N,) of prompts in float32, part by part; finished parts are read.

        Args:
            prompts: Prompts.
            places: Places of the N prompts to encode.
            title: Name of the parts and of the progress bar.
        """
        about, found = {"prompts": prompts.sha256}, []
        with ProgressBar(total=len(places), desc=f"encode {title}", unit="prompt") as bar:
            for start in range(0, len(places), self.config.part):
                part = places[start : start + self.config.part]
                asked = {**about, "from": part.start, "to": part.stop}
                make = partial(self._distances, prompts, part)
                found.append(self.cache.tensor(f"encoded-{title}-{start}", asked, make))
                bar.update(len(part))
        return torch.cat(found)

    @torch.no_grad()
    def _distances(self, prompts: ShortPrompts, places: range) -> Tensor:
        texts, parts = texts_of(self.backbone.tokenizer, prompts.ids(places)), []
        for start in range(0, len(texts), self.config.batch):
            conditioning = self.backbone.condition(texts[start : start + self.config.batch])
            parts.append(self.distance(conditioning).cpu())
        return torch.cat(parts)


def ranked(distances: Tensor) -> Tensor:
    """Return the places (N,) of prompts by distance (N,), the nearest first; equal distances keep their order."""
    return distances.argsort(stable=True)
