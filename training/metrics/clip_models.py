"""Published CLIP models by Hub id: CLIP score, features for FID and KID, and PickScore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robust_encoders.artifact.fingerprint import tokenizer_fingerprint

from ..detectors.hub_models import Source, described, parts, pixel_values, weights_version
from ..types import Case, Result
from .clip_score import mean_score

PICK_MODEL, PICK_PROCESSOR = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class HubClip:
    """A CLIP model with its tokenizer and image processor; an instance can be called as the scorer of a ``ClipScore``.

    Prompts longer than the context of the model are truncated, as in the pipelines.

    Args:
        source: Folder, Hub id, or ``ORG/NAME@REVISION`` of the weights.
        processor: Folder or Hub id of tokenizer and image processor; empty if they are beside the weights.
        batch: Number of pictures or texts embedded at once; it changes a number only by rounding.
        device: Device of the model.

    Attributes:
        name: Hub id of the model, or the name of its folder.
        version: Hash of weights, tokenizer and preprocessing.

    Raises:
        ValueError: If ``batch`` is below 1.
        OSError: If there is no such model.
    """

    def __init__(
        self, source: str, *, processor: str = "", batch: int = 32, device: str | torch.device = "cpu"
    ) -> None:
        from transformers import AutoTokenizer, CLIPModel

        if batch < 1:
            raise ValueError(f"expected a batch of at least 1, found {batch}")
        place, beside = Source.parse(source), Source.parse(processor or source)
        self.processor = beside.processor()
        self.tokenizer = beside.load(AutoTokenizer)
        self.model = place.load(CLIPModel).to(device).eval()
        self.batch = batch
        self.name = place.name
        fingerprint = tokenizer_fingerprint(self.tokenizer).to_dict()
        self.version = weights_version(self.model, described(self.processor), fingerprint)

    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return cosine similarities (B,) between pictures (B, 3, H, W) in [0, 1] and their texts."""
        cosines: Tensor = (normalize(self.images(images), dim=1) * normalize(self.texts(texts), dim=1)).sum(1)
        return cosines

    def scaled(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosine similarities (B,) times the learned scale of the model."""
        scale: Tensor = self.model.logit_scale.detach().exp().float().cpu()
        return self(images, texts) * scale

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Return embeddings (B, F) of pictures (B, 3, H, W) in [0, 1] in the joint space, not normalised."""
        return torch.cat([self._images(images[part]) for part in parts(len(images), self.batch)])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (B, F) of texts in the joint space, not normalised."""
        return torch.cat([self._texts(texts[part]) for part in parts(len(texts), self.batch)])

    def _images(self, images: Tensor) -> Tensor:
        seen = pixel_values(self.processor, images).to(self.model.device)
        embedded: Tensor = self.model.visual_projection(self.model.vision_model(pixel_values=seen).pooler_output)
        return embedded.float().cpu()

    def _texts(self, texts: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        pooled = self.model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        embedded: Tensor = self.model.text_projection(pooled)
        return embedded.float().cpu()

    def record(self) -> dict[str, str]:
        """Return name and version of the model, for the settings of a result."""
        return {"scorer": self.name, "scorer_version": self.version}


class ClipFeatures:
    """CLIP's picture embeddings as features for FID and KID (Kynkäänniemi et al., ICLR 2023).

    FID and KID on these features are not comparable with values on Inception features. KID on these features also
    differs from CMMD (Jayasumana et al., CVPR 2024), which uses embeddings of unit length and another kernel.

    Args:
        clip: CLIP model that embeds the pictures.
    """

    def __init__(self, clip: HubClip) -> None:
        self.clip = clip
        self.name = f"clip/{clip.name}/{clip.version}"

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, F) of pictures (B, 3, H, W) in [0, 1]."""
        return self.clip.images(images)


class PickScore:
    """Mean score of a CLIP model trained on human preferences between two pictures; higher is better.

    Kirstain et al., "Pick-a-Pic", NeurIPS 2023: the cosine similarity of picture and prompt times the learned scale.
    Only differences between encoders on the same prompts are meaningful, not a score alone.

    Args:
        clip: CLIP model that scores; ``published`` loads the model of the authors.
    """

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self, clip: HubClip) -> None:
        self.clip = clip
        self.scores: list[float] = []

    @classmethod
    def published(cls, *, device: str | torch.device = "cpu") -> PickScore:
        """Return the metric with the authors' weights and the preprocessing of the model that they name for it."""
        return cls(HubClip(PICK_MODEL, processor=PICK_PROCESSOR, device=device))

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Score pictures (B, 3, H, W) in [0, 1] against the prompts of their ``cases``."""
        self.scores += self.clip.scaled(images, [case.prompt for case in cases]).double().tolist()

    def compute(self) -> Result:
        """Return the mean score with its 95 % interval under a normal distribution.

        Raises:
            ValueError: If fewer than two pictures were added, since no interval exists then.
        """
        return mean_score("pick_score", self.scores, self.clip.record())
