"""Checks of the slot itself: does the pipeline read what this encoder was trained to give?"""

from __future__ import annotations

from collections.abc import Mapping

from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility.facts import OTHER_BASE, Facts, config_of
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.slots import FIRST, OUTPUTS, SECOND, ReadOutput, reading_of

# Families of bases whose encoders are trained on one output. Of other families it is not known.
_LAST: tuple[str, ...] = ("sd1", "sd2", *EMBEDDED)
_TRAINED: Mapping[str, ReadOutput] = {**dict.fromkeys(_LAST, "last"), "sdxl": "last but one"}


def widths_beside(facts: Facts) -> dict[str, int]:
    """Return the widths of the encoders that stand beside an empty slot, by name; empty if the UNet reads one alone.

    Args:
        facts: Facts about an artifact and a pipeline.
    """
    if facts.unet is None:
        return {}
    numbered = [name for name in facts.others if name.startswith(FIRST)]
    widths = {name: config_of(part_of(facts.pipe, name)).get("hidden_size") for name in numbered}
    return {name: width for name, width in widths.items() if isinstance(width, int)}


def room(facts: Facts, beside: Mapping[str, int]) -> Check:
    """Check that the UNet has room for an encoder in an empty slot, beside the encoders that are there.

    The refiner of SDXL has an empty first slot, and its UNet reads the second encoder alone.

    Args:
        facts: Facts about an artifact and a pipeline with an empty slot.
        beside: Widths of the encoders beside it.
    """
    taken, found = facts.unet_config.get("cross_attention_dim"), facts.config["hidden_size"]
    left = taken - sum(beside.values()) if isinstance(taken, int) else None
    return Check(
        "width",
        left == found,
        "error",
        f"{left} (cross_attention_dim {taken} of the UNet, less {', '.join(f'{n} {w}' for n, w in beside.items())})",
        str(found),
        f"the UNet reads {', '.join(beside)} and has no room for this encoder, as in the refiner of SDXL; leave this "
        "slot empty, and use an artifact for the encoder that is there",
    )


def projection(facts: Facts) -> Check | None:
    """Check that an encoder with a projection gives a pooled vector of the same width as the replaced one."""
    expected, found = facts.original_config.get("projection_dim"), facts.config.get("projection_dim")
    if facts.manifest.component != SECOND or expected is None:
        return None
    return Check("projection", expected == found, "error", str(expected), str(found), OTHER_BASE)


def trained_on(manifest: Manifest) -> ReadOutput | None:
    """Return the output that a text encoder was trained on; None if that is not known of its family.

    Args:
        manifest: Manifest of the encoder.
    """
    return "last but one" if manifest.component == SECOND else _TRAINED.get(manifest.base.family)


def output(facts: Facts) -> Check | None:
    """Warn if the pipeline draws with another output of the encoder than the one that the encoder was trained on."""
    trained = trained_on(facts.manifest)
    read = reading_of(facts.pipe)
    if trained is None or read in ("unknown", trained):
        return None
    remedy = "the erasure was neither trained nor measured on that output; measure it on this pipeline"
    if read == "pooled":
        ways = " and ".join(facts.others) or "other ways"
        remedy = f"the words of a prompt reach the picture through {ways}; {remedy}"
    found = f"{OUTPUTS[read]} of {type(facts.pipe).__name__}"
    return Check("output", False, "warning", OUTPUTS[trained], found, remedy)
