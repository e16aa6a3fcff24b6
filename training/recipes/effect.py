"""How far a finished artifact moves captions of its concept that no training gave it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from robust_encoders.concepts import Concept
from robust_encoders.errors import RobustEncodersError

from ..attacks.common.seen_distance import energy
from ..diffusion.cross_attention import GramMatrix
from ..diffusion.two_encoders import backbone_of
from ..prompts.paraphrases import everyday_frames, framed
from ..prompts.retain import with_article

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

logger = logging.getLogger(__name__)
_FRAMES = 16
# Encoders of this package that erase their concept reach 1.4 and more; a closed form of a bare name, which left the
# concept in the pictures, reached 0.35.
_ENOUGH = 0.75


@torch.no_grad()
def moved_share(encoder: LoadedArtifact, pipe: Any, concept: Concept) -> float:
    """Return how far captions of a concept move, relative to the same captions with the concept's name left out.

    The distance is that of the UNet, see ``seen_distance``. It is 1 if a caption moves as far as to the caption without
    the name, and 0 if it does not move. The result is the median over 16 everyday wordings, which hardly any recipe
    trains on.

    Args:
        encoder: Artifact that changes what the text encoder gives to the UNet.
        pipe: Pipeline of its base; it stays unchanged.
        concept: Single concept.
    """
    component = encoder.manifest.component
    phrase = with_article(concept.name) if concept.kind == "object" else concept.name
    frames = everyday_frames()[:_FRAMES]
    named, bare = ([framed(frame, text) for frame in frames] for text in (phrase, ""))
    base = backbone_of(pipe, component)
    before, without = base.condition(named), base.condition(bare)
    with encoder.attached(pipe, allow_partial=True):
        after = backbone_of(pipe, component).condition(named)
    gram = GramMatrix.of(base.unet, None).gram
    shares = energy(after - before, gram) / energy(before - without, gram)
    return float(shares.median())


def warn_if_unmoved(encoder: LoadedArtifact, pipe: Any, concept: Concept) -> None:
    """Log a warning for each concept whose captions hardly move; artifacts of a UNet are not looked at."""
    if not encoder.manifest.component.startswith("text_encoder"):
        return
    for part in concept.parts or (concept,):
        try:
            share = moved_share(encoder, pipe, part)
        except (RobustEncodersError, RuntimeError, ValueError) as error:  # the artifact is saved; nothing may lose it
            logger.warning("captions of %r were not compared with the base's: %s", part.name, error)
            continue
        if not share >= _ENOUGH:  # also if it is not a number
            logger.warning(
                "expected captions of %r to move about as far as without its name (1) or further, found %.2f: pictures "
                "may still show it. Draw some, or evaluate. Remedy: captions of the concept (prompts), a method that "
                "trains, or more iterations",
                part.name,
                share,
            )
