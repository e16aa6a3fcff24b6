"""What the compatibility checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from robust_encoders.artifact.fingerprint import Sketch, TokenizerFingerprint, sketch, tokenizer_fingerprint
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.compatibility.report import Check, verdict
from robust_encoders.pipeline.textual_inversion import carried_rows, first_rows, learned_tokens

OTHER_BASE = "load the base that the encoder was made for (manifest.base), or an encoder made for this base"


@dataclass(frozen=True)
class Facts:
    """What the checks look at.

    Args:
        pipe: The pipeline.
        manifest: Of the encoder.
        config: Of the encoder.
        current: What is in the pipeline's slot now, uncompiled; None where it is empty.
        original: What was there before any robust encoder; the same as ``current`` if none is attached.
        others: Names of the pipeline's other text encoders.
        allow_partial: Whether the caller accepts that these stay as they are.
    """

    pipe: Any
    manifest: Manifest
    config: Mapping[str, Any]
    current: Any
    original: Any
    others: tuple[str, ...]
    allow_partial: bool

    @property
    def slot_tokenizer(self) -> Any:
        """What is in the tokenizer's slot, or None."""
        return getattr(self.pipe, self.manifest.component.replace("text_encoder", "tokenizer"), None)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the slot; None if there is none, or something else, as in pipelines with a processor."""
        from transformers import PreTrainedTokenizerBase

        found = self.slot_tokenizer
        return found if isinstance(found, PreTrainedTokenizerBase) else None

    @cached_property
    def words(self) -> TokenizerFingerprint | None:
        """The fingerprint of that tokenizer."""
        return None if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer)

    @property
    def learned(self) -> tuple[str, ...]:
        """Tokens beyond the encoder's vocabulary, of textual inversion."""
        return learned_tokens(self.tokenizer, self.config["vocab_size"])

    @property
    def carried(self) -> int:
        """How many learned vectors the encoder would take over."""
        return carried_rows(self.tokenizer, self.current, self.config["vocab_size"])

    @cached_property
    def original_sketch(self) -> Sketch:
        """Of what was there before any robust encoder, without token embeddings beyond the encoder's vocabulary."""
        return sketch(first_rows(nested_state(self.original), self.config["vocab_size"]))

    @property
    def unet(self) -> Any:
        """The UNet, or None."""
        return getattr(self.pipe, "unet", None)


def unknown(name: str) -> Check:
    """Return the warning that the manifest records nothing to compare with."""
    return verdict(
        name, False, "a recorded one", "none in the manifest", "ask the publisher to record it", severity="warning"
    )
