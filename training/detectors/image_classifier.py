"""A published image classifier as a detector of one of its classes, for example an object or an art style."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

import torch
from torch import Tensor

from .hub_models import Source, described, parts, pixel_values, weights_version

_SHOWN = 5


class ImageClassifier:
    """Detector that scores one class of an image classifier, by its rank among all classes or by its probability.

    UnlearnDiffAtk (Zhang et al., ECCV 2024) judges objects by the first choice of a ResNet-50 on ImageNet
    (``microsoft/resnet-50``), and styles by the first choice of a ViT with 129 classes. Its analysis also offers the
    first three choices.

    Without ``threshold``, the score is the logit of the class minus the ``top``-th highest of all logits, and the
    threshold is 0. So a picture counts exactly if the class is among the first ``top`` choices. With ``threshold``, the
    score is the softmax probability of the class.

    Args:
        source: Folder, Hub id, or ``ORG/NAME@REVISION``, with weights and an image processor.
        label: Class to detect: its whole label, one of several names within the label (ImageNet's "church, church
            building"), or its number. Upper and lower case, hyphens and underscores do not matter.
        top: Number of first choices that the class must be among; 1 by default.
        threshold: Smallest probability at which the class counts as present; it replaces ``top``.
        batch: Number of pictures judged at once; it changes a score only by rounding.
        device: Device of the classifier.

    Raises:
        ValueError: If both ``top`` and ``threshold`` are given, if either is out of range, or if ``label`` does not
            name exactly one class.
        OSError: If there is no such classifier.
    """

    def __init__(
        self,
        source: str,
        label: str,
        *,
        top: int | None = None,
        threshold: float | None = None,
        batch: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        from transformers import AutoModelForImageClassification

        _refuse(top, threshold, batch)
        place = Source.parse(source)
        self.processor = place.processor()
        self.model = place.load(AutoModelForImageClassification).to(device).eval()
        names = {int(index): str(name) for index, name in self.model.config.id2label.items()}
        self.index = find_class(names, label, place.name)
        self.top = _top(top, len(names)) if threshold is None else None
        self.batch = batch
        rule = "probability" if self.top is None else f"top-{self.top}"
        self.name = f"{place.name}/{names[self.index]}/{rule}"
        self.version = weights_version(self.model, described(self.processor), self.index)
        self.threshold = 0.0 if threshold is None else threshold

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (B,) of pictures (B, 3, H, W) in [0, 1]."""
        logits = torch.cat([self.logits(images[part]) for part in parts(len(images), self.batch)])
        if self.top is None:
            return logits.softmax(1)[:, self.index]
        return logits[:, self.index] - logits.topk(self.top, dim=1).values[:, -1]

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of one batch of pictures (B, 3, H, W) in [0, 1], on the CPU."""
        seen = pixel_values(self.processor, images).to(self.model.device)
        logits: Tensor = self.model(pixel_values=seen).logits
        return logits.float().cpu()


def _refuse(top: int | None, threshold: float | None, batch: int) -> None:
    if top is not None and threshold is not None:
        raise ValueError(f"expected top or threshold, found top={top} and threshold={threshold}: give only one of them")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(
            f"expected a threshold in (0, 1], found {threshold}; at 0 every picture would count as a detection"
        )
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1, found {batch}")


def _top(top: int | None, classes: int) -> int:
    chosen = 1 if top is None else top
    if not 1 <= chosen < classes:
        raise ValueError(
            f"expected top between 1 and {classes - 1} for {classes} classes, found {top}: choose another number"
        )
    return chosen


def find_class(names: Mapping[int, str], label: str, model: str) -> int:
    """Return the number of the class that ``label`` names.

    A match with a whole label has priority over a match with a name within a label, and over a class number.

    Args:
        names: Label of each class, by class number.
        label: Label, name within a label, or class number to find.
        model: Name of the classifier, for the error message.

    Raises:
        ValueError: If no class fits, with similar labels in the message; or if several classes fit, with all of them.
    """
    wanted = _plain(label)
    whole = [index for index, name in names.items() if _plain(name) == wanted]
    within = [index for index, name in names.items() if wanted in map(_plain, name.split(","))]
    numbered = [int(wanted)] if wanted.isdecimal() and int(wanted) in names else []
    found = whole or within or numbered
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{index} ({names[index]})" for index in found)
        raise ValueError(f"expected one class of {model} called {label!r}, found {several}: give its number")
    raise ValueError(f"expected a class of {model}, found {label!r}; {_near(names, wanted)}")


def _near(names: Mapping[int, str], wanted: str) -> str:
    known = {_plain(part): name for name in names.values() for part in (name, *name.split(","))}
    close = [*get_close_matches(wanted, known, n=_SHOWN), *(name for name in known if wanted and wanted in name)]
    labels = list(dict.fromkeys(known[name] for name in close))[:_SHOWN]
    return f"similar labels: {'; '.join(labels)}" if labels else f"none of its {len(names)} labels is similar to it"


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()
