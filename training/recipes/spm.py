"""Settings of SPM for the named recipes."""

from __future__ import annotations

from collections.abc import Mapping

from ..methods.spm import SPM, SPMTrainingConfig, Where
from ..trajectories.bank import BankConfig

SPM_NAMES: Mapping[Where, str] = {"unet": "spm", "text_encoder": "spm-te"}


def shapes_adapters(where: Where, retained: tuple[str, ...]) -> SPM:
    """Return the settings for a concept of the embedded base.

    Departures from the release: captions, not the bare word, are erased towards the same captions with the anchor in
    the concept's place; captions are anchored beside random conditionings; latents come from the bank; larger batches
    and rates, and fewer iterations.

    Args:
        where: The UNet or the text encoder.
        retained: Captions without the concept.
    """
    return SPM(
        where=where,
        batch=8,
        anchors=8,
        retain=retained,
        retain_batch=16,
        anchor_weight=10.0,
        rollout="bank",
        train=SPMTrainingConfig(iterations=300, rate=2e-3, warmup=25, cycles=1, precision="bf16"),
        bank=BankConfig(steps=20, limit=128),
    )
