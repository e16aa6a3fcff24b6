"""Identity of a training run, and the record of a finished one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from torch import Generator

from robust_encoders.artifact.fingerprint import content_sha256

from ..diffusion.backbone import Backbone, Precision, computes_bf16_in_fp32
from ..provenance import describe
from .checkpoint import TrainingLog

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


def run_identity(method: Any, teacher: Backbone, concept: Concept, generator: Generator) -> str:
    """Return an identity for a run, a hash that is equal for runs with equal results.

    Args:
        method: Method with its settings, all of which enter the identity.
        teacher: Base of the run.
        concept: Concept to erase.
        generator: Generator in the state at the start of the run.
    """
    parts = {
        "method": describe(method),
        "concept": concept.to_dict(),
        "text_encoder": content_sha256(teacher.text_encoder.state_dict()),
        "unet": content_sha256(teacher.unet.state_dict()),
        "generator": hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest(),
    }
    if teacher.beside:
        parts["beside"] = [content_sha256(one.state_dict()) for one in teacher.beside]
    if computes_bf16_in_fp32(teacher.device):
        parts["bf16"] = "fp32"
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def run_record(
    log: TrainingLog, calls: int, bank_calls: int, *, seconds: float, precision: Precision
) -> dict[str, Any]:
    """Return the record of a finished run, for the artifact's recipe.

    Args:
        log: Losses of the run and seconds of its loop.
        calls: Number of UNet calls of the training.
        bank_calls: Number of UNet calls of the trajectory bank.
        seconds: Wall time of the whole run in seconds.
        precision: Precision that the UNet computed in.
    """
    return {
        "losses": log.curves(),
        "unet_calls": calls,
        "bank_unet_calls": bank_calls,
        "computed_in": precision,
        "seconds": round(log.seconds, 1),
        "seconds_total": round(seconds, 1),
    }
