"""Facts about the bases inside the package: the one place from which cards, catalog, commands and pages take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EmbeddedFacts:
    """An embedded base in words.

    Args:
        name: Name of the base. It is the family in manifests, and the first part of the names of its encoders.
        draws: Things that the base draws, as in "a small base of coloured shapes".
        concept: Concept of the encoder that the demo and the page open with.
        prompt: Prompt that states this concept.
        kept: Prompt that states none of the concepts that encoders of this base erase.
        call: Python expression that returns the pipeline.
    """

    name: str
    draws: str
    concept: str
    prompt: str
    kept: str
    call: str

    @property
    def encoder(self) -> str:
        """Name of the encoder that the demo and the page open with."""
        return f"{self.name}/{self.concept}"

    @property
    def limit(self) -> str:
        """What numbers measured on the base do not say, in a sentence."""
        return f"The base is a small world of {self.draws}: none of its numbers is a Stable Diffusion number."


_FACTS = (
    EmbeddedFacts(
        name="shapes",
        draws="coloured shapes",
        concept="circle",
        prompt="a red circle on a white background",
        kept="a blue square",
        call="embedded_pipeline()",
    ),
    EmbeddedFacts(
        name="emoji",
        draws="emoji",
        concept="alcohol",
        prompt="a beer mug on a blue background",
        kept="a teacup on a white background",
        call='embedded_pipeline("emoji")',
    ),
)
# Remedy for a base, or an encoder of it, that the installed package lacks, for the end of an error message.
REINSTALL = "reinstall robust-encoders from a wheel"
# Name of an embedded base to its facts; the default base comes first.
EMBEDDED: Mapping[str, EmbeddedFacts] = {facts.name: facts for facts in _FACTS}
