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
    """A CLIP model with its tokenizer and image processor; called, it is the scorer of a ``ClipScore``.

    Prompts longer than the model's context are cut at its end, as the pipelines do.

    Args:
        source: Folder, Hub id, or ``ORG/NAME@REVISION``.
        processor: Where tokenizer and image processor lie, if not beside the weights.
        batch: Pictures looked at at once; no number depends on it beyond rounding.
        device: Of the model.

    Attributes:
        name: Hub id, or the folder's name.
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
        """Return cosines (B,) of pictures (B, 3, H, W) in [0, 1] and their texts."""
        cosines: Tensor = (normalize(self.images(images), dim=1) * normalize(self.texts(texts), dim=1)).sum(1)
        return cosines

    def scaled(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosines (B,) times the model's own learned scale."""
        scale: Tensor = self.model.logit_scale.detach().exp().float().cpu()
        return self(images, texts) * scale

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Return embeddings (B, F) of pictures (B, 3, H, W) in [0, 1] in the joint space, at their own length."""
        return torch.cat([self._images(images[part]) for part in parts(len(images), self.batch)])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (B, F) of texts in the joint space, at their own length."""
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
        """Return name and version for a result's settings."""
        return {"scorer": self.name, "scorer_version": self.version}


class ClipFeatures:
    """CLIP's picture embeddings as features of FID and KID (Kynkäänniemi et al., ICLR 2023).

    Figures on them are not comparable with those on Inception's features. CMMD (Jayasumana et al., CVPR 2024) takes
    embeddings of unit length under another kernel; it is not KID on these either.

    Args:
        clip: The model.
    """

    def __init__(self, clip: HubClip) -> None:
        self.clip = clip
        self.name = f"clip/{clip.name}/{clip.version}"

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, F) of pictures (B, 3, H, W) in [0, 1]."""
        return self.clip.images(images)


class PickScore:
    """Metric: mean score of a CLIP trained on which of two pictures people preferred, with the interval of the mean.

    Kirstain et al., "Pick-a-Pic", NeurIPS 2023: the cosine of picture and prompt times the learned scale.
    Differences between encoders on the same prompts mean something; a score alone does not.

    Args:
        clip: The model; ``published`` loads the authors'.
    """

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self, clip: HubClip) -> None:
        self.clip = clip
        self.scores: list[float] = []

    @classmethod
    def published(cls, *, device: str | torch.device = "cpu") -> PickScore:
        """Return the metric with the authors' weights; their repository names another one for the preprocessing."""
        return cls(HubClip(PICK_MODEL, processor=PICK_PROCESSOR, device=device))

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Score pictures (B, 3, H, W) in [0, 1] against the prompts of their ``cases``."""
        self.scores += self.clip.scaled(images, [case.prompt for case in cases]).double().tolist()

    def compute(self) -> Result:
        """Return the mean with its normal 95 % interval.

        Raises:
            ValueError: If fewer than two pictures were seen: there is no interval then.
        """
        return mean_score("pick_score", self.scores, self.clip.record())
