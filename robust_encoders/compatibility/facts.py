"""What the compatibility checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from robust_encoders.artifact.fingerprint import Sketch, TokenizerFingerprint, sketch, tokenizer_fingerprint
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.bypass import other_text_encoders
from robust_encoders.pipeline.textual_inversion import first_rows, highest_id, inversion_rows, inversion_tokens

OTHER_BASE = "load the base that the encoder was made for (manifest.base), or an encoder made for this base"


@dataclass(frozen=True)
class Facts:
    """What the checks look at.

    Args:
        pipe: Pipeline that is asked about.
        manifest: Manifest of the artifact.
        config: Configuration of the encoder.
        current: Encoder in the pipeline's slot now, uncompiled; None where it is empty.
        original: Encoder there before any robust encoder; the same as ``current`` if none is attached.
        allow_partial: Whether the caller accepts that other text encoders stay as they are.
        others: Names of the pipeline's other text encoders.
        original_config: Configuration of the original encoder; empty where it has none.
        unet: UNet of the pipeline, or None.
        unet_config: Configuration of the UNet; empty where it has none.
        slot_tokenizer: Object in the tokenizer's slot, or None.
        tokenizer: The same if it is a tokenizer; None otherwise, as in pipelines with a processor.
    """

    pipe: Any
    manifest: Manifest
    config: Mapping[str, Any]
    current: Any
    original: Any
    allow_partial: bool
    others: tuple[str, ...]
    original_config: Mapping[str, Any]
    unet: Any
    unet_config: Mapping[str, Any]
    slot_tokenizer: Any
    tokenizer: Any

    @classmethod
    def gather(
        cls, pipe: Any, manifest: Manifest, config: Mapping[str, Any], *, current: Any, original: Any, partial: bool
    ) -> Facts:
        """Look up what every pipeline can be asked; the rest is computed for the questions that need it."""
        from transformers import PreTrainedTokenizerBase

        unet = getattr(pipe, "unet", None)
        slot_tokenizer = getattr(pipe, manifest.component.replace("text_encoder", "tokenizer"), None)
        return cls(
            pipe=pipe,
            manifest=manifest,
            config=config,
            current=current,
            original=original,
            allow_partial=partial,
            others=other_text_encoders(pipe, manifest.component),
            original_config=config_of(original),
            unet=unet,
            unet_config=config_of(unet),
            slot_tokenizer=slot_tokenizer,
            tokenizer=slot_tokenizer if isinstance(slot_tokenizer, PreTrainedTokenizerBase) else None,
        )

    @cached_property
    def words(self) -> TokenizerFingerprint | None:
        """Fingerprint of the tokenizer."""
        return None if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer)

    @cached_property
    def needed_rows(self) -> int:
        """Number of token embeddings that the tokenizer needs of the encoder itself."""
        return 1 - self.inversion_rows + highest_id(self.tokenizer)

    @property
    def inversion_tokens(self) -> tuple[str, ...]:
        """Tokens of textual inversion, beyond the encoder's vocabulary."""
        return inversion_tokens(self.tokenizer, self.config["vocab_size"])

    @cached_property
    def inversion_rows(self) -> int:
        """Number of vectors of textual inversion that the encoder would take over."""
        return inversion_rows(self.tokenizer, self.current, self.config["vocab_size"])

    @cached_property
    def original_sketch(self) -> Sketch:
        """Sketch of the original encoder, without token embeddings beyond the encoder's vocabulary."""
        return sketch(first_rows(nested_state(self.original), self.config["vocab_size"]))


def config_of(module: Any) -> Mapping[str, Any]:
    """Return a component's configuration as a mapping; empty where it has none."""
    config = getattr(module, "config", None)
    if config is None:
        return {}
    found: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return found


def unknown(name: str) -> Check:
    """Return the warning that the manifest records nothing to compare with."""
    return Check(
        name,
        False,
        "warning",
        "a recorded one",
        "none in the manifest",
        "ask the publisher to record it",
    )
